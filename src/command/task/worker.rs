//! One line's commands, one after the other. What has come is looked through before each, so that the latest of a point is done.

use tokio::sync::mpsc;
use tokio::sync::watch;

use super::Asked;
use super::Floor;
use super::Job;
use super::busy;
use super::own;
use super::teller::Teller;
use super::work::Work;
use crate::command::answer::Outcome;
use crate::command::audit::Audit;
use crate::command::cause::Cause;
use crate::command::commission;
use crate::command::perform;
use crate::command::planned;
use crate::command::record::EXPIRES;
use crate::command::record::Leave;
use crate::command::record::Term;
use crate::command::request::Refusal;
use crate::command::target::Seat;
use crate::command::waiting::Claim;
use crate::command::waiting::Put;
use crate::command::waiting::Waiting;
use crate::point::PointId;

type Line = Waiting<PointId, Box<Job>>;

/// Until its queue is closed and empty.
pub(super) async fn run(
    mut jobs: mpsc::Receiver<Box<Job>>,
    (desk, floors): (Seat, watch::Receiver<Floor>),
    teller: Teller,
) {
    let mut waiting = Waiting::new();
    while let Some(job) = jobs.recv().await {
        put(&mut waiting, job, &teller).await;
        take_in(&mut jobs, &mut waiting, &teller).await;
        while let Some(mut place) = waiting.next() {
            // The newest; where nothing came of it, the one whose place it took is still what is wanted.
            while let Some(job) = place.pop() {
                let Some(mut job) = teller.not_answered(job).await else { continue };
                let outcome = serve(&mut job, (&desk, &floors), &teller).await;
                if !outcome.is_refused() {
                    for mut older in place.drain(..) {
                        replaced(&mut older, &teller).await;
                    }
                }
                teller.tell(&mut job, &outcome).await;
            }
            take_in(&mut jobs, &mut waiting, &teller).await;
        }
    }
}

async fn serve(job: &mut Job, (desk, floors): (&Seat, &watch::Receiver<Floor>), teller: &Teller) -> Outcome {
    let holds = job.work.still_means_the_same(&floors.borrow().plant);
    if !holds {
        return changed();
    }
    job.before = own::before(desk, job).await;
    teller.tell_before(job).await;
    perform_at(desk, job, &teller.audit).await
}

fn changed() -> Outcome {
    Outcome::Later("the configuration has changed meanwhile; ask again if this is still wanted".to_owned())
}

/// All that has come meanwhile.
async fn take_in(jobs: &mut mpsc::Receiver<Box<Job>>, waiting: &mut Line, teller: &Teller) {
    while let Ok(job) = jobs.try_recv() {
        put(waiting, job, teller).await;
    }
}

/// Takes a command into the queue; whoever loses by it is told.
async fn put(waiting: &mut Line, job: Box<Job>, teller: &Teller) {
    let key = match (&job.work, job.asked) {
        (Work::Set(change), Asked::First) => Some(change.target.point.id),
        _ => None,
    };
    let claim = claim(&job, waiting.rivals(key.as_ref()));
    match waiting.put(key, job, claim) {
        Put::Waits => {}
        Put::Instead(older) => {
            for mut older in older {
                replaced(&mut older, teller).await;
            }
        }
        Put::Full(mut newest) => teller.tell(&mut newest, &busy()).await,
    }
}

async fn replaced(older: &mut Job, teller: &Teller) {
    teller.tell(older, &Outcome::Refused(Refusal::Replaced.to_string())).await;
}

/// What can be said of a write beside those in whose place it would come, without asking anybody.
fn claim(job: &Job, rivals: &[Box<Job>]) -> Claim {
    let Work::Set(change) = &job.work else { return Claim::Doubtful };
    let (point, has_scale) = (&change.target.point, change.target.scale_from.is_some());
    let Some(write) = &point.write else { return Claim::Doubtful };
    let is_late = job.cause == Cause::Asked && job.term.in_time(write.expires).is_err();
    // Without its scale nothing can be said of a value but whether it is within its limits.
    let fits = if has_scale {
        crate::config::write::limits(write, &change.value).is_ok()
    } else {
        planned::judge(point, &change.value, None).is_ok()
    };
    if is_late || !fits {
        return Claim::Doubtful;
    }
    // What the gateway wants by itself does not grow old.
    let until = |job: &Job| (job.cause == Cause::Asked).then(|| job.term.deadline(write.expires));
    let own = until(job);
    let outlives = |rival: &Job| own.is_none_or(|own| until(rival).is_some_and(|rival| rival <= own));
    // One with an id may have been done in an earlier run, which the trail knows.
    if job.id.is_none() && !has_scale && rivals.iter().all(|rival| outlives(rival)) {
        Claim::Sure
    } else {
        Claim::Likely
    }
}

async fn perform_at(desk: &Seat, job: &mut Job, audit: &Audit) -> Outcome {
    let seated = desk.borrow().clone();
    let Some(desk) = seated else {
        return Outcome::Later("the line is being restarted, try again".to_owned());
    };
    let term = job.term;
    let leave = job.record.as_mut().map(|record| Leave { audit, record, term });
    match (&job.work, leave) {
        (Work::Set(change), Some(mut leave)) => perform::set(&desk, change, &mut leave).await,
        (Work::Batch(changes), Some(mut leave)) => perform::batch(&desk, changes, &mut leave).await,
        (Work::Get(_) | Work::Act(..), _) if let Some(late) = expired(term) => late,
        (Work::Get(target), _) => perform::get(&desk, target).await,
        (Work::Act(device, points, action), _) => perform::act(&desk, device, points, *action).await,
        (Work::Raw(line, raw), leave) => {
            let who = commission::who(job.message.from.as_deref());
            commission::perform(&desk, (&line.name, raw), (term, leave), &who).await
        }
        (Work::Set(_) | Work::Batch(_), None) => unreachable!("what asks to write has a record from the beginning"),
    }
}

fn expired(term: Term) -> Option<Outcome> {
    term.in_time(EXPIRES).err().map(|late| Outcome::Refused(late.to_string()))
}
