//! Sees raw requests done, whoever asked, and leaves word in the log of who it was; writes stand in the audit trail as well. They take
//! the same way as those of points: next after the transaction in flight.

use serde_json::Value as Json;
use serde_json::json;
use tokio::time::Instant;

use crate::bus::Bus;
use crate::bus::BusError;
use crate::bus::Data;
use crate::bus::mei::Category;
use crate::bus::mei::IdentifyRequest;
use crate::command::answer::Outcome;
use crate::command::audit::Audit;
use crate::command::raw;
use crate::command::raw::Deed;
use crate::command::raw::Raw;
use crate::command::record;
use crate::command::record::EXPIRES;
use crate::command::record::Leave;
use crate::command::record::Record;
use crate::command::record::Term;
use crate::command::request::Refusal;
use crate::command::target::Desk;
use crate::command::target::Seat;
use crate::config::plant::Line;
use crate::message::Origin;
use crate::time;

/// Where every use is logged: no limit of repeated lines holds there.
pub const LOG: &str = "trunkline::raw";
/// Most parts of one identification: 256 objects of some bytes each need fewer.
const PARTS: usize = 64;

/// Does it, unless its time has passed. What writes needs its leave. `who` is told in the log.
pub(super) async fn perform(
    desk: &Desk,
    (line, raw): (&str, &Raw),
    (term, leave): (Term, Option<Leave<'_>>),
    who: &str,
) -> Outcome {
    if let Err(late) = term.in_time(EXPIRES) {
        return Outcome::Refused(late.to_string());
    }
    let reply = match (raw.deed.clone(), leave) {
        (Deed::Read(read), _) => desk.bus.read_next(read).await.map(|reply| reply.data),
        (Deed::Identify(wanted), _) => identify(&desk.bus, wanted).await,
        (Deed::Write(write), Some(mut leave)) => {
            if let Err(outcome) = leave.begin_raw(EXPIRES).await {
                return outcome;
            }
            desk.bus.write_by(write, leave.deadline(EXPIRES)).await.map(|reply| reply.data)
        }
        (Deed::Write(_), None) => unreachable!("what asks to write has a record from the beginning"),
    };
    match &reply {
        Err(BusError::TooLate) => return Outcome::Refused(Refusal::TooLate.to_string()),
        Err(error @ BusError::NotSent) => return Outcome::Later(error.to_string()),
        _ => {}
    }
    let (word, body) = raw::told(raw, &reply);
    let outcome = reply.err().map_or_else(|| word.to_owned(), |error| error.to_string());
    tracing::info!(target: LOG, line, who, request = raw.words(), outcome, "raw access");
    Outcome::Raw { word, body }
}

/// All parts of what is wanted. A device that names the same or an earlier object as the next is not followed.
async fn identify(bus: &Bus, mut wanted: IdentifyRequest) -> Result<Data, BusError> {
    let mut whole = None;
    for _ in 0..PARTS {
        let Data::Objects(part) = bus.identify_next(wanted).await?.data else { break };
        let next = part.next.filter(|next| *next > wanted.object && wanted.category != Category::One);
        let said = whole.get_or_insert_with(|| crate::bus::mei::Objects { objects: Vec::new(), ..part.clone() });
        said.objects.extend(part.objects);
        said.next = next;
        match next {
            Some(object) => wanted.object = object,
            None => break,
        }
    }
    whole.map(Data::Objects).ok_or(BusError::ShutDown)
}

/// What comes through the control socket: only who may change the configuration can ask there, so the line's `raw_access` does not
/// count.
///
/// # Errors
/// What is wrong with the request, in words.
pub async fn ask(seat: &Seat, line: &Line, asked: &Json, (audit, who): (&Audit, &str)) -> Result<Json, String> {
    let done = try_ask(seat, line, asked, (audit, who)).await;
    done.inspect_err(|why| refuse((&line.name, asked), why, (audit, who)))
}

/// Leaves word of a request through the control socket that is refused.
pub fn refuse((line, asked): (&str, &Json), why: &str, (audit, who): (&Audit, &str)) {
    tracing::info!(target: LOG, line, who, reason = why, "raw access refused");
    let outcome = json!({ "result": "refused", "reason": why, "time": time::now().rfc3339() });
    audit.note(record::unread_at_the_gateway(who, line, asked), &outcome.to_string());
}

async fn try_ask(seat: &Seat, line: &Line, asked: &Json, (audit, who): (&Audit, &str)) -> Result<Json, String> {
    let came = Instant::now();
    let fields = asked.as_object().ok_or("a request is a map of `unit`, `function` and so on")?;
    // Nothing remembers an id here, and whoever waits for the answer knows how late it is.
    if let Some(key) = ["id", "expires"].into_iter().find(|key| fields.contains_key(*key)) {
        return Err(format!("`{key}` is for requests by MQTT: what is asked here is done now and once, leave it out"));
    }
    let raw = raw::understand(fields, line).map_err(|unfit| unfit.to_string())?;
    let desk = seat.borrow().clone().ok_or("the line is being restarted, try again")?;
    let mut record = (!raw.is_read()).then(|| Record::raw(record::at_the_gateway(who), line, &raw));
    let term = Term::own(came);
    let leave = record.as_mut().map(|record| Leave { audit, record, term });
    let outcome = perform(&desk, (&line.name, &raw), (term, leave), who).await;
    let mut body = outcome.body();
    body["duration_ms"] = json!(u64::try_from(came.elapsed().as_millis()).unwrap_or(u64::MAX));
    if let Some(record) = &mut record {
        record.end(audit, &outcome, &body.to_string()).await;
    }
    Ok(body)
}

/// Who sent a message, for people.
pub(super) fn who(from: Option<&Origin>) -> String {
    match from {
        Some(Origin::Client { client_id, user: Some(user), peer }) => {
            format!("user {user} (client {client_id}, {peer})")
        }
        Some(Origin::Client { client_id, user: None, peer }) => format!("client {client_id} ({peer})"),
        Some(Origin::Upstream { name, .. }) => format!("upstream {name}"),
        None => "nobody known".to_owned(),
    }
}
