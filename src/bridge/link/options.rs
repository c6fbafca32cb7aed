//! What the client library is told before it connects: address, names, last will, TLS.

use std::fs;
use std::path::Path;
use std::sync::Arc;
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
use crate::config::plant::Tls;

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
            Some(p) => o.set_credentials(name, p.reveal().to_owned()),
            None => o.set_username(name),
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
            Some(p) => o.set_credentials(name, p.reveal().to_owned()),
            None => o.set_username(name),
        };
    }
    Ok(o)
}

fn seconds(keep_alive: Duration) -> u16 {
    u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX)
}

/// `None` for plain endpoints. Read anew for every connection, so that renewed certificates are used.
pub(super) fn tls(endpoint: &Endpoint, tls: &Tls) -> Result<Option<v5::TlsConfiguration>, Fault> {
    if matches!(endpoint.scheme, Scheme::Mqtt | Scheme::Ws) {
        return Ok(None);
    }
    let read = |path: &Path| fs::read(path).map_err(|e| Fault::Refused(format!("{}: {e}", path.display())));
    let client = tls.client.as_ref().map(|(cert, key)| Ok((read(cert)?, read(key)?))).transpose()?;
    let alpn: Vec<Vec<u8>> = tls.alpn.iter().map(|p| p.clone().into_bytes()).collect();
    let ca = match (&tls.ca, &client) {
        (Some(path), _) => Some(read(path)?),
        // The library joins a client certificate with roots only as one text.
        (None, Some(_)) => Some(system_bundle()?),
        (None, None) => None,
    };
    if let Some(ca) = ca {
        return Ok(Some(v5::TlsConfiguration::Simple { ca, alpn: Some(alpn), client_auth: client }));
    }
    let mut roots = v5::TlsConfiguration::try_default_rustls()
        .map_err(|e| Fault::Refused(format!("the system's certificates: {e}; name a `ca`")))?;
    if let v5::TlsConfiguration::Rustls(config) = &mut roots {
        Arc::make_mut(config).alpn_protocols = alpn;
    }
    Ok(Some(roots))
}

/// Where distributions keep all roots in one file.
fn system_bundle() -> Result<Vec<u8>, Fault> {
    let places = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let found = places.iter().find_map(|p| fs::read(p).ok());
    found.ok_or_else(|| Fault::Refused("no system certificates found: name a `ca`".to_owned()))
}
