//! A transaction where an answer does not say what it answers: wait for silence, put aside what lies there, send once, take
//! only the answer. What could also be an old debt's answer (`debt`) or a copy of an earlier one (`copies`) is not believed
//! before it is clear: by listening on, by a question that tells, by asking again.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::Heard;
use super::Miss;
use crate::bus::Garble;
use crate::bus::frame;
use crate::bus::frame::Asked;
use crate::bus::frame::Scanner;
use crate::bus::link::Link;

/// Beyond the time its characters take, an answer that has begun may be held up this long by a USB adapter's latency timer.
const SLACK: Duration = Duration::from_millis(40);
/// Devices need this long to digest a broadcast (serial line V1.02, 2.4.1: 100 to 200 ms).
const BROADCAST: Duration = Duration::from_millis(100);
/// A question that leaves sooner leaves no time for anything else to be heard.
const INSTANT: Duration = Duration::from_micros(500);
/// So many bytes without a silence are no answer to anything: somebody babbles.
const BABBLE: usize = 4096;
/// Nor is what trickles in for so long; on a slow line it would take minutes to so many.
const NOISE: Duration = Duration::from_secs(10);
/// What comes this soon after an answer is judged with the next one, for it could as well come this much later.
const JUST_NOW: Duration = Duration::from_micros(50);
/// Answers in a row that came early and alone; on a wire, a copy in place of a lost answer may do so once or twice.
const EARLY: u8 = 3;
/// Doubtful answers in a row before a question counts as missed.
const TRIES: usize = 3;

impl Engine {
    pub(super) async fn rtu(&mut self, link: &mut Link, asked: &Asked) -> Result<Heard, Miss> {
        self.settle(link, asked.unit()).await?;
        if self.debts.doubts(asked) && asked.is_read() {
            self.tell_apart(link, asked).await?;
        }
        if self.debts.doubts(asked) && self.debts.is_resting(asked.unit(), Instant::now(), self.timeout) {
            return Err(Miss::NoReply);
        }
        let is_owed = self.debts.doubts(asked);
        let heard = self.exchange(link, asked).await?;
        if asked.is_read_write() {
            return Ok(self.take_written(asked, Heard { is_sure: heard.is_sure && !is_owed, ..heard }));
        }
        if heard.is_sure || !asked.is_read() {
            return Ok(self.take(asked, heard));
        }
        let result = self.ask_again(link, asked, heard).await;
        if result.is_err() {
            self.debts.unsettled(asked, Instant::now(), self.timeout);
        }
        result
    }

    /// Asks what nothing owed can answer: once that is answered, everything before is past.
    async fn tell_apart(&mut self, link: &mut Link, asked: &Asked) -> Result<(), Miss> {
        self.transaction = self.transaction.wrapping_add(1);
        for question in self.debts.telling(asked, self.transaction) {
            let heard = self.exchange(link, &question).await?;
            if heard.is_sure {
                self.take(&question, heard);
            } else {
                self.debts.unsettled(&question, Instant::now(), self.timeout);
            }
            self.settle(link, asked.unit()).await?;
            // An exception may have been owed as well; then the next question tells.
            if self.debts.owed(asked.unit()) == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Twice the same is this question's own answer, though it is also another's. If it is not the same, then the first was a
    /// copy, and one answer may still be on its way.
    async fn ask_again(&mut self, link: &mut Link, asked: &Asked, mut before: Heard) -> Result<Heard, Miss> {
        for _ in 1..TRIES {
            self.settle(link, asked.unit()).await?;
            let heard = self.exchange(link, asked).await?;
            if heard.pdu == before.pdu {
                self.copies.prove(asked, &heard.pdu);
                return Ok(self.take(asked, heard));
            }
            if heard.is_sure {
                let heard = self.take(asked, heard);
                self.debts.unsettled(asked, heard.at, self.timeout);
                return Ok(heard);
            }
            before = heard;
        }
        Err(Miss::NoReply)
    }

    /// It is not asked again, for it writes. Where another question may have brought the answer, whoever asked is told that it is
    /// written, and nothing of what was read: that can be asked for by a read.
    fn take_written(&mut self, asked: &Asked, heard: Heard) -> Heard {
        let heard = self.take(asked, heard);
        if !heard.is_sure {
            self.debts.unsettled(asked, heard.at, self.timeout);
        }
        heard
    }

    fn take(&mut self, asked: &Asked, heard: Heard) -> Heard {
        self.tap.answered(asked.unit(), heard.pdu.len(), heard.turnaround);
        self.debts.answered(asked, &heard.pdu, heard.at);
        self.copies.answered(asked, &heard.pdu, (heard.at, heard.turnaround));
        heard
    }

    /// Asks and listens; the line has been quiet.
    async fn exchange(&mut self, link: &mut Link, asked: &Asked) -> Result<Heard, Miss> {
        let frame = frame::rtu(asked.unit(), asked.pdu());
        let begun = Instant::now();
        let sent = begun + self.timing.of(frame.len());
        self.send(link, &frame).await?;
        self.quiet_since = sent;
        let mut early = self.hear_early(link, asked.unit(), (begun, sent)).await?;
        if asked.unit() == 0 {
            self.pause.until(sent + BROADCAST).await;
            self.busy += sent - begun + self.timing.gap;
            return Ok(Heard::broadcast(asked, BROADCAST));
        }
        let mut scanner = Scanner::new(asked, &frame, self.echo);
        let heard = match self.listen(link, &mut scanner, (sent, self.wait)).await? {
            Some(answer) => {
                self.early_alone = 0;
                Some(self.believe(link, &mut scanner, answer).await?)
            }
            None => self.early_answer(&mut early, &scanner),
        };
        self.moved();
        self.put_aside(early);
        self.busy += Instant::now().max(sent) - begun + self.timing.gap;
        self.leftover.extend_from_slice(if heard.is_some() { scanner.rest() } else { &[] });
        heard.ok_or_else(|| self.missed(asked, &scanner))
    }

    /// No answer can begin before the question has ended: what is there by then is somebody else's, as a rule.
    async fn hear_early(
        &mut self,
        link: &mut Link,
        unit: u8,
        (begun, sent): (Instant, Instant),
    ) -> io::Result<Vec<u8>> {
        let mut early = Vec::new();
        if self.has_wire && !self.echo && sent - begun > INSTANT {
            self.pause.until(sent).await;
            // On a busy machine the wake-up can come so late that the answer has begun: of a device that is known to be quick, at once.
            let soonest = self.copies.quickest(unit).map_or(self.timing.gap, |quickest| quickest.min(self.timing.gap));
            if Instant::now() < sent + soonest {
                while self.pick_up(link, &mut early)? > 0 && early.len() < BABBLE {}
            }
            self.quiet_since = sent.max(self.quiet_since);
        }
        Ok(early)
    }

    /// The answer that was there too early to be one, where nothing else came and nothing else can have brought it: then
    /// questions take no time on this port. Not for writes: an adapter that hears itself would confirm them. Where it could be
    /// a copy or an old answer it is none, pays nothing and shows nothing, but that does not happen so often in a row on a wire.
    fn early_answer(&mut self, early: &mut Vec<u8>, scanner: &Scanner<'_>) -> Option<Heard> {
        let asked = scanner.asked();
        if early.is_empty() || !asked.is_read() {
            return None;
        }
        let now = Instant::now();
        let pdu = scanner.anew().push(&[early.as_slice(), scanner.rest()].concat()).filter(|pdu| pdu != asked.pdu())?;
        early.clear();
        self.early_alone += 1;
        let is_owed = self.debts.doubts(asked) || self.debts.doubts_exception(asked, &pdu);
        let is_known = self.copies.is_known(asked.unit(), &pdu, now);
        let is_sure = !is_owed && !is_known;
        if is_sure || self.early_alone == EARLY {
            tracing::info!(line = %self.name, "answers come before a question could have left: no wire behind this port");
            self.has_wire = false;
        }
        if !is_sure {
            self.counts.stale_replies += 1;
            self.tap.put_aside();
        }
        is_sure.then_some(Heard { pdu, at: now, turnaround: Duration::ZERO, is_sure })
    }

    /// Quiet for the gap, nothing left over, and nobody's debt or copy pending on this unit.
    async fn settle(&mut self, link: &mut Link, unit: u8) -> Result<(), Miss> {
        let mut aside = std::mem::take(&mut self.leftover);
        let mut heard = 0;
        let mut noise_until = None;
        loop {
            self.moved();
            aside = self.put_aside(aside);
            let now = Instant::now();
            let free = self.quiet_since + self.timing.gap;
            let owed = self.debts.quiet_until(unit).max(self.copies.quiet_until(unit, (now, self.timeout)));
            let noise_until = *noise_until.get_or_insert(owed.map_or(free, |owed| owed.max(free)) + NOISE);
            self.pause.until(owed.map_or(free, |owed| owed.max(free))).await;
            if now < self.quiet_since + JUST_NOW && owed.is_none_or(|owed| owed <= now) && free <= now {
                break;
            }
            match self.pick_up(link, &mut aside)? {
                0 => break,
                n => heard += n,
            }
            if heard > BABBLE || Instant::now() > noise_until {
                return Err(Miss::Garbled(Garble::Noise));
            }
        }
        self.counts.stale_replies += u64::from(!aside.is_empty());
        Ok(())
    }

    /// Looks at what nobody waits for; gives back the end, which may be the beginning of something.
    fn put_aside(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if !bytes.is_empty() {
            let (frames, end) = frame::sound_frames(&bytes);
            frames.into_iter().for_each(|(unit, pdu)| self.aside(unit, &pdu));
            bytes.drain(..end);
        }
        bytes
    }

    /// A sound frame that nobody waits for: a copy, the answer to an old question, or another master's. Where it could be a copy
    /// as well as an old answer, the debt stays.
    fn aside(&mut self, unit: u8, pdu: &[u8]) {
        let now = self.quiet_since;
        self.counts.stale_replies += 1;
        self.tap.put_aside();
        match (self.copies.is_known(unit, pdu, now), self.debts.is_owed(unit, pdu)) {
            (true, true) => {}
            (true, false) => self.copies.repeated(unit, pdu, now),
            (false, _) => {
                if let Some(asked) = self.debts.heard_late(unit, pdu, now) {
                    self.copies.late(&asked, pdu, now);
                }
            }
        }
    }

    /// Until the answer is whole or the time is over.
    async fn listen(
        &mut self,
        link: &mut Link,
        scanner: &mut Scanner<'_>,
        (sent, wait): (Instant, Duration),
    ) -> Result<Option<Heard>, Miss> {
        self.moved();
        let mut buffer = [0; 512];
        let first_byte = sent + wait;
        let last_byte = first_byte + self.timing.of(scanner.missing()) + self.timing.of(260) + SLACK;
        let mut began = None;
        // What is left behind the last answer may hold another.
        let mut n = 0;
        let mut now = sent;
        loop {
            let answer = scanner.push(&buffer[..n]);
            for (unit, pdu) in std::mem::take(&mut scanner.aside) {
                self.aside(unit, &pdu);
            }
            if began.is_none() && (answer.is_some() || !scanner.is_silent()) {
                began = Some((now - self.timing.of(n)).max(sent));
            }
            if let Some(pdu) = answer {
                let turnaround = began.unwrap_or(now).saturating_duration_since(sent);
                return Ok(Some(Heard { pdu, at: now.max(self.quiet_since), turnaround, is_sure: true }));
            }
            if n > 0 {
                self.doze(scanner.missing()).await;
            }
            let until = match scanner.is_silent() {
                true => first_byte,
                false if scanner.is_damaged() => (self.quiet_since + SLACK).min(last_byte),
                false => last_byte,
            };
            let Ok(read) = tokio::time::timeout_at(until, link.read(&mut buffer)).await else { return Ok(None) };
            n = read?;
            now = Instant::now();
            self.quiet_since = now;
            self.counts.bytes_in += n as u64;
            self.tap.heard(&buffer[..n]);
        }
    }

    /// One wake-up for the rest of a slow frame instead of one for each character.
    async fn doze(&self, missing: usize) {
        let rest = self.timing.of(missing.saturating_sub(1));
        if rest > Duration::from_millis(2) {
            self.pause.until(self.quiet_since + rest).await;
        }
    }

    /// Goes on listening where this could be the answer to an old question, or a copy of an earlier one: if so, the right one
    /// follows.
    async fn believe(&mut self, link: &mut Link, scanner: &mut Scanner<'_>, mut heard: Heard) -> Result<Heard, Miss> {
        let asked = scanner.asked();
        let unit = asked.unit();
        let in_debt = self.debts.doubts(asked) || self.debts.doubts_exception(asked, &heard.pdu);
        let mut owed = if in_debt { self.debts.owed(unit) } else { 0 };
        loop {
            let is_copy = self.copies.doubts(asked, &heard.pdu, (heard.at, heard.turnaround));
            let wait = match (owed, is_copy) {
                (0, false) => return Ok(heard),
                (0, true) => self.copies.patience(unit, heard.at).max(SLACK).min(self.wait),
                _ => self.wait,
            };
            let Some(next) = self.listen(link, scanner, (Instant::now(), wait)).await? else {
                heard.is_sure = !is_copy;
                return Ok(heard);
            };
            self.counts.stale_replies += 1;
            self.tap.put_aside();
            if is_copy && owed == 0 {
                self.copies.repeated(unit, &heard.pdu, heard.at);
            }
            owed = owed.saturating_sub(1);
            heard = next;
        }
    }

    fn missed(&mut self, asked: &Asked, scanner: &Scanner<'_>) -> Miss {
        let verdict = scanner.verdict();
        match verdict {
            // Whole but damaged, this was the answer, if it was not a damaged copy.
            Some(Garble::Crc) => self.debts.unsettled(asked, Instant::now(), self.timeout),
            _ => self.debts.missed(asked, Instant::now(), self.timeout),
        }
        verdict.map_or(Miss::NoReply, Miss::Garbled)
    }
}
