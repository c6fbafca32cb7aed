//! Ours and Mosquitto in turn, several rounds. What is told is the median of the rounds' ratios: a machine that is busier in one
//! round than in another shows in the figures and not in the ratio.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::bench::broker::flow;
use crate::bench::broker::flow::Flow;
use crate::bench::broker::flow::Load;
use crate::bench::broker::flow::Writes;
use crate::bench::broker::pace;
use crate::bench::broker::server::Server;
use crate::bench::broker::server::Which;
use crate::bench::line::Spread;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Of one cell of one broker.
    pub span: Duration,
    /// In turn.
    pub rounds: usize,
}

/// Every load that is compared.
pub fn loads() -> impl Iterator<Item = Load> {
    let all = [Writes::Runs, Writes::Single].into_iter();
    let all = all.flat_map(|writes| [1, 10].map(|pairs| (writes, pairs)));
    all.flat_map(|(writes, pairs)| (0..=2).map(move |qos| Load { pairs, qos, writes }))
}

/// Every pace that is compared: QoS and messages a second.
pub fn paces() -> impl Iterator<Item = (u8, u32)> {
    (0..=2).flat_map(|qos| [(qos, 400), (qos, 1000)])
}

/// Two figures of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Both {
    /// Median of ours.
    pub ours: f64,
    /// Median of Mosquitto's.
    pub theirs: f64,
    /// Median of the rounds' ratios, ours by Mosquitto's.
    pub ratio: f64,
}

/// One load's result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Messages a second.
    pub rate: Both,
    /// Microseconds of processor a message.
    pub cpu: Both,
    /// The generator's share of a core.
    pub own: Both,
    /// Lost, doubled or out of order with ours, all rounds.
    pub missed: u64,
    /// The same with Mosquitto.
    pub their_missed: u64,
}

/// One pace's result, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delays {
    /// Half are quicker.
    pub median: Both,
    /// One in a hundred is slower.
    pub p99: Both,
}

/// Runs one load in turn.
pub fn rates(program: &Path, folder: &Path, load: Load, effort: Effort) -> io::Result<Rates> {
    let rounds =
        in_turn(program, folder, effort, |server| flow::run(server.address, load, effort.span, || server.used()))?;
    let missed = |flow: &Flow| flow.lost + flow.wrong;
    Ok(Rates {
        rate: both(&rounds, |flow| flow.rate),
        cpu: both(&rounds, |flow| flow.cpu),
        own: both(&rounds, |flow| flow.own),
        missed: rounds.iter().map(|(ours, _)| missed(ours)).sum(),
        their_missed: rounds.iter().map(|(_, theirs)| missed(theirs)).sum(),
    })
}

/// Runs one pace in turn.
pub fn delays(program: &Path, folder: &Path, (qos, rate): (u8, u32), effort: Effort) -> io::Result<Delays> {
    let rounds = in_turn(program, folder, effort, |server| pace::run(server.address, qos, rate, effort.span))?;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    Ok(Delays {
        median: both(&rounds, |spread: &Spread| micros(spread.median)),
        p99: both(&rounds, |spread| micros(spread.p99)),
    })
}

/// Memory, open files and sockets aside: resident bytes alone and with so many idle clients.
pub fn idle(which: Which, program: &Path, folder: &Path, clients: usize) -> io::Result<(u64, u64)> {
    let folder = fresh(folder)?;
    let server = Server::start(which, program, &folder)?;
    let alone = server.memory()?.resident;
    let peers: Vec<_> = (0..clients)
        .map(|n| crate::bench::mqtt::peer::Peer::join(server.address, &format!("idle-{n}")))
        .collect::<io::Result<_>>()?;
    let together = server.memory()?.resident;
    drop(peers);
    Ok((alone, together))
}

fn in_turn<T>(
    program: &Path,
    folder: &Path,
    effort: Effort,
    run: impl Fn(&Server) -> io::Result<T>,
) -> io::Result<Vec<(T, T)>> {
    let mut rounds = Vec::new();
    for round in 0..effort.rounds.max(1) {
        let one = |which| run(&Server::start(which, program, &fresh(folder)?)?);
        // Neither is always first.
        rounds.push(if round % 2 == 0 {
            let ours = one(Which::Ours)?;
            (ours, one(Which::Mosquitto)?)
        } else {
            let theirs = one(Which::Mosquitto)?;
            (one(Which::Ours)?, theirs)
        });
    }
    Ok(rounds)
}

/// An empty folder: no broker finds what another left.
pub(super) fn fresh(folder: &Path) -> io::Result<std::path::PathBuf> {
    let folder = folder.join("broker");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir(&folder)?;
    Ok(folder)
}

fn both<T>(rounds: &[(T, T)], figure: impl Fn(&T) -> f64) -> Both {
    Both {
        ours: median(rounds.iter().map(|(ours, _)| figure(ours))),
        theirs: median(rounds.iter().map(|(_, theirs)| figure(theirs))),
        ratio: median(rounds.iter().map(|(ours, theirs)| figure(ours) / figure(theirs))),
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_ratios() {
        // The machine was ten times slower in the second round, for both.
        let rounds = [(2.0, 1.0), (20.0, 10.0), (3.0, 1.0)];
        assert_eq!(both(&rounds, |n| *n), Both { ours: 3.0, theirs: 1.0, ratio: 2.0 });
    }

    #[test]
    fn every_cell_of_the_comparison_is_there_once() {
        let cells: Vec<_> = loads().collect();
        assert_eq!((cells.len(), paces().count()), (12, 6));
        assert!(cells.iter().enumerate().all(|(n, cell)| !cells[..n].contains(cell)));
    }
}
