//! Finds out whether the device is the right one before a value of it is taken: a question at a time, in the place of its turn's next
//! read, so that the line is the others' in between. What the answers mean is [`identity`](crate::poll::identity)'s affair.

use crate::bus::mei::IdentifyRequest;
use crate::bus::{BusError, ReadRequest, Reply};
use crate::poll::DeviceEvent;
use crate::poll::agenda::Begun;
use crate::poll::identity::{Heard, Question, Step};
use crate::poll::task::{Closed, PollTask};
use crate::poll::turn::Turn;
use crate::sample::Reason;
use crate::status::{DeviceState, Recognition};
use crate::time;

impl PollTask {
    /// The turn goes on afterwards, or fails.
    pub(super) async fn identify(&mut self, begun: Begun<Turn>, step: Step) -> Result<(), Closed> {
        let at = begun.work.at;
        let Step::Ask(question) = step else { return self.give_up(begun.work, Reason::AnotherDevice).await };
        // Who has never answered is first asked what it answers for sure: a dead device must not cost three questions a turn.
        let is_new = self.members[at].health.state() == DeviceState::Unknown;
        let asked = if is_new { Question::Alive } else { question };
        let result = self.ask_who(at, asked).await;
        let now = self.clocks().now;
        let until = self.pause_after(&result).map(|pause| now + pause);
        if let Some(until) = until {
            self.members[at].quiet_until = until;
            self.agenda.quiet(begun.device, until);
        }
        let heard = match self.understand(at, asked, result) {
            Ok(heard) => heard,
            Err(error) => return self.silent(begun.work, error).await,
        };
        if !is_new && self.members[at].identity.heard(&heard, now) {
            self.settled(at, &begun).await?;
        }
        if self.members[at].identity.is_another() {
            return self.give_up(begun.work, Reason::AnotherDevice).await;
        }
        match until {
            Some(until) => self.agenda.rest(begun, until),
            None => self.agenda.put_back(begun),
        }
        Ok(())
    }

    async fn ask_who(&mut self, at: usize, question: Question) -> Result<Reply, BusError> {
        let bus = self.bus.clone();
        let member = &self.members[at];
        let unit = member.device.unit_id;
        let (table, range) = match question {
            Question::Objects(category, object) => {
                return self.telling(bus.identify_once(IdentifyRequest { unit, category, object })).await;
            }
            Question::Register(table, range) => (table, range),
            Question::Alive => member.probe().ok_or(BusError::NoReply)?,
        };
        self.telling(bus.read_once(ReadRequest { unit, table, range }, self.line.timeout)).await
    }

    /// What the answer says; an error where the turn cannot go on.
    fn understand(&mut self, at: usize, asked: Question, result: Result<Reply, BusError>) -> Result<Heard, BusError> {
        let is_objects = matches!(asked, Question::Objects(..));
        let heard = match result {
            Ok(reply) => Heard::Said(reply.data),
            // A busy device says nothing about itself.
            Err(BusError::Refused(4..=6) | BusError::NoReply | BusError::Garbled(_)) if is_objects => Heard::Nothing,
            // A gateway on the way says that nobody is there.
            Err(error @ BusError::Refused(4..=6 | 0x0A | 0x0B)) => return Err(error),
            Err(BusError::Refused(code)) => Heard::Refused(code),
            Err(error) => return Err(error),
        };
        if !matches!(heard, Heard::Nothing) {
            self.gone_since = None;
            self.members[at].health.answered();
            self.members[at].replies += 1;
        }
        Ok(heard)
    }

    /// The turn fails, and so may the device.
    async fn silent(&mut self, turn: Turn, error: BusError) -> Result<(), Closed> {
        let reason = match &error {
            BusError::Refused(code) => Reason::Exception(*code),
            BusError::Garbled(_) => Reason::Crc,
            BusError::LineDown(_) => Reason::LineDown,
            BusError::NoReply | BusError::TooLate | BusError::NotSent | BusError::ShutDown => Reason::Timeout,
        };
        let now = self.clocks().now;
        self.members[turn.at].identity.silent(now);
        self.judge(turn.at, Err(error)).await?;
        self.give_up(turn, reason).await
    }

    async fn give_up(&mut self, mut turn: Turn, reason: Reason) -> Result<(), Closed> {
        let samples = turn.give_up(&mut self.members[turn.at], reason, time::now());
        self.send(samples).await?;
        self.finish(turn).await
    }

    /// It is known now who answers, or that it cannot be known.
    async fn settled(&mut self, at: usize, begun: &Begun<Turn>) -> Result<(), Closed> {
        let (recognition, why) = self.members[at].identity.told();
        let member = &mut self.members[at];
        let (device, name) = (member.device.id, &member.device.name);
        let text = why.as_deref().unwrap_or_default();
        match recognition {
            Recognition::Another => {
                tracing::error!(device = %name, found = text, "another device: its values are bad, it is not written to");
            }
            Recognition::Unknown => {
                tracing::warn!(device = %name, why = text, "cannot be identified, polled as configured")
            }
            _ => tracing::info!(device = %name, "identified"),
        }
        // Who reads a paused device on purpose does not end its pause; when that ends, it is asked again.
        if member.paused {
            return Ok(());
        }
        let event = match recognition {
            Recognition::Another => {
                (member.cut, member.reason) = (true, Some(Reason::AnotherDevice));
                DeviceEvent { detail: why, ..DeviceEvent::offline(device, member.reason) }
            }
            _ => self.welcome(at),
        };
        self.tell();
        self.events.send(event).await.map_err(|_| Closed)?;
        if recognition == Recognition::Another {
            self.fail_the_rest(at, begun.work.slots(), Reason::AnotherDevice).await?;
        }
        Ok(())
    }

    /// What another device has refused or not says nothing of this one.
    fn welcome(&mut self, at: usize) -> DeviceEvent {
        let member = &mut self.members[at];
        if std::mem::take(&mut member.cut) {
            member.doubt_holes();
            self.agenda.table.hurry(member.device.id);
        }
        member.reason = None;
        DeviceEvent::online(member.device.id)
    }
}
