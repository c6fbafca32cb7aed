//! What a preset makes of an upstream: sets what the cloud needs, notes what it set, and refuses what the cloud forbids,
//! with the limit. The facts are in `preset`; here is only who is told what.

use std::sync::Arc;

use crate::config::Note;
use crate::config::check::Checker;
use crate::config::node::At;
use crate::config::node::Node;
use crate::config::plant::Direction;
use crate::config::plant::Endpoint;
use crate::config::plant::MqttVersion;
use crate::config::plant::Point;
use crate::config::plant::Rest;
use crate::config::plant::Scheme;
use crate::config::plant::Secret;
use crate::config::plant::Upstream;
use crate::config::preset::Facts;
use crate::config::preset::Login;
use crate::config::preset::Preset;
use crate::config::preset::Retained;
use crate::config::route::deciding;
use crate::payload::Format;
use crate::topic::TopicFilter;

/// Where ThingsBoard takes the values of one device, and of the devices behind a gateway.
const THINGSBOARD_TOPICS: [&str; 2] = ["v1/devices/me/telemetry", "v1/gateway/telemetry"];

/// The upstream that is being read, as far as its rules must know it.
pub(super) struct Cloud {
    pub(super) upstream: Arc<str>,
    pub(super) preset: Option<Preset>,
    pub(super) client_id: Arc<str>,
    /// A rule lost its retain flag without having asked for it.
    pub(super) stripped: bool,
}

impl Cloud {
    pub(super) fn facts(&self) -> Option<&'static Facts> {
        self.preset.map(Preset::facts)
    }

    fn filled(&self, pattern: &str) -> String {
        // A module's client id is DEVICE/MODULE, its topics have a level of their own between.
        let id = match self.client_id.split_once('/') {
            Some((device, module)) => format!("{device}/modules/{module}"),
            None => self.client_id.to_string(),
        };
        pattern.replace("{client_id}", &id)
    }
}

impl Checker {
    pub(super) fn preset(&mut self, node: &Node) -> Option<Preset> {
        let words = Preset::ALL.map(|preset| (preset.facts().word, preset));
        self.reader.word(node.get("preset")?, &words)
    }

    fn note(&mut self, upstream: &Arc<str>, text: String) {
        self.notes.push(Note { upstream: Arc::clone(upstream), text });
    }

    pub(super) fn cloud_endpoint(&mut self, preset: Preset, at: At, endpoint: &Endpoint) {
        let Facts { cloud, tls_only, web_socket, .. } = *preset.facts();
        let plain = matches!(endpoint.scheme, Scheme::Mqtt | Scheme::Ws);
        if tls_only && plain {
            let help = format!("write mqtts://{}:8883", endpoint.host);
            self.reader.error(at, format!("{endpoint} is not encrypted, {cloud} takes TLS only"), help);
        }
        if !web_socket && matches!(endpoint.scheme, Scheme::Ws | Scheme::Wss) {
            let help = format!("write mqtts://{}:8883, or mqtts://{0}:443 where 8883 is blocked", endpoint.host);
            self.reader.error(at, format!("{cloud} wants signed requests on WebSocket, which this is not"), help);
        }
    }

    pub(super) fn cloud_version(&mut self, preset: Preset, said: Option<(At, MqttVersion)>) -> Option<MqttVersion> {
        let only = preset.facts().version?;
        if let Some((at, _)) = said.filter(|(_, version)| *version != only) {
            let cloud = preset.facts().cloud;
            self.reader.error(at, format!("{cloud} speaks MQTT 3.1.1 only"), "leave `mqtt` out, or write mqtt: 3.1.1");
        }
        Some(only)
    }

    /// A filter of `receive`.
    pub(super) fn cloud_filter(&mut self, cloud: &Cloud, at: At, filter: &TopicFilter) {
        let Some(facts) = cloud.facts().filter(|f| !f.topic.receive.is_empty()) else { return };
        let allowed: Vec<String> = facts.topic.receive.iter().map(|p| cloud.filled(p)).collect();
        if !allowed.iter().any(|p| filter.as_str().starts_with(p)) {
            let message = format!("`{filter}`: {} is no broker, it has topics of its own", facts.cloud);
            self.reader.error(at, message, format!("a filter begins with {}", allowed.join(" or ")));
        }
    }

    /// A whole topic of `send`.
    pub(super) fn cloud_topic(&mut self, cloud: &Cloud, at: At, topic: &str) {
        let Some(facts) = cloud.facts() else { return };
        let allowed: Vec<String> = facts.topic.send.iter().map(|p| cloud.filled(p)).collect();
        if !allowed.is_empty() && !allowed.iter().any(|p| topic.starts_with(p)) {
            let message = format!("`{topic}`: {} is no broker, it has topics of its own", facts.cloud);
            self.reader.error(at, message, format!("it begins with {}", allowed.join(" or ")));
        }
    }

    /// The prefix of a `send` rule, and what follows it; `said` is where the rule says something about its names.
    pub(super) fn cloud_prefix(&mut self, cloud: &Cloud, said: Option<At>, prefix: String) -> (String, Rest) {
        match (cloud.preset, said) {
            (Some(Preset::Azure), Some(at)) if !prefix.is_empty() => {
                self.cloud_topic(cloud, at, &prefix);
                (prefix, Rest::Encoded)
            }
            (Some(Preset::Azure), _) => {
                (format!("{}topic=", cloud.filled("devices/{client_id}/messages/events/")), Rest::Encoded)
            }
            (Some(Preset::ThingsBoard), None) => (THINGSBOARD_TOPICS[0].to_owned(), Rest::LeftOut),
            _ => (prefix, Rest::AsIs),
        }
    }

    /// The upstream as a whole.
    pub(super) fn cloud(&mut self, preset: Preset, node: &Node, cloud: &Cloud, upstream: &mut Upstream) {
        let facts = preset.facts();
        let at = |key: &str| node.get(key).map_or(node.at, |n| n.at);
        self.cloud_bounds(facts, node, upstream);
        if let Some(most) = facts.receives.filter(|most| upstream.receive.len() > *most) {
            let (have, name) = (upstream.receive.len(), facts.cloud);
            let message = format!("{have} rules, {name} takes {most} subscriptions at once");
            self.reader.error(at("receive"), message, "join some of them with a wildcard");
        }
        match facts.login {
            Login::Any => {}
            Login::Named => self.named(facts, node, upstream),
            Login::IotHub => self.iot_hub(node, upstream),
        }
        self.tell(preset, cloud, upstream);
    }

    fn cloud_bounds(&mut self, facts: &Facts, node: &Node, upstream: &Upstream) {
        let at = |key: &str| node.get(key).map_or(node.at, |n| n.at);
        let (least, most) = facts.keep_alive;
        if !(least..=most).contains(&upstream.keep_alive) {
            let (least, most) = (least.as_secs(), most.as_secs());
            let message = format!("{} takes a keep-alive of {least} to {most} seconds", facts.cloud);
            self.reader.error(at("keep_alive"), message, "30s is usual");
        }
        if let Some(most) = facts.in_flight.filter(|most| upstream.in_flight > *most) {
            let message = format!("{} in flight, {} takes {most} unacknowledged", upstream.in_flight, facts.cloud);
            self.reader.error(at("in_flight"), message, format!("write in_flight: {most}, or leave it out"));
        }
        let bytes = upstream.client_id.len();
        if let Some(most) = facts.client_id.filter(|most| bytes > *most) {
            let message = format!("a client id of {bytes} bytes, {} takes at most {most}", facts.cloud);
            self.reader.error(at("client_id"), message, "");
        }
    }

    fn named(&mut self, facts: &Facts, node: &Node, upstream: &Upstream) {
        if upstream.username.is_some() || upstream.tls.client.is_some() {
            return;
        }
        let help = match facts.word {
            "aws" => "name the thing's certificate: tls: {cert: thing.pem, key: thing.key}",
            "thingsboard" => "the device's access token is the user name: username: {file: token}",
            _ => "write username and password: {file: …}, as made in its console",
        };
        let message = format!("neither a user name nor a client certificate: {} lets nobody in without", facts.cloud);
        self.reader.error(node.at, message, help);
    }

    fn iot_hub(&mut self, node: &Node, upstream: &mut Upstream) {
        if upstream.password.is_none() && upstream.tls.client.is_none() {
            let help = "password: {file: sas.token}, or tls: {cert: device.pem, key: device.key}";
            self.reader.error(node.at, "Azure IoT Hub wants a SAS token as password, or a client certificate", help);
        }
        let Some(host) = upstream.endpoints.first().map(|e| e.host.clone()) else { return };
        if upstream.username.is_some() {
            return;
        }
        if let Some(failover) = node.get("failover") {
            let help = "write one upstream a hub, or `username` yourself";
            self.reader.error(failover.at, "the user name holds the hub's name, so another hub refuses it", help);
        }
        let name = format!("{host}/{}/?api-version=2021-04-12", upstream.client_id);
        self.note(&upstream.name, format!("user name {name}, the form Azure IoT Hub asks for"));
        upstream.username = Some(Secret::new(name));
    }

    /// What the file does not say and somebody may look for.
    fn tell(&mut self, preset: Preset, cloud: &Cloud, upstream: &Upstream) {
        let facts = preset.facts();
        let name = &upstream.name;
        if cloud.stripped {
            let text = match facts.retained {
                Retained::Never => format!("retain flags are taken off: {} keeps no messages", facts.cloud),
                _ if preset == Preset::Aws => "retain flags are taken off: AWS IoT Core ends the connection over one \
                     where the policy does not allow iot:RetainPublish; where it does, write retain: keep"
                    .to_owned(),
                _ => format!("retain flags are taken off: {} keeps time series, not messages", facts.cloud),
            };
            self.note(name, text);
        }
        if facts.version == Some(MqttVersion::V311) {
            self.note(name, format!("MQTT 3.1.1, the only version {} speaks", facts.cloud));
        }
        let alpn = facts.alpn.filter(|_| upstream.tls.alpn.is_empty());
        if let Some((port, alpn)) = alpn.filter(|(port, _)| upstream.endpoints.iter().any(|e| e.port == *port)) {
            self.note(name, format!("ALPN {alpn} on port {port}, where {} tells MQTT from HTTPS by it", facts.cloud));
        }
        if let Some(rate) = facts.rate {
            self.note(name, format!("at most {rate} messages a second, {} drops what is above", facts.cloud));
        }
        let renamed = |rest| upstream.send.iter().any(|rule| rule.rest == rest);
        if preset == Preset::Azure && renamed(Rest::Encoded) {
            let to = cloud.filled("devices/{client_id}/messages/events/");
            self.note(name, format!("topics become a property of messages to {to}, the only topic devices send to"));
        }
        if preset == Preset::ThingsBoard && renamed(Rest::LeftOut) {
            let [device, gateway] = THINGSBOARD_TOPICS;
            let text = format!("rules without a name send to {device}; topic: {gateway} is for several devices");
            self.note(name, text);
        }
    }

    /// The points against the topics and payloads that the clouds take: told here, not by a refusal at night.
    pub(super) fn topics_of_points(&mut self, upstreams: &[Upstream], points: &[Arc<Point>]) {
        for upstream in upstreams {
            let Some(preset) = upstream.preset else { continue };
            for (index, rule) in upstream.send.iter().enumerate() {
                let mine = points
                    .iter()
                    .filter(|p| deciding(&upstream.send, &p.series.topic).is_some_and(|(n, _)| n == index));
                let mut sent = mine.map(|p| (p, rule.rename(&p.series.topic)));
                let wrong = sent.find_map(|(point, name)| match name {
                    Ok(name) => unfit(preset, point, name.as_str()),
                    Err(e) => Some(format!("`{}` gets no name: {e}", point.series.topic)),
                });
                let ruled = self.rules.iter();
                let mut here = ruled.filter(|r| r.direction == Direction::Send && r.upstream == upstream.name);
                if let (Some(why), Some(at)) = (wrong, here.find(|r| r.index == index).map(|r| r.at)) {
                    self.reader.error(
                        at,
                        why,
                        "give the rule another `strip` or `prefix`, or the point another payload",
                    );
                }
            }
        }
    }
}

fn unfit(preset: Preset, point: &Point, name: &str) -> Option<String> {
    if let Some(why) = preset.topic_refusal(name) {
        return Some(format!("`{}` would go out as `{name}`: {why}", point.series.topic));
    }
    let bare = preset.facts().json && point.series.format == Format::Value;
    bare.then(|| {
        format!("`{}` is sent as a bare value, {} takes JSON objects", point.series.topic, preset.facts().cloud)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::Loaded;
    use crate::config::load_text;
    use crate::config::plant::RetainRule;
    use crate::topic::Qos;
    use crate::topic::TopicName;

    /// What each preset needs to be accepted, with room for more keys and for rules.
    const AWS: &str = "preset: aws, url: \"mqtts://x.iot.eu-central-1.amazonaws.com\", username: u";
    const AZURE: &str = "preset: azure, url: \"mqtts://c.azure-devices.net\", password: {file: secret}";
    const THINGSBOARD: &str = "preset: thingsboard, url: \"mqtts://tb\", username: {file: secret}";
    const MOSQUITTO: &str = "preset: mosquitto, url: \"mqtt://m\"";

    fn text(upstream: &str, more: &str) -> String {
        format!(
            "gateway: g\nlines: {{l: {{tcp: h}}}}\ndevices:\n  - {{name: d, line: l, unit_id: 1, points: {{p: {{holding: 1}}}}}}\n\
             upstreams:\n  up: {{{upstream}{more}}}\n"
        )
    }

    fn tried(text: &str) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "geheim\n").unwrap();
        load_text("t.yaml", text, folder.path()).map_err(|report| report.to_string())
    }

    fn loaded(upstream: &str, more: &str) -> Loaded {
        tried(&text(upstream, more)).unwrap_or_else(|said| panic!("{said}"))
    }

    #[test]
    fn what_a_cloud_forbids_is_refused_with_its_limit() {
        let send = ", send: [{filter: \"g/#\"}]";
        for (upstream, more, words) in [
            ("preset: azur, url: \"mqtts://h\"", send, "did you mean `azure`?"),
            ("preset: aws, url: \"mqtt://h\", username: u", send, "takes TLS only"),
            ("preset: aws, url: \"wss://h\", username: u", send, "signed requests"),
            ("preset: aws, url: \"mqtts://h\"", send, "lets nobody in without"),
            (AWS, ", keep_alive: 10s", "30 to 1200 seconds"),
            (AWS, ", in_flight: 101", "101 in flight, AWS IoT Core takes 100"),
            (AWS, ", send: [{filter: \"#\", qos: 2}]", "QoS 0 to 1 only"),
            (AWS, ", send: [{filter: \"#\", prefix: a/b/c/d/e/f/}]", "`g/d/p` would go out as `a/b/c/d/e/f/g/d/p`"),
            ("preset: azure, url: \"mqtts://h\"", send, "SAS token"),
            (AZURE, ", mqtt: 5", "speaks MQTT 3.1.1 only"),
            (AZURE, ", keep_alive: 1178s", "to 1177 seconds"),
            (AZURE, ", failover: [\"mqtts://other\"]", "another hub refuses it"),
            (AZURE, ", send: [{filter: \"#\", retain: keep}]", "keeps no messages"),
            (AZURE, ", send: [{filter: \"#\", prefix: plant/}]", "begins with devices/g/messages/events/"),
            (AZURE, ", receive: [{filter: \"cmd/#\"}]", "begins with devices/g/messages/devicebound/"),
            ("preset: hivemq, url: \"mqtts://h\"", send, "lets nobody in without"),
            ("preset: emqx, url: \"mqtts://h\"", send, "lets nobody in without"),
            ("preset: thingsboard, url: \"mqtts://h\"", send, "access token is the user name"),
            (THINGSBOARD, ", send: [{filter: \"#\", qos: 2}]", "QoS 0 to 1 only"),
            (MOSQUITTO, ", tls: {ca: secret}", "mqtt://m:1883 is not encrypted"),
            (MOSQUITTO, ", send: [{filter: \"#\", topic: a/+}]", "is no topic"),
            (MOSQUITTO, ", send: [{filter: \"#\", topic: a, prefix: b}]", "`prefix` beside `topic`"),
        ] {
            let said = tried(&text(upstream, more)).err().unwrap_or_default();
            assert!(said.contains("t.yaml:6:") && said.contains(words), "{upstream}{more}: no `{words}` in\n{said}");
        }
    }

    #[test]
    fn what_a_preset_sets_is_in_the_plant_and_in_the_notes() {
        let aws = loaded(AWS, ", send: [{filter: \"a/#\"}, {filter: \"b/#\", retain: keep}]");
        let rules: Vec<_> = aws.plant.upstreams[0].send.iter().map(|m| (m.retain, m.qos)).collect();
        let (never, keep) = ((RetainRule::Never, Qos::AtLeastOnce), (RetainRule::Keep, Qos::AtLeastOnce));
        assert_eq!(rules, [never, keep]);
        assert!(aws.notes.iter().any(|n| n.text.contains("iot:RetainPublish")), "{:?}", aws.notes);
        let azure = loaded(AZURE, ", send: [{filter: \"g/#\"}]").plant.upstreams.remove(0);
        assert_eq!(azure.username.unwrap().reveal(), "c.azure-devices.net/g/?api-version=2021-04-12");
        assert_eq!(azure.version, MqttVersion::V311);
        let named = azure.send[0].rename(&TopicName::new("g/d/p").unwrap()).unwrap();
        assert_eq!(named.as_str(), "devices/g/messages/events/topic=g%2Fd%2Fp");
        let own = loaded(MOSQUITTO, ", send: [{filter: \"#\"}]");
        assert_eq!((own.plant.upstreams[0].send[0].qos, own.notes.len()), (Qos::ExactlyOnce, 0));
    }

    #[test]
    fn a_module_of_an_azure_device_has_topics_of_its_own() {
        let upstream = loaded(AZURE, ", client_id: d/m, send: [{filter: \"#\"}]").plant.upstreams.remove(0);
        assert_eq!(upstream.send[0].prefix, "devices/d/modules/m/messages/events/topic=");
        assert_eq!(upstream.username.unwrap().reveal(), "c.azure-devices.net/d/m/?api-version=2021-04-12");
    }

    #[test]
    fn a_bare_value_is_no_telemetry() {
        let bare = text(THINGSBOARD, ", send: [{filter: \"#\"}]").replace("holding: 1", "holding: 1, payload: value");
        let said = tried(&bare).err().unwrap_or_default();
        assert!(said.contains("t.yaml:6:") && said.contains("ThingsBoard takes JSON objects"), "{said}");
    }

    #[test]
    fn every_example_of_the_documentation_loads() {
        let page = include_str!("../../../docs/upstreams.md");
        let blocks: Vec<_> = page.split("```yaml\n").skip(1).map(|b| b.split("```").next().unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        for block in &blocks {
            for key in ["file: ", "ca: ", "cert: ", "key: "] {
                for named in block.split(key).skip(1) {
                    let name = named.split([',', '}', ' ', '\n']).next().unwrap();
                    fs::write(folder.path().join(name), "x").unwrap();
                }
            }
            load_text("docs/upstreams.md", block, Path::new(folder.path())).unwrap_or_else(|r| panic!("{r}\n{block}"));
        }
        for preset in Preset::ALL {
            let word = format!("preset: {}\n", preset.facts().word);
            assert!(blocks.iter().any(|b| b.contains(&word)), "{word}");
        }
    }
}
