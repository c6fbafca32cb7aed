//! A plan for programs: times in milliseconds, loads as parts of one, like the status. What a death does not change is
//! left out, unless all is asked for.

use serde_json::{Value, json};

use crate::cli::plan::{Detail, Planned};
use crate::poll::forecast::advice::Proposal;
use crate::poll::forecast::{Age, Bereft, Forecast, Request, Without};

pub(super) fn of(planned: &Planned<'_>, detail: Detail) -> Value {
    let forecast = &planned.forecast;
    let wanted = |device: &str| planned.only.is_none_or(|only| *only.name == *device);
    let mut points: Vec<(usize, &Age)> = forecast.points.iter().enumerate().collect();
    points.retain(|(_, age)| planned.only.is_none_or(|only| age.device == only.id));
    points.sort_by(|(_, a), (_, b)| b.lateness().total_cmp(&a.lateness()));
    let deaths = forecast.without.iter().filter(|w| wanted(&w.device));
    json!({
        "name": &*forecast.line,
        "load": forecast.load,
        "turnaround_ms": ms(planned.turnaround),
        "requests": forecast.requests.iter().filter(|r| wanted(&r.device)).map(request).collect::<Vec<_>>(),
        "points": points.into_iter().map(|(at, age)| point(forecast, at, age)).collect::<Vec<_>>(),
        "without": deaths.map(|w| without(forecast, w, detail)).collect::<Vec<_>>(),
        "proposals": planned.proposals.iter().map(proposal).collect::<Vec<_>>(),
    })
}

fn request(request: &Request) -> Value {
    json!({
        "device": &*request.device, "table": request.table.to_string(), "address": request.range.start(),
        "count": request.range.count(), "wire_ms": ms(request.wire), "every_ms": ms(request.every),
    })
}

fn point(forecast: &Forecast, at: usize, age: &Age) -> Value {
    let death = |worst: Option<(&Without, _)>| worst.map(|(w, age)| json!({"device": &*w.device, "worst_ms": ms(age)}));
    json!({
        "point": age.name, "period_ms": age.period.map(ms), "achievable_ms": ms(age.achievable),
        "worst_ms": ms(age.worst), "met": age.is_met(),
        "one_dead": death(forecast.worst_without(at)), "until_noticed": death(forecast.worst_unnoticed(at)),
    })
}

fn without(forecast: &Forecast, without: &Without, detail: Detail) -> Value {
    let changes = |bereft: &&Bereft| detail == Detail::All || forecast.points[bereft.at].changes(bereft.worst);
    let point = |bereft: &Bereft| {
        let name = &forecast.points[bereft.at].name;
        json!({ "point": name, "worst_ms": ms(bereft.worst), "until_noticed_ms": ms(bereft.unnoticed) })
    };
    let (late, until_then) = forecast.late_without(without);
    json!({
        "device": &*without.device, "load": without.load, "hold_up_ms": ms(without.hold_up),
        "noticed_ms": ms(without.noticed), "late_ms": ms(late), "until_noticed_late_ms": ms(until_then),
        "points": without.points.iter().filter(changes).map(point).collect::<Vec<_>>(),
    })
}

fn proposal(proposal: &Proposal) -> Value {
    match proposal {
        Proposal::Rarer { period, points, load } => {
            json!({ "change": "rarer", "period_ms": ms(*period), "points": points, "load": load })
        }
        Proposal::ForAll { period, load } => json!({ "change": "for-all", "period_ms": ms(*period), "load": load }),
        Proposal::Stretch { factor, load } => json!({ "change": "stretch", "factor": factor, "load": load }),
        Proposal::Faster { baud, load } => json!({ "change": "faster", "baud": baud, "load": load }),
    }
}

/// To the microsecond.
fn ms(d: std::time::Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}
