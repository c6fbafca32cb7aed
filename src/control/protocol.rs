//! What travels on the control socket, version 1: requests one way, replies the other, a JSON document a line.
//! No sockets here; both sides and the tests speak through these types.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version this program speaks. It grows when an old client could misunderstand an answer.
pub const VERSION: u32 = 1;

/// Longest request in bytes: room for the configuration of a large site (5,000 points are some 400 kB). The buffer grows with
/// what is really sent.
pub const MAX_REQUEST: usize = 2 * 1024 * 1024;

/// Longest reply in bytes: the status of a site of some thousand devices is below 2 MiB.
pub const MAX_REPLY: usize = 16 * 1024 * 1024;

/// One question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the asker.
    pub v: u32,
    /// Chosen by the asker, comes back with each reply to this question.
    pub id: u64,
    /// What is wanted, e.g. `status`.
    pub method: String,
    /// Arguments of the method.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

/// One line of an answer. A plain method gives one `Result` or one `Error`; a stream gives any number of `Item`s and
/// then `End`, or `Error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// The whole answer.
    Result {
        /// Of the request.
        id: u64,
        /// The answer.
        result: Value,
    },
    /// There is no answer, and why.
    Error {
        /// Of the request; 0 where the request could not be read.
        id: u64,
        /// Why.
        error: Fault,
    },
    /// One of several.
    Item {
        /// Of the request.
        id: u64,
        /// A part of the answer.
        item: Value,
    },
    /// No more items.
    End {
        /// Of the request.
        id: u64,
        /// Always true; makes the line readable by itself.
        end: bool,
    },
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The line is no request.
    BadRequest,
    /// `v` is not [`VERSION`].
    Version,
    /// No such method in this daemon.
    UnknownMethod,
    /// The method does not take these arguments.
    BadParams,
    /// The daemon is stopping.
    ShuttingDown,
    /// It was tried and did not work.
    Failed,
    /// A configuration is wrong; the message names every problem with its place.
    Configuration,
}

impl Fault {
    /// A refusal with its words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Reads one line as a request of this version.
pub fn read_request(line: &str) -> Result<Request, (u64, Fault)> {
    let request: Request =
        serde_json::from_str(line).map_err(|e| (0, Fault::new(Code::BadRequest, format!("not a request: {e}"))))?;
    if request.v != VERSION {
        let message =
            format!("this daemon speaks version {VERSION} of the protocol, the request is of version {}", request.v);
        return Err((request.id, Fault::new(Code::Version, message)));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_is_told_from_the_others_by_its_keys() {
        for (text, want) in [
            (r#"{"id":1,"result":{"a":1}}"#, Reply::Result { id: 1, result: serde_json::json!({"a": 1}) }),
            (r#"{"id":1,"item":2}"#, Reply::Item { id: 1, item: serde_json::json!(2) }),
            (r#"{"id":1,"end":true}"#, Reply::End { id: 1, end: true }),
            (
                r#"{"id":0,"error":{"code":"unknown_method","message":"no"}}"#,
                Reply::Error { id: 0, error: Fault::new(Code::UnknownMethod, "no") },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Reply>(text).unwrap(), want);
            assert_eq!(serde_json::to_string(&want).unwrap(), text);
        }
    }

    #[test]
    fn a_request_of_another_version_is_refused_by_number() {
        let (id, fault) = read_request(r#"{"v":2,"id":7,"method":"status"}"#).unwrap_err();
        assert_eq!((id, fault.code), (7, Code::Version));
        assert!(fault.message.contains("version 2"), "{fault}");
    }
}
