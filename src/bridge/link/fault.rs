//! Why a link ended, in words for people, and named by what is done next.

use rumqttc as v5;
use rumqttc_v4 as v4;

use super::tls;

/// Why a link ended, named by what is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::bridge) enum Fault {
    /// The peer does not speak this version: try the other.
    Version(String),
    /// The peer hung up on CONNECT: it may be away behind a proxy, or be old and know no better.
    HungUp(String),
    /// The peer said no: try again, but not soon.
    Refused(String),
    /// Another client came with our client id: try again, but not soon.
    TakenOver,
    /// The peer took the connection, and closed it without a word.
    Closed(String),
    /// Anything on the way: try again soon.
    Broken(String),
}

impl Fault {
    /// The words for people.
    pub(in crate::bridge) fn words(&self) -> &str {
        match self {
            Self::Version(w) | Self::HungUp(w) | Self::Refused(w) | Self::Closed(w) | Self::Broken(w) => w,
            Self::TakenOver => "the session was taken over",
        }
    }
}

pub(super) fn fault_v5(error: &v5::ConnectionError, up: bool) -> Fault {
    use v5::ConnectReturnCode as C;
    use v5::ConnectionError as E;
    use v5::DisconnectReasonCode as D;
    use v5::StateError as S;
    // This one hides what is inside from `source`.
    let inside: &(dyn std::error::Error + 'static) = match error {
        E::MqttState(S::Deserialization(inside)) => inside,
        whole => whole,
    };
    if let Some(fault) = tls::fault(inside) {
        return fault;
    }
    match error {
        E::ConnectionRefused(code) | E::MqttState(S::ConnFail { reason: code }) => match code {
            C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => {
                Fault::Version("the peer does not speak MQTT 5".to_owned())
            }
            C::ServerBusy | C::ServerUnavailable | C::ServiceUnavailable => {
                Fault::Broken(format!("the peer refused the connection: {code:?}"))
            }
            code => Fault::Refused(format!("the peer refused the connection: {code:?}")),
        },
        E::MqttState(S::ServerDisconnect { reason_code: D::SessionTakenOver, .. }) => Fault::TakenOver,
        E::MqttState(S::ServerDisconnect { reason_code, reason_string }) => {
            let more = reason_string.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
            let words = format!("the peer ended the connection: {reason_code:?}{more}");
            match reason_code {
                D::ServerShuttingDown | D::ServerBusy | D::KeepAliveTimeout | D::AdministrativeAction => {
                    Fault::Broken(words)
                }
                _ => Fault::Refused(words),
            }
        }
        // Brokers that only know 3.1.1 hang up on a CONNECT of version 5, or answer in their own layout; so does a link
        // that breaks in the middle of the answer.
        E::MqttState(S::Deserialization(_)) | E::NotConnAck(_) if !up => {
            Fault::HungUp(format!("no answer to MQTT 5: {error}"))
        }
        E::MqttState(S::ConnectionAborted) if !up => Fault::HungUp("the peer hung up on CONNECT".to_owned()),
        E::Io(e) | E::MqttState(S::Io(e)) if !up && hung_up(e) => {
            Fault::HungUp(format!("the peer hung up on CONNECT: {e}"))
        }
        E::MqttState(S::ConnectionAborted) => Fault::Closed("the peer closed the connection".to_owned()),
        E::Io(e) | E::MqttState(S::Io(e)) if hung_up(e) => {
            Fault::Closed(format!("the peer closed the connection: {e}"))
        }
        E::Io(e) | E::MqttState(S::Io(e)) => Fault::Broken(e.to_string()),
        E::Tls(v5::TlsError::Io(e)) if hung_up(e) => Fault::Broken(format!("TLS: {e}")),
        E::Tls(e) => Fault::Refused(format!("TLS: {e}")),
        other => Fault::Broken(other.to_string()),
    }
}

pub(super) fn fault_v4(error: &v4::ConnectionError, up: bool) -> Fault {
    use v4::ConnectionError as E;
    use v4::StateError as S;
    if let Some(fault) = tls::fault(error) {
        return fault;
    }
    match error {
        E::ConnectionRefused(v4::ConnectReturnCode::RefusedProtocolVersion) => {
            Fault::Version("the peer does not speak MQTT 3.1.1".to_owned())
        }
        E::ConnectionRefused(code) => Fault::Refused(format!("the peer refused the connection: {code:?}")),
        E::Tls(e) => Fault::Refused(format!("TLS: {e}")),
        E::MqttState(S::ConnectionAborted) if up => Fault::Closed("the peer closed the connection".to_owned()),
        E::Io(e) | E::MqttState(S::Io(e)) if up && hung_up(e) => {
            Fault::Closed(format!("the peer closed the connection: {e}"))
        }
        other if up => Fault::Broken(other.to_string()),
        // Nobody there is no reason to think that it is too old for this version.
        E::Io(e) | E::MqttState(S::Io(e)) if !hung_up(e) => Fault::Broken(e.to_string()),
        other => Fault::Version(other.to_string()),
    }
}

pub(super) fn hung_up(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
