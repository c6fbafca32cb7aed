//! Raw requests to a line through the control socket.

use std::sync::Arc;

use serde_json::Value;

use crate::command;
use crate::command::Seat;
use crate::command::audit::Audit;
use crate::config::Plant;
use crate::control::Verb;
use crate::control::protocol::{Code, Fault};
use crate::control::verb::{Answer, Asker};

/// `modbus`: `{"line": NAME, "request": {"unit": …, "function": …, …}}`.
pub(super) fn verb(plant: &Arc<Plant>, desks: &[Seat], audit: &Audit) -> Verb {
    let (plant, desks, audit) = (Arc::clone(plant), desks.to_vec(), audit.clone());
    Verb::of_asker("modbus", move |params, asker| {
        let (plant, desks, audit) = (Arc::clone(&plant), desks.clone(), audit.clone());
        Box::pin(async move { ask(&plant, &desks, &audit, (params, asker)).await.map(Answer::One) })
    })
}

async fn ask(plant: &Plant, desks: &[Seat], audit: &Audit, (params, asker): (Value, Asker)) -> Result<Value, Fault> {
    let bad = |why: String| Fault::new(Code::BadParams, why);
    let name = params["line"].as_str().unwrap_or_default();
    let found = plant.lines.iter().zip(desks).find(|(line, _)| *line.name == *name);
    let (line, seat) = found.ok_or_else(|| {
        let names: Vec<&str> = plant.lines.iter().map(|line| &*line.name).collect();
        bad(format!("no line `{name}`; there are: {}", names.join(", ")))
    })?;
    command::ask_raw(seat, line, &params["request"], (audit, &asker.to_string())).await.map_err(bad)
}
