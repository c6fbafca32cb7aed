//! Does on a line what was asked and judged: writes next, reads back, and lets the house know at once what was found.

use std::sync::Arc;

use tokio::time::Instant;

use crate::bus::Bus;
use crate::bus::BusError;
use crate::bus::Data;
use crate::bus::ReadRequest;
use crate::bus::Reply;
use crate::bus::WriteRequest;
use crate::bus::trace;
use crate::command::answer::Outcome;
use crate::command::batch;
use crate::command::batch::Limits;
use crate::command::batch::Part;
use crate::command::both;
use crate::command::both::READ_WRITE;
use crate::command::planned;
use crate::command::planned::Planned;
use crate::command::record::Leave;
use crate::command::request::Action;
use crate::command::request::Refusal;
use crate::command::target::Change;
use crate::command::target::Desk;
use crate::command::target::Target;
use crate::config::functions::Choice;
use crate::config::plant::Device;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::decode;
use crate::decode::Words;
use crate::point::PointId;
use crate::poll::Order;
use crate::sample::Reason;
use crate::sample::Sample;
use crate::sample::Value;
use crate::status::Recognition;
use crate::time;

/// One write.
pub(super) async fn set(desk: &Desk, change: &Change, leave: &mut Leave<'_>) -> Outcome {
    let outcomes = all(desk, std::slice::from_ref(change), leave).await;
    outcomes.into_iter().next().unwrap_or(Outcome::Done)
}

/// Several writes to one device: all are judged before the first byte.
pub(super) async fn batch(desk: &Desk, changes: &[Change], leave: &mut Leave<'_>) -> Outcome {
    let outcomes = all(desk, changes, leave).await;
    Outcome::Batch(changes.iter().map(|change| Arc::clone(&change.target.point.name)).zip(outcomes).collect())
}

/// What is told of all where nothing stands in the way of any but what passes: the id of a batch must stay free then.
fn all_may_be_asked_again<T>(judged: &[Result<T, Outcome>]) -> Option<Outcome> {
    let mut wrong = judged.iter().filter_map(|one| one.as_ref().err());
    let first = wrong.next()?;
    (first.is_later() && wrong.all(Outcome::is_later)).then(|| first.clone())
}

async fn all(desk: &Desk, changes: &[Change], leave: &mut Leave<'_>) -> Vec<Outcome> {
    let mut judged = Vec::with_capacity(changes.len());
    for change in changes {
        if let Err(outcome) = is_known(desk, &change.target.device) {
            return vec![outcome; changes.len()];
        }
        judged.push(judge(&desk.bus, change, leave).await);
    }
    if let Some(later) = all_may_be_asked_again(&judged) {
        return vec![later; changes.len()];
    }
    if judged.iter().any(Result::is_err) {
        let untouched = || Outcome::Refused("not written: another of the batch was refused".to_owned());
        return judged.into_iter().map(|judged| judged.err().unwrap_or_else(untouched)).collect();
    }
    let planned: Vec<(Planned, Option<i32>)> = judged.into_iter().flatten().collect();
    if let Err(outcome) = leave.begin(changes, &planned).await {
        return vec![outcome; changes.len()];
    }
    let allowed = changes.iter().filter_map(|change| Some(change.target.point.write.as_ref()?.expires));
    let by = allowed.min().and_then(|expires| leave.deadline(expires));
    let mut outcomes = Vec::with_capacity(changes.len());
    let written = write(desk, changes, &planned, by).await;
    for ((change, (planned, exponent)), (outcome, back)) in changes.iter().zip(&planned).zip(written) {
        outcomes.push(match (outcome, back) {
            (Outcome::Written { .. }, Some(reply)) => confirm(desk, &change.target, (planned, *exponent), reply).await,
            (Outcome::Written { .. }, None) => look(desk, &change.target, planned, *exponent).await,
            (other, _) => other,
        });
    }
    outcomes
}

async fn judge(bus: &Bus, change: &Change, leave: &Leave<'_>) -> Result<(Planned, Option<i32>), Outcome> {
    let refused = |refusal: Refusal| Outcome::Refused(refusal.to_string());
    let point = &change.target.point;
    let write = point.write.as_ref().ok_or_else(|| refused(Refusal::ReadOnly(point.name.to_string())))?;
    leave.in_time(write.expires).map_err(refused)?;
    let exponent = scale(bus, &change.target).await;
    let exponent = exponent.map_err(|error| unscaled(&error))?;
    let planned = planned::judge(point, &change.value, exponent).map_err(refused)?;
    Ok((planned, exponent))
}

/// What became of each, and what the point's own registers held right behind it, where that was read in the same transaction.
/// After the first request that fails, nothing more is written. What has begun in time is brought to its end.
async fn write(
    desk: &Desk,
    changes: &[Change],
    planned: &[(Planned, Option<i32>)],
    by: Option<Instant>,
) -> Vec<(Outcome, Option<Reply>)> {
    let untried = || Outcome::Refused("not written: an earlier one of the batch failed".to_owned());
    let mut outcomes: Vec<(Outcome, Option<Reply>)> = changes.iter().map(|_| (untried(), None)).collect();
    let Some(first) = changes.first() else { return outcomes };
    let device = &first.target.device;
    let kinds: Vec<_> = planned.iter().map(|(planned, _)| (planned.kind.clone(), planned.choice)).collect();
    for Part { kind, choice, places } in batch::merged(&kinds, Limits::of(device)) {
        let is_verified = changes[places.clone()].iter().all(|change| verifies(&change.target));
        let knows_both = choice == Choice::Free && device.functions.knows(READ_WRITE);
        let kind = if is_verified && knows_both { both::of(kind) } else { kind };
        let start = both::start(&kind);
        let first = places.start;
        let by = by.filter(|_| first == 0);
        let written = desk.bus.write_by(WriteRequest { unit: device.unit_id, kind }, by).await;
        for place in places {
            outcomes[place] = match (&written, start) {
                (Ok(reply), Some(start)) => {
                    (Outcome::Written { verified: None }, both::part(reply, start, &changes[place].target))
                }
                (Ok(_), None) => (Outcome::Written { verified: None }, None),
                (Err(error), _) => (failed(error), None),
            };
        }
        if let (0, Err(error @ BusError::NotSent)) = (first, &written) {
            return changes.iter().map(|_| (failed(error), None)).collect();
        }
        if written.is_err() {
            break;
        }
    }
    outcomes
}

fn verifies(target: &Target) -> bool {
    target.point.write.as_ref().is_some_and(|write| write.verify)
}

/// What a read/write has read is as good as a read. Where it shows another value, a read decides: a device may need a moment.
async fn confirm(desk: &Desk, target: &Target, (planned, exponent): (&Planned, Option<i32>), back: Reply) -> Outcome {
    if let Source::Wire(wire) = &target.point.source
        && let (words, Ok(value)) = understood(wire, back.data.clone(), exponent)
        && words == planned.words
        && decode::judge(target.point.range.as_deref(), &value).is_ok()
    {
        tell(desk, &target.point, &Ok(value.clone()), back.arrived).await;
        return Outcome::Written { verified: Some(value) };
    }
    look(desk, target, planned, exponent).await
}

/// Reads back what was written, where that is wanted; the house learns what the device holds in any case.
async fn look(desk: &Desk, target: &Target, planned: &Planned, exponent: Option<i32>) -> Outcome {
    if !verifies(target) {
        if desk.orders.send(Order::Read(vec![target.point.id])).await.is_err() {
            tracing::debug!("the line is being made anew, and begins with reading everything");
        }
        return Outcome::Written { verified: None };
    }
    match read(desk, target, exponent).await {
        Ok((words, Ok(value))) if words == planned.words => Outcome::Written { verified: Some(value) },
        Ok((_, Ok(value))) => Outcome::Differs(value),
        Ok((_, Err(reason))) => Outcome::Failed(format!("verify: what the device shows is bad: {reason}")),
        Err(error) => Outcome::Failed(format!("written, but verify failed: {}", words_of(&error))),
    }
}

/// Nothing is written to another device than the profile describes, nor read from it, nor before it is known who answers.
fn is_known(desk: &Desk, device: &Device) -> Result<(), Outcome> {
    match desk.recognition(device) {
        (Recognition::Another, why) => {
            Err(Outcome::Refused(Refusal::AnotherDevice(why.unwrap_or_default()).to_string()))
        }
        (Recognition::Open, _) => Err(Outcome::Later(
            "the device has not been identified yet, or not since it was away: try again".to_owned(),
        )),
        (Recognition::Unasked | Recognition::Right | Recognition::Unknown, _) => Ok(()),
    }
}

/// A read on demand.
pub(super) async fn get(desk: &Desk, target: &Target) -> Outcome {
    if let Err(outcome) = is_known(desk, &target.device) {
        return outcome;
    }
    let exponent = match scale(&desk.bus, target).await {
        Ok(exponent) => exponent,
        Err(error) => return unscaled(&error),
    };
    match read(desk, target, exponent).await {
        Ok((_, value)) => Outcome::Read(value),
        Err(error) => failed(&error),
    }
}

/// What a device's polling shall do.
pub(super) async fn act(desk: &Desk, device: &Device, points: &[PointId], action: Action) -> Outcome {
    let wish = match action {
        Action::Pause => Order::Pause(device.id),
        Action::Resume => Order::Resume(device.id),
        Action::Read => Order::Read(points.to_vec()),
    };
    match desk.orders.send(wish).await {
        Ok(()) => Outcome::Done,
        Err(_) => Outcome::Later("the line is being restarted, try again".to_owned()),
    }
}

async fn scale(bus: &Bus, target: &Target) -> Result<Option<i32>, BusError> {
    let Some(point) = &target.scale_from else { return Ok(None) };
    let Source::Wire(wire) = &point.source else { return Ok(None) };
    let reply =
        bus.read_next(ReadRequest { unit: target.device.unit_id, table: wire.table, range: wire.range }).await?;
    let (_, value) = understood(wire, reply.data, None);
    Ok(value.ok().as_ref().and_then(decode::exponent_of))
}

type Found = (Vec<u16>, Result<Value, Reason>);

/// The point's words (of a bit field: those bits) and value, read now, and told to the house as if it had been polled.
async fn read(desk: &Desk, target: &Target, exponent: Option<i32>) -> Result<Found, BusError> {
    let point = &target.point;
    let Source::Wire(wire) = &point.source else { return Err(BusError::ShutDown) };
    let request = ReadRequest { unit: target.device.unit_id, table: wire.table, range: wire.range };
    let reply = desk.bus.read_next(request).await?;
    let (words, value) = understood(wire, reply.data, exponent);
    let value = value.and_then(|value| decode::judge(point.range.as_deref(), &value).map(|()| value));
    tell(desk, point, &value, reply.arrived).await;
    Ok((words, value))
}

async fn tell(desk: &Desk, point: &Point, value: &Result<Value, Reason>, arrived: Instant) {
    let taken = time::stamp_of(arrived);
    let sample = match value {
        Ok(value) => Sample::good(point.id, value.clone(), taken),
        Err(reason) => Sample::bad(point.id, *reason, taken),
    };
    if let Some(samples) = desk.samples.upgrade()
        && samples.send(vec![sample.wanted()]).await.is_err()
    {
        tracing::debug!("publish has ended, nobody wants the sample");
    }
}

fn understood(wire: &crate::config::plant::Wire, data: Data, exponent: Option<i32>) -> Found {
    match data {
        Data::Registers(mut words) => {
            let value = decode::decode(wire, Words::Registers(&words), exponent);
            if let Some(span) = wire.bits {
                words[0] &= u16::MAX >> (15 - (span.high - span.low)) << span.low;
            }
            (words, value)
        }
        Data::Bits(bits) => {
            let value = decode::decode(wire, Words::Bits(&bits), exponent);
            (bits.into_iter().map(u16::from).collect(), value)
        }
        Data::Written | Data::Objects(_) => (Vec::new(), Err(Reason::Crc)),
    }
}

/// What it comes to where that was asked for: what was surely not sent is no failure that leaves anybody in doubt.
fn failed(error: &BusError) -> Outcome {
    match error {
        BusError::TooLate => Outcome::Refused(Refusal::TooLate.to_string()),
        BusError::NotSent => Outcome::Later(error.to_string()),
        _ => Outcome::Failed(words_of(error)),
    }
}

/// The same, where it was asked for on the way.
fn unscaled(error: &BusError) -> Outcome {
    match error {
        BusError::NotSent => failed(error),
        _ => Outcome::Failed(format!("scale factor: {}", words_of(error))),
    }
}

fn words_of(error: &BusError) -> String {
    match error {
        BusError::NoReply => "timeout: the device did not answer".to_owned(),
        BusError::Refused(code) => format!("exception {code}: {}", trace::exception(*code)),
        other => other.to_string(),
    }
}
