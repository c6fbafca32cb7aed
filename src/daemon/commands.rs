//! From the broker to the devices: whoever publishes to `…/set`, `…/get` or `…/$command`, here or upstream, is heard, and answered
//! through the broker. Beside it fail-safes are minded, which write where a commander is gone.

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, LocalSubscription};
use crate::command;
use crate::command::Floor;
use crate::command::audit::Audit;
use crate::command::failsafe;
use crate::config::Plant;
use crate::daemon::Group;
use crate::message::Message;
use crate::status::CommandsStatus;
use crate::supervise;
use crate::supervise::Panics;
use crate::topic::{Qos, TopicFilter};

/// Commands between the broker and the task: those that are taken at once, and as many again that are answered "busy". Full: the
/// newest is dropped by the broker, without an answer, and counted.
const WAITING: usize = 2 * command::AT_ONCE;

/// What outlives the task.
#[derive(Debug, Clone)]
pub(super) struct Means {
    /// Where all that is written is put down.
    pub(super) audit: Audit,
    /// What is told of fail-safes.
    pub(super) links: failsafe::Links,
    /// What becomes of commands before they are heard.
    pub(super) counts: watch::Sender<CommandsStatus>,
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
    let inbox = broker.subscribe("$commands", filters.to_vec(), WAITING).await;
    let (heard, commands) = mpsc::channel(1);
    let answers = broker.inlet_as("$commands").await;
    drop(broker);
    let Means { audit, links, counts } = means;
    let outlet = answers.clone();
    let (door, guards) = failsafe::new(floors.clone(), answers.clone(), links);
    let task = command::new(floors, commands, answers, audit.clone()).guarded(door);
    let forward = async {
        hand_on(inbox, &heard, counts).await;
        // The broker has ended, in a stop before this task is told. Were `heard` dropped now, the task would end by itself, which is
        // a bug that would be told at every stop.
        std::future::pending::<()>().await;
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

/// All that comes, and how much did not; until either end has gone.
async fn hand_on(
    mut inbox: LocalSubscription,
    heard: &mpsc::Sender<Vec<Message>>,
    counts: watch::Sender<CommandsStatus>,
) {
    let mut known = 0;
    while let Some(batch) = inbox.recv().await {
        let overrun = inbox.overrun();
        let dropped = overrun - std::mem::replace(&mut known, overrun);
        if dropped > 0 {
            counts.send_modify(|counts| counts.dropped += dropped);
            tracing::warn!(dropped, "commands dropped without an answer: more than {WAITING} came at once");
        }
        if heard.send(batch).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::local::inbox;
    use crate::message::Retain;
    use crate::topic::TopicName;

    #[tokio::test]
    async fn commands_for_which_there_is_no_room_are_counted() {
        let (box_, subscription) = inbox(2);
        let topic = TopicName::new("g/d/p/set").unwrap();
        let command = Message::plain(topic, bytes::Bytes::from_static(b"1"), Qos::AtLeastOnce, Retain::No);
        (0..5).for_each(|_| box_.offer(command.clone()));
        let (heard, mut commands) = mpsc::channel(1);
        let counts = watch::Sender::default();
        let count = counts.subscribe();
        let task = tokio::spawn(async move { hand_on(subscription, &heard, counts).await });
        assert_eq!(commands.recv().await.unwrap().len(), 2);
        assert_eq!(count.borrow().dropped, 3);
        box_.offer(command);
        assert_eq!(commands.recv().await.unwrap().len(), 1);
        assert_eq!(count.borrow().dropped, 3, "each once");
        drop(box_);
        task.await.unwrap();
    }
}
