//! What passes on the lines, for whoever looks through the control socket. A line that is made anew after a bug goes on in the
//! same look.

use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::bus::trace::Traced;
use crate::command::Seat;
use crate::config::plant::Line;
use crate::control::Window;
use crate::control::window::Items;

/// One for each line; seats are in the same order.
pub(super) fn of(lines: &[Line], seats: &[Seat]) -> Vec<Window> {
    let window = |(line, seat): (&Line, &Seat)| {
        let seat = seat.clone();
        Window::new(line.name.clone(), move || open(seat.clone()))
    };
    lines.iter().zip(seats).map(window).collect()
}

fn open(seat: Seat) -> Items {
    Box::pin(stream::unfold((seat, None), |(mut seat, mut passing)| async move {
        let item = next(&mut seat, &mut passing).await?;
        Some((item, (seat, passing)))
    }))
}

/// `None` when the line has ended for good.
async fn next(seat: &mut Seat, passing: &mut Option<broadcast::Receiver<Traced>>) -> Option<Value> {
    loop {
        let Some(tap) = passing else {
            *passing = seat.wait_for(Option::is_some).await.ok()?.as_ref().map(|desk| desk.bus.trace());
            continue;
        };
        let heard = tokio::select! {
            heard = tap.recv() => heard,
            // Another bus sits here now, or the line has ended.
            changed = seat.changed() => { changed.ok()?; Err(RecvError::Closed) }
        };
        match heard {
            Ok(traced) => return serde_json::to_value(traced).ok(),
            Err(RecvError::Lagged(lost)) => return Some(json!({ "lost": lost })),
            Err(RecvError::Closed) => *passing = None,
        }
    }
}
