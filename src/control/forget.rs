//! What devices have refused can be forgotten through the control socket, so that they are asked for it again. The daemon says
//! how, so that control need not know the polls.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::protocol::{Code, Fault};

/// Whose holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Of the device with this name.
    Device(String),
    /// Of all.
    All,
}

/// What was known of one device, and is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// `{device}` in topics.
    pub device: String,
    /// In words: `holding 4–6`.
    pub holes: Vec<String>,
}

/// The whole answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// One for each device that was meant.
    pub forgotten: Vec<Forgotten>,
}

type Deed = dyn Fn(&Which) -> Result<Vec<Forgotten>, Option<String>> + Send + Sync;

/// The deed.
#[derive(Clone)]
pub struct Forget(Arc<Deed>);

/// What `forget` is asked with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    device: Option<String>,
    #[serde(default)]
    all: bool,
}

impl Forget {
    /// Where there is no such device, `deed` gives a name that is like it, if there is one.
    pub fn new(deed: impl Fn(&Which) -> Result<Vec<Forgotten>, Option<String>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(deed))
    }

    /// Does it. An error is a name like the one that does not exist, if there is one.
    pub fn wish(&self, which: &Which) -> Result<Vec<Forgotten>, Option<String>> {
        (self.0)(which)
    }

    /// Does what `params` want.
    pub(super) fn answer(&self, params: &Value) -> Result<Answer, Fault> {
        let help = "wanted is {\"device\": NAME} or {\"all\": true}";
        let bad = |why: &str| Fault::new(Code::BadParams, format!("{why}; {help}"));
        let which = match Wanted::deserialize(params).map_err(|e| bad(&e.to_string()))? {
            Wanted { device: Some(name), all: false } => Which::Device(name),
            Wanted { device: None, all: true } => Which::All,
            _ => return Err(bad("either one device or all")),
        };
        self.wish(&which).map(|forgotten| Answer { forgotten }).map_err(|near| {
            let Which::Device(name) = &which else { return Fault::new(Code::Failed, "there are no devices") };
            let hint =
                near.map_or("`trunkline status` lists them".to_owned(), |near| format!("did you mean `{near}`?"));
            Fault::new(Code::BadParams, format!("no device `{name}`; {hint}"))
        })
    }
}

impl fmt::Debug for Forget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forget")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn forget() -> Forget {
        Forget::new(|which| {
            let one = |n: usize| Forgotten { device: format!("m{n}"), holes: vec!["holding 4".to_owned(); n] };
            match which {
                Which::All => Ok(vec![one(1), one(2)]),
                Which::Device(name) if name == "m2" => Ok(vec![one(2)]),
                Which::Device(name) => Err(name.starts_with('m').then(|| "m2".to_owned())),
            }
        })
    }

    #[test]
    fn one_device_or_all_are_forgotten_and_what_was_known_is_told() {
        let counts = |params: Value| {
            let answer = forget().answer(&params).unwrap();
            answer.forgotten.iter().map(|f| (f.device.clone(), f.holes.len())).collect::<Vec<_>>()
        };
        assert_eq!(counts(json!({"device": "m2"})), [("m2".to_owned(), 2)]);
        assert_eq!(counts(json!({"all": true})), [("m1".to_owned(), 1), ("m2".to_owned(), 2)]);
    }

    #[test]
    fn a_wrong_wish_is_answered_with_what_could_be_meant() {
        let said = |params: Value| forget().answer(&params).unwrap_err().to_string();
        assert_eq!(said(json!({"device": "m3"})), "no device `m3`; did you mean `m2`?");
        assert_eq!(said(json!({"device": "x"})), "no device `x`; `trunkline status` lists them");
        for odd in [json!({}), json!({"device": "m2", "all": true}), json!({"line": "hall"}), Value::Null] {
            assert!(said(odd.clone()).contains(r#"{"device": NAME} or {"all": true}"#), "{odd}");
        }
    }
}
