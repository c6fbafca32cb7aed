//! Whether a device is the one its profile describes. Pure: it says what to ask, and what the answers mean. Asked at the first contact
//! and after each absence, before any value is believed. Who says something else is another device: its values are not taken, and
//! it is asked again now and then, for somebody may put it right. Who cannot be asked is polled all the same, and that is told.

use std::sync::Arc;
use std::time::Duration;

use crate::bus::Data;
use crate::bus::mei;
use crate::bus::mei::{Category, Objects};
use crate::config::fingerprint::{Expected, Fingerprint};
use crate::decode::{self, Words};
use crate::point::{AddressRange, Table};
use crate::status::Recognition;

/// Between two looks at another device: a person who has put the right one there sees it at once.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A device that did not answer function 43, but others, may have been unlucky. So often it is asked again …
const SECOND_THOUGHTS: u8 = 3;
/// … after this long: an unanswered question costs the line its timeout.
const THINK_AGAIN: Duration = Duration::from_secs(60);
/// Times that function 43 is asked before something else is: a lost answer is no sign of deafness.
const TRIES: u8 = 2;
/// Most parts of an identification; all objects are in fewer.
const PARTS: u8 = 32;

/// What to ask now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Objects of the identification, from this one on.
    Objects(Category, u8),
    /// The register that holds the model.
    Register(Table, AddressRange),
    /// Anything that it answers for sure: is it there at all?
    Alive,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Heard {
    Said(Data),
    Refused(u8),
    /// No answer, or none that could be read.
    Nothing,
}

/// What to do with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is polled.
    Pass,
    /// First this.
    Ask(Question),
    /// It is another one: nothing is taken from it.
    Stranger,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Open,
    Right,
    /// Another one; what was found and expected.
    Another(Arc<str>),
    /// Why it cannot be told.
    Unknown(Arc<str>),
}

/// One device.
#[derive(Debug)]
pub(crate) struct Identity {
    wanted: Option<Arc<Fingerprint>>,
    standing: Standing,
    question: Question,
    tries: u8,
    parts: u8,
    found: Vec<(u8, Vec<u8>)>,
    /// What could not be told on the way, the first of it.
    doubt: Option<String>,
    /// It may only have been unlucky.
    is_deaf: bool,
    /// When it is asked again.
    again_at: Option<Duration>,
    second_thoughts: u8,
}

impl Identity {
    /// Of whoever answers, where nothing is expected.
    pub(crate) fn new(wanted: Option<Arc<Fingerprint>>) -> Self {
        let standing = if wanted.is_some() { Standing::Open } else { Standing::Right };
        let question = Question::Alive;
        let (tries, parts, second_thoughts) = (0, 0, 0);
        let mut identity = Self {
            wanted,
            standing,
            question,
            tries,
            parts,
            found: Vec::new(),
            doubt: None,
            is_deaf: false,
            again_at: None,
            second_thoughts,
        };
        identity.restart();
        identity
    }

    /// It was away, or has been touched: nothing is known of it any more.
    pub(crate) fn doubt(&mut self) {
        if self.wanted.is_some() {
            (self.standing, self.second_thoughts) = (Standing::Open, 0);
            self.restart();
        }
    }

    /// It has not been asked yet, or not to the end.
    pub(crate) fn is_open(&self) -> bool {
        self.standing == Standing::Open
    }

    /// Something else answers.
    pub(crate) const fn is_another(&self) -> bool {
        matches!(self.standing, Standing::Another(_))
    }

    /// For the status: in a word, and in a sentence where there is something to say.
    pub(crate) fn told(&self) -> (Recognition, Option<Arc<str>>) {
        match &self.standing {
            _ if self.wanted.is_none() => (Recognition::Unasked, None),
            Standing::Open => (Recognition::Open, None),
            Standing::Right => (Recognition::Right, None),
            Standing::Another(why) => (Recognition::Another, Some(Arc::clone(why))),
            Standing::Unknown(why) => (Recognition::Unknown, Some(Arc::clone(why))),
        }
    }

    /// What is to be done before a value is taken.
    pub(crate) fn step(&self, now: Duration) -> Step {
        let is_due = self.again_at.is_some_and(|at| at <= now);
        match &self.standing {
            Standing::Open => Step::Ask(self.question),
            _ if is_due => Step::Ask(self.question),
            Standing::Another(_) => Step::Stranger,
            Standing::Right | Standing::Unknown(_) => Step::Pass,
        }
    }

    /// It fell silent in the middle: its health's affair. Another device is looked at again at its next turn, so that its going is
    /// noticed.
    pub(crate) fn silent(&mut self, now: Duration) {
        self.restart();
        self.again_at = self.is_another().then_some(now);
    }

    /// Begins with the first question. What is known stands until something else is.
    fn restart(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        (self.tries, self.parts, self.doubt, self.is_deaf, self.again_at) = (0, 0, None, false, None);
        self.found.clear();
        self.question = if wanted.objects.is_empty() { register_of(wanted) } else { objects_of(wanted, 0) };
    }

    /// An answer, or none. True when the device's standing is known now and is another than before.
    pub(crate) fn heard(&mut self, heard: &Heard, now: Duration) -> bool {
        let Some(wanted) = self.wanted.clone() else { return false };
        match (self.question, heard) {
            (Question::Objects(..), Heard::Said(Data::Objects(said))) => self.objects(&wanted, said, now),
            (Question::Objects(..), Heard::Refused(code)) => {
                let why = format!("it refuses function 43 with exception {code}");
                self.go_on_without(&wanted, why, now)
            }
            (Question::Objects(..), _) => {
                self.tries += 1;
                if self.tries >= TRIES {
                    self.question = Question::Alive;
                }
                false
            }
            (Question::Register(table, range), Heard::Refused(code)) => {
                self.doubt.get_or_insert(format!("it refuses {table} {range} with exception {code}"));
                self.settle(now)
            }
            (Question::Register(..), Heard::Said(data)) => self.register(&wanted, data, now),
            (Question::Alive, Heard::Said(_) | Heard::Refused(_)) => {
                self.is_deaf = true;
                self.go_on_without(&wanted, "it does not answer function 43, only others".to_owned(), now)
            }
            (Question::Register(..) | Question::Alive, Heard::Nothing) => {
                self.silent(now);
                false
            }
        }
    }

    fn objects(&mut self, wanted: &Fingerprint, said: &Objects, now: Duration) -> bool {
        self.found.extend(said.objects.iter().cloned());
        self.parts += 1;
        let has = |id: u8| self.found.iter().any(|(found, _)| *found == id);
        let Question::Objects(category, from) = self.question else { return false };
        if let Some(next) = said.next.filter(|next| *next > from && self.parts < PARTS)
            && !wanted.objects.iter().all(|(id, _)| has(*id))
        {
            (self.question, self.tries) = (Question::Objects(category, next), 0);
            return false;
        }
        for (id, expected) in &wanted.objects {
            let name = name_of(*id);
            let Some((_, value)) = self.found.iter().find(|(found, _)| found == id) else {
                self.doubt.get_or_insert(format!("it does not tell its {name}"));
                continue;
            };
            let found = mei::text(value).map_or_else(|| format!("{value:02X?}"), str::to_owned);
            if !expected.is(&found) {
                return self.strange(&name, &found, expected, now);
            }
        }
        self.go_on(wanted, now)
    }

    fn register(&mut self, wanted: &Fingerprint, data: &Data, now: Duration) -> bool {
        let Some((wire, expected)) = &wanted.register else { return self.settle(now) };
        let words = match data {
            Data::Registers(words) => Words::Registers(words),
            Data::Bits(bits) => Words::Bits(bits),
            Data::Objects(_) | Data::Written => return false,
        };
        let place = format!("{} {}", wire.table, wire.range);
        match decode::decode(wire, words, None) {
            Ok(value) if expected.is(&value.to_string()) => self.settle(now),
            Ok(value) => self.strange(&place, &value.to_string(), expected, now),
            Err(reason) => {
                self.doubt.get_or_insert(format!("{place} cannot be understood: {reason}"));
                self.settle(now)
            }
        }
    }

    fn go_on_without(&mut self, wanted: &Fingerprint, why: String, now: Duration) -> bool {
        self.doubt.get_or_insert(why);
        self.go_on(wanted, now)
    }

    fn go_on(&mut self, wanted: &Fingerprint, now: Duration) -> bool {
        match register_of(wanted) {
            Question::Alive => self.settle(now),
            register => {
                (self.question, self.tries) = (register, 0);
                false
            }
        }
    }

    fn strange(&mut self, what: &str, found: &str, expected: &Expected, now: Duration) -> bool {
        let why = format!("{what} is \"{found}\", expected {expected}");
        let is_news = self.stand(Standing::Another(why.into()));
        self.again_at = Some(now + LOOK_AGAIN);
        is_news
    }

    /// Nothing was found that is wrong. Where something was found wrong before, it takes more than silence to be right.
    fn settle(&mut self, now: Duration) -> bool {
        let Some(why) = self.doubt.take() else { return self.stand(Standing::Right) };
        if self.is_another() {
            self.restart();
            self.again_at = Some(now + LOOK_AGAIN);
            return false;
        }
        let is_hasty = self.is_deaf && self.second_thoughts < SECOND_THOUGHTS;
        let is_news = self.stand(Standing::Unknown(why.into()));
        if is_hasty {
            self.second_thoughts += 1;
            self.again_at = Some(now + THINK_AGAIN);
        }
        is_news
    }

    fn stand(&mut self, standing: Standing) -> bool {
        self.restart();
        let was = std::mem::replace(&mut self.standing, standing);
        was != self.standing
    }
}

fn register_of(wanted: &Fingerprint) -> Question {
    wanted.register.as_ref().map_or(Question::Alive, |(wire, _)| Question::Register(wire.table, wire.range))
}

/// The smallest category that has them all.
fn objects_of(wanted: &Fingerprint, from: u8) -> Question {
    let last = wanted.objects.iter().map(|(id, _)| *id).max().unwrap_or_default();
    Question::Objects(if last <= 2 { Category::Basic } else { Category::Regular }, from)
}

fn name_of(id: u8) -> String {
    mei::name(id).map_or_else(|| format!("object {id}"), |name| name.replace('_', " "))
}

#[cfg(test)]
mod tests;
