//! What is known of clouds that gateways are often sent to: a table of facts, each from the cloud's own documents, which are
//! named beside it. The checker sets what follows from them and refuses what the cloud forbids; the bridge asks
//! [`Preset::refusal`] before it hands a message over. What could not be read in a document is not here.

use std::time::Duration;

use crate::config::plant::MqttVersion;
use crate::topic::Qos;

/// `preset:` of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// AWS IoT Core.
    Aws,
    /// Azure IoT Hub (not Event Grid, which is an ordinary broker and needs no preset).
    Azure,
    /// HiveMQ Cloud.
    HiveMq,
    /// ThingsBoard, hosted or one's own.
    ThingsBoard,
    /// EMQX Cloud.
    Emqx,
    /// Eclipse Mosquitto, as a bridge would.
    Mosquitto,
}

/// What becomes of the retain flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// An ordinary broker.
    Kept,
    /// Off unless a rule says `retain: keep`.
    OnlyIfTold,
    /// The cloud has no such thing.
    Never,
}

/// How somebody is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// As its owner set it up.
    Any,
    /// A user name (with or without a password) or a client certificate: nobody comes in without.
    Named,
    /// A user name of a fixed form, and a password or a client certificate.
    IotHub,
}

/// What a topic upstream may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TopicRule {
    /// Most bytes in UTF-8.
    pub bytes: Option<usize>,
    /// Most slashes; AWS does not count those of `$aws/rules/NAME/`.
    pub slashes: Option<usize>,
    /// It begins with one of these; `{client_id}` stands for the client id.
    pub send: &'static [&'static str],
    /// Filters of `receive` begin with one of these.
    pub receive: &'static [&'static str],
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The word in the file.
    pub word: &'static str,
    /// Its name for people.
    pub cloud: &'static str,
    /// Only `mqtts` and `wss`.
    pub tls_only: bool,
    /// `ws` and `wss` can be spoken by a client that signs no requests.
    pub web_socket: bool,
    /// The only version it speaks.
    pub version: Option<MqttVersion>,
    /// Highest QoS.
    pub qos: Qos,
    /// QoS of a rule that says nothing.
    pub usual_qos: Qos,
    /// What becomes of the retain flag.
    pub retained: Retained,
    /// Bounds of the keep-alive.
    pub keep_alive: (Duration, Duration),
    /// Most unacknowledged publishes at once.
    pub in_flight: Option<u16>,
    /// Most publishes in a second on one connection.
    pub rate: Option<u32>,
    /// Most bytes of a payload.
    pub payload: Option<usize>,
    /// Payloads are JSON.
    pub json: bool,
    /// Most bytes of a client id.
    pub client_id: Option<usize>,
    /// Most `receive` rules.
    pub receives: Option<usize>,
    /// ALPN protocol that is needed on a port.
    pub alpn: Option<(u16, &'static str)>,
    /// Who comes in.
    pub login: Login,
    /// What topics look like.
    pub topic: TopicRule,
}

/// An ordinary broker. 5 s to 3600 s is what the checker takes for any upstream.
const ORDINARY: Facts = Facts {
    word: "",
    cloud: "",
    tls_only: false,
    web_socket: true,
    version: None,
    qos: Qos::ExactlyOnce,
    usual_qos: Qos::AtLeastOnce,
    retained: Retained::Kept,
    keep_alive: (Duration::from_secs(5), Duration::from_secs(3600)),
    in_flight: None,
    rate: None,
    payload: None,
    json: false,
    client_id: None,
    receives: None,
    alpn: None,
    login: Login::Any,
    topic: TopicRule { bytes: None, slashes: None, send: &[], receive: &[] },
};

/// "AWS IoT Core endpoints and quotas" (AWS General Reference): keep-alive 30–1200 s, 100 unacknowledged publishes, 100
/// publishes a second and connection, payload 128 KB, 7 slashes and 256 bytes of topic, client id 128 bytes, 8 filters in one
/// SUBSCRIBE (the last four also in the AWS IoT Device SDK, `AwsIotCoreDefaults`). "Device communication protocols" (AWS IoT Core Developer Guide): X.509 on 8883, or on 443 with
/// ALPN `x-amzn-mqtt-ca`; WebSocket wants Signature Version 4. "MQTT" (same guide): QoS 2 gets no answer; a publish with the
/// retain flag ends the connection in older regions, and needs a permission of its own (`iot:RetainPublish`) today.
const AWS: Facts = Facts {
    word: "aws",
    cloud: "AWS IoT Core",
    tls_only: true,
    web_socket: false,
    qos: Qos::AtLeastOnce,
    retained: Retained::OnlyIfTold,
    keep_alive: (Duration::from_secs(30), Duration::from_secs(1200)),
    in_flight: Some(100),
    rate: Some(100),
    payload: Some(128 << 10),
    client_id: Some(128),
    receives: Some(8),
    alpn: Some((443, "x-amzn-mqtt-ca")),
    login: Login::Named,
    topic: TopicRule { bytes: Some(256), slashes: Some(7), send: &[], receive: &[] },
    ..ORDINARY
};

/// "Communicate with an IoT hub using the MQTT protocol" (Microsoft Learn): TLS only, 3.1.1 only, client id = device id, user
/// name `HOST/DEVICE/?api-version=2021-04-12`, a SAS token as password or a certificate; QoS 2 closes the connection,
/// retained messages are not kept; topics `devices/DEVICE/messages/events/` with a property bag, for modules
/// `devices/DEVICE/modules/MODULE/…`; five subscriptions; keep-alive at most 1177 s. The table there that compares IoT Hub with
/// Event Grid: messages of at most 256 KB.
const AZURE: Facts = Facts {
    word: "azure",
    cloud: "Azure IoT Hub",
    tls_only: true,
    version: Some(MqttVersion::V311),
    qos: Qos::AtLeastOnce,
    retained: Retained::Never,
    keep_alive: (Duration::from_secs(5), Duration::from_secs(1177)),
    payload: Some(256 << 10),
    receives: Some(5),
    login: Login::IotHub,
    topic: TopicRule {
        bytes: None,
        slashes: None,
        send: &["devices/{client_id}/messages/events/", "$iothub/"],
        receive: &["devices/{client_id}/messages/devicebound/", "$iothub/"],
    },
    ..ORDINARY
};

/// TLS on 8883 with SNI, and credentials made in its console: as projects that connect to it document (mqtt-c issue 186,
/// mqtt-nio discussion 142); no page of HiveMQ's own with limits was found. An ordinary broker otherwise.
const HIVEMQ: Facts = Facts { word: "hivemq", cloud: "HiveMQ Cloud", tls_only: true, login: Login::Named, ..ORDINARY };

/// "MQTT Device API Reference" and "MQTT Gateway API Reference" (thingsboard.io): QoS 0 and 1, the access token as user name or
/// an X.509 certificate, fixed topics `v1/devices/me/…` and `v1/gateway/…` with JSON; values are stored as time series, no
/// message is kept for later subscribers.
const THINGSBOARD: Facts = Facts {
    word: "thingsboard",
    cloud: "ThingsBoard",
    qos: Qos::AtLeastOnce,
    retained: Retained::OnlyIfTold,
    json: true,
    login: Login::Named,
    ..ORDINARY
};

/// "Quotas and Limits" (EMQX Platform documentation): no anonymous access. Serverless speaks TLS only, Dedicated also plain
/// TCP; the size of messages can be raised in Dedicated and is told in CONNACK, so it is no limit here.
const EMQX: Facts = Facts { word: "emqx", cloud: "EMQX Cloud", login: Login::Named, ..ORDINARY };

/// mosquitto(8) and mosquitto.conf(5): all of MQTT 5 and 3.1.1, so nothing is taken away, QoS 2 included.
const MOSQUITTO: Facts = Facts { word: "mosquitto", cloud: "Mosquitto", usual_qos: Qos::ExactlyOnce, ..ORDINARY };

impl Preset {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 6] = [Self::Aws, Self::Azure, Self::HiveMq, Self::ThingsBoard, Self::Emqx, Self::Mosquitto];

    /// Its row.
    pub const fn facts(self) -> &'static Facts {
        match self {
            Self::Aws => &AWS,
            Self::Azure => &AZURE,
            Self::HiveMq => &HIVEMQ,
            Self::ThingsBoard => &THINGSBOARD,
            Self::Emqx => &EMQX,
            Self::Mosquitto => &MOSQUITTO,
        }
    }

    /// Why a topic of ours has no place there, whatever it says: states and gaps are JSON, but no time series.
    pub fn own_refusal(self, ours: &str, topic: &str) -> Option<String> {
        let is_own = ours.split('/').any(|level| level.starts_with('$'));
        let wrong = self == Self::ThingsBoard && is_own && topic.ends_with("/telemetry");
        wrong.then(|| format!("the gateway's own topics are no telemetry of {}", self.facts().cloud))
    }

    /// Why the cloud would not take this; `None` when it does.
    pub fn refusal(self, topic: &str, payload: &[u8]) -> Option<String> {
        let Facts { cloud, json, payload: most, .. } = *self.facts();
        if let Some(why) = self.topic_refusal(topic) {
            return Some(why);
        }
        if let Some(most) = most.filter(|most| payload.len() > *most) {
            return Some(format!("{} bytes, {cloud} takes payloads of at most {most}", payload.len()));
        }
        (json && !is_json_object(payload)).then(|| format!("no JSON object, and {cloud} takes nothing else"))
    }

    /// The part of [`Self::refusal`] that can be told from the topic alone.
    pub fn topic_refusal(self, topic: &str) -> Option<String> {
        let Facts { cloud, topic: rule, .. } = *self.facts();
        let counted = if self == Self::Aws { behind_basic_ingest(topic) } else { topic };
        let slashes = counted.bytes().filter(|b| *b == b'/').count();
        if let Some(most) = rule.slashes.filter(|most| slashes > *most) {
            return Some(format!("{slashes} slashes in its topic, {cloud} takes at most {most}"));
        }
        let most = rule.bytes.filter(|most| counted.len() > *most)?;
        Some(format!("{} bytes of topic, {cloud} takes at most {most}", counted.len()))
    }
}

/// An object, or a list of them; a bare number is JSON too, but no telemetry.
fn is_json_object(payload: &[u8]) -> bool {
    payload.starts_with(b"{") | payload.starts_with(b"[")
        && serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok()
}

/// Basic Ingest: `$aws/rules/NAME/` in front does not count.
fn behind_basic_ingest(topic: &str) -> &str {
    topic.strip_prefix("$aws/rules/").and_then(|rest| rest.split_once('/')).map_or(topic, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_counts_slashes_and_bytes_but_not_those_of_a_rule_in_front() {
        let refused = |topic: &str| Preset::Aws.refusal(topic, b"1");
        assert_eq!(refused("a/b/c/d/e/f/g/h"), None);
        assert!(refused("a/b/c/d/e/f/g/h/i").unwrap().contains("8 slashes"));
        assert_eq!(refused("$aws/rules/store/a/b/c/d/e/f/g/h"), None);
        assert_eq!(refused(&"x".repeat(256)), None);
        assert!(refused(&"ü".repeat(129)).unwrap().contains("258 bytes"));
    }

    #[test]
    fn a_payload_is_held_against_the_limit_to_the_byte() {
        for (preset, most) in [(Preset::Aws, 131_072), (Preset::Azure, 262_144)] {
            assert_eq!(preset.refusal("t", &vec![b'x'; most]), None);
            assert!(preset.refusal("t", &vec![b'x'; most + 1]).unwrap().contains(&most.to_string()));
        }
        assert_eq!(Preset::Mosquitto.refusal("t", &vec![b'x'; 1 << 20]), None);
    }

    #[test]
    fn thingsboard_gets_json_objects_only() {
        let taken = |text: &str| Preset::ThingsBoard.refusal("v1/devices/me/telemetry", text.as_bytes()).is_none();
        assert!(taken(r#"{"a":1}"#) && taken(r#"[{"ts":1,"values":{"a":1}}]"#));
        assert!(!taken("offline") && !taken("23.5") && !taken(r#"{"a":}"#));
    }

    #[test]
    fn states_are_no_telemetry_but_may_be_attributes() {
        let refused = |ours, topic| Preset::ThingsBoard.own_refusal(ours, topic).is_some();
        assert!(refused("g/$state", "v1/devices/me/telemetry") && refused("g/d/$state", "v1/gateway/telemetry"));
        assert!(!refused("g/d/$state", "v1/devices/me/attributes") && !refused("g/d/p", "v1/gateway/telemetry"));
        assert_eq!(Preset::Aws.own_refusal("g/$state", "x/telemetry"), None);
    }

    #[test]
    fn each_preset_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Preset::ALL.iter().map(|p| p.facts().word).collect();
        assert_eq!(words.len(), Preset::ALL.len());
        assert!(!words.contains(""));
    }
}
