//! From the broker to the devices: whoever publishes to `…/set`, `…/get` or `…/$command`, here or upstream, is heard, and answered
//! through the broker. Beside it fail-safes are minded, which write where a commander is gone.

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::command;
use crate::command::Floor;
use crate::command::audit::Audit;
use crate::command::failsafe;
use crate::config::Plant;
use crate::daemon::Group;
use crate::supervise;
use crate::supervise::Panics;
use crate::topic::{Qos, TopicFilter};

/// Commands between the broker and the task; more than a person sends. Full: the newest is dropped by the broker and counted.
const WAITING: usize = 256;

/// What outlives the task.
#[derive(Debug, Clone)]
pub(super) struct Means {
    /// Where all that is written is put down.
    pub(super) audit: Audit,
    /// What is told of fail-safes.
    pub(super) links: failsafe::Links,
}

/// Subscribes and starts the task.
pub(super) fn start(group: &Group, panics: &Panics, broker: &Broker, floors: watch::Receiver<Floor>, means: Means) {
    let stop = group.stop.clone();
    let broker = broker.clone();
    let make = {
        let stop = stop.clone();
        move || hear(broker.clone(), floors.clone(), means.clone(), stop.clone())
    };
    supervise::leaf(&group.tasks, panics, "commands", stop, make);
}

/// Where what fail-safes know goes.
pub(super) fn links(group: &Group, panics: &Panics, plant: &Plant) -> failsafe::Links {
    let kept = super::failsafe::open(group, panics, &plant.state_dir);
    failsafe::Links { kept, status: watch::Sender::new(Vec::new()) }
}

async fn hear(broker: Broker, floors: watch::Receiver<Floor>, means: Means, stop: CancellationToken) {
    // The gateway's name does not change while it runs.
    let gateway = floors.borrow().plant.gateway.clone();
    let filters = ["+/+/set", "+/+/get", "+/set", "+/$command", "+/$modbus"].map(|levels| {
        let filter = TopicFilter::new(format!("{gateway}/{levels}"));
        (filter.expect("the gateway's name is one level"), Qos::ExactlyOnce)
    });
    let mut inbox = broker.subscribe("$commands", filters.to_vec(), WAITING).await;
    let (heard, commands) = mpsc::channel(1);
    let answers = broker.inlet_as("$commands").await;
    drop(broker);
    let Means { audit, links } = means;
    let outlet = answers.clone();
    let (door, guards) = failsafe::new(floors.clone(), answers.clone(), links);
    let task = command::new(floors, commands, answers, audit.clone()).guarded(door);
    let forward = async {
        while let Some(batch) = inbox.recv().await {
            if heard.send(batch).await.is_err() {
                break;
            }
        }
        // The broker has ended before it was told: its owner says so; commands wait for the stop.
        stop.cancelled().await;
    };
    // They end at the stop or when the broker has gone, when commands under way are still to be finished.
    let announced = async {
        audit.announce(&gateway, &outlet).await;
        std::future::pending::<()>().await;
    };
    let guarded = async {
        guards.run(stop.clone()).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = task.run(stop.clone()) => {}
        () = forward => {}
        () = announced => {}
        () = guarded => {}
    }
}
