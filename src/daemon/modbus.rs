//! Raw requests to a line through the control socket.

use serde_json::Value;
use tokio::sync::watch;

use crate::command;
use crate::command::Floor;
use crate::command::audit::Audit;
use crate::control::Verb;
use crate::control::protocol::{Code, Fault};
use crate::control::verb::{Answer, Asker};

/// `modbus`: `{"line": NAME, "request": {"unit": …, "function": …, …}}`.
pub(super) fn verb(floors: watch::Receiver<Floor>, audit: &Audit) -> Verb {
    let audit = audit.clone();
    Verb::of_asker("modbus", move |params, asker| {
        let (floor, audit) = (floors.borrow().clone(), audit.clone());
        Box::pin(async move { ask(&floor, &audit, (params, asker)).await.map(Answer::One) })
    })
}

async fn ask(floor: &Floor, audit: &Audit, (params, asker): (Value, Asker)) -> Result<Value, Fault> {
    let bad = |why: String| Fault::new(Code::BadParams, why);
    let name = params["line"].as_str().unwrap_or_default();
    let lines = &floor.plant.lines;
    let found = lines.iter().find(|line| *line.name == *name);
    let found = found.and_then(|line| Some((line, floor.desk(line.id)?)));
    let (request, who) = (&params["request"], asker.to_string());
    let (line, seat) = found.ok_or_else(|| {
        let names: Vec<&str> = lines.iter().map(|line| &*line.name).collect();
        let why = format!("no line `{name}`; there are: {}", names.join(", "));
        command::refuse_raw((name, request), &why, (audit, &who));
        bad(why)
    })?;
    command::ask_raw(seat, line, request, (audit, &who)).await.map_err(bad)
}
