//! What the client library is told before it connects: address, names, last will, TLS.

use std::time::Duration;

use rumqttc as v5;
use rumqttc_v4 as v4;

use super::Fault;
use super::Target;
use super::dial::dial;
use super::qos_v4;
use super::qos_v5;
use crate::config::plant::Endpoint;
use crate::config::plant::Scheme;

/// Largest packet taken from upstream.
const INCOMING_MOST: u32 = 1 << 20;
/// The task gives up long before; the library must not be the first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn options_v5(t: &Target<'_>, tls: Option<v5::TlsConfiguration>) -> Result<v5::MqttOptions, Fault> {
    let id = t.settings.client_id.to_string();
    let Endpoint { scheme, host, port, path } = t.endpoint;
    let bad = |e: &dyn std::fmt::Display| Fault::Refused(format!("{}: {e}", t.endpoint));
    let mut o = match (scheme, tls) {
        (Scheme::Wss, Some(tls)) => {
            v5::MqttOptions::websocket_with_tls_config(id, format!("wss://{host}:{port}{path}"), tls)
                .map_err(|e| bad(&e))?
        }
        (Scheme::Ws, _) => {
            let broker = v5::Broker::websocket(format!("ws://{host}:{port}{path}")).map_err(|e| bad(&e))?;
            v5::MqttOptions::new(id, broker)
        }
        (_, tls) => {
            let mut o = v5::MqttOptions::new(id, v5::Broker::tcp(host.clone(), *port));
            if let Some(tls) = tls {
                o.set_transport(v5::Transport::tls_with_config(tls));
            }
            o
        }
    };
    o.set_keep_alive(seconds(t.settings.keep_alive));
    o.set_connect_timeout(CONNECT_TIMEOUT);
    o.set_socket_connector(|address, _| dial(address));
    o.set_clean_start(true);
    o.set_incoming_packet_size_limit(v5::IncomingPacketSizeLimit::Bytes(INCOMING_MOST));
    o.set_outgoing_inflight_upper_limit(t.settings.in_flight);
    if let Some(will) = t.will {
        let topic = will.topic.as_str();
        o.set_last_will(v5::LastWill::new(topic, "offline", qos_v5(will.qos), will.retain, None));
    }
    if let Some(name) = &t.settings.username {
        match &t.settings.password {
            Some(p) => o.set_credentials(name.reveal(), p.reveal().to_owned()),
            None => o.set_username(name.reveal()),
        };
    }
    Ok(o)
}

pub(super) fn options_v4(t: &Target<'_>, tls: Option<v4::TlsConfiguration>) -> Result<v4::MqttOptions, Fault> {
    let id = t.settings.client_id.to_string();
    let Endpoint { scheme, host, port, path } = t.endpoint;
    let bad = |e: &dyn std::fmt::Display| Fault::Refused(format!("{}: {e}", t.endpoint));
    let mut o = match (scheme, tls) {
        (Scheme::Wss, Some(tls)) => {
            v4::MqttOptions::websocket_with_tls_config(id, format!("wss://{host}:{port}{path}"), tls)
                .map_err(|e| bad(&e))?
        }
        (Scheme::Ws, _) => {
            let broker = v4::Broker::websocket(format!("ws://{host}:{port}{path}")).map_err(|e| bad(&e))?;
            v4::MqttOptions::new(id, broker)
        }
        (_, tls) => {
            let mut o = v4::MqttOptions::new(id, v4::Broker::tcp(host.clone(), *port));
            if let Some(tls) = tls {
                o.set_transport(v4::Transport::tls_with_config(tls));
            }
            o
        }
    };
    o.set_keep_alive(seconds(t.settings.keep_alive));
    o.set_socket_connector(|address, _| dial(address));
    o.try_set_clean_session(true).map_err(|e| bad(&e))?;
    o.set_max_packet_size(INCOMING_MOST as usize, usize::try_from(u32::MAX).unwrap_or(usize::MAX));
    o.try_set_inflight(t.settings.in_flight.max(1)).map_err(|e| bad(&e))?;
    if let Some(will) = t.will {
        o.set_last_will(v4::LastWill::new(will.topic.as_str(), "offline", qos_v4(will.qos), will.retain));
    }
    if let Some(name) = &t.settings.username {
        match &t.settings.password {
            Some(p) => o.set_credentials(name.reveal(), p.reveal().to_owned()),
            None => o.set_username(name.reveal()),
        };
    }
    Ok(o)
}

fn seconds(keep_alive: Duration) -> u16 {
    u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX)
}
