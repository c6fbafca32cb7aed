//! Ways round are refused, with both rules named. What came from an upstream is never sent to one, so nothing circles in the
//! gateway alone; but what it sends can come back, late and, where the peer keeps it, at every connection anew.

use std::net::IpAddr;

use crate::config::check::Checker;
use crate::config::check::mapping::Ruled;
use crate::config::loops::Loop;
use crate::config::loops::find;
use crate::config::plant::Broker;
use crate::config::plant::Direction;
use crate::config::plant::Endpoint;
use crate::config::plant::MqttVersion;
use crate::config::plant::Upstream;

impl Checker {
    pub(super) fn loops(&mut self, upstreams: &[Upstream], broker: &Broker) {
        for (at, endpoint) in self.urls.clone() {
            if is_own(&endpoint, broker) {
                let help = "an upstream is another broker; local clients connect to this one by themselves";
                self.reader.error(at, format!("{endpoint} is this gateway's own broker: all would go round"), help);
            }
        }
        let commands = format!("{}/+/+/set", self.gateway);
        let mut told = Vec::new();
        for found in find(upstreams, &commands) {
            // The first of several is enough to see what is wrong.
            if !told.contains(&found.receive) {
                told.push(found.receive);
                self.tell_loop(upstreams, &found);
            }
        }
        let echo = |found: &Loop| {
            let (a, b) = (found.send.0, found.receive.0);
            a != b || upstreams[a].version == MqttVersion::V311
        };
        for found in find(upstreams, NONE).into_iter().filter(echo) {
            if !told.contains(&found.receive) {
                told.push(found.receive);
                self.tell_echo(upstreams, &found);
            }
        }
    }

    /// The two rules and where they stand, `send` first.
    fn places(&self, upstreams: &[Upstream], found: &Loop) -> Option<(Ruled, Ruled)> {
        let place = |direction, (upstream, index): (usize, usize)| {
            let name = &upstreams[upstream].name;
            let mut rules = self.rules.iter().filter(|r| r.direction == direction && r.upstream == *name);
            rules.find(|r| r.index == index).cloned()
        };
        place(Direction::Send, found.send).zip(place(Direction::Receive, found.receive))
    }

    /// Commands come back where nothing tells the peer not to send them here.
    fn tell_echo(&mut self, upstreams: &[Upstream], found: &Loop) {
        let Some((send, receive)) = self.places(upstreams, found) else { return };
        let from = send.placed(&self.reader).place;
        let message = format!(
            "a command that is given here is sent by the rule in {from} and comes back by this one, so it is done twice: \
             only MQTT 5, over one upstream, knows not to send us our own"
        );
        let help = format!("send values only, filter: \"{}/+/+\", or let commands come by other topics", self.gateway);
        self.reader.warn(receive.at, message, help);
    }

    fn tell_loop(&mut self, upstreams: &[Upstream], found: &Loop) {
        let Some((send, receive)) = self.places(upstreams, found) else { return };
        let from = send.placed(&self.reader).place;
        let Loop { topic, there, back, .. } = found;
        let message = format!(
            "this rule brings back what the `send` rule in {from} sends: `{topic}` goes out as `{there}` and comes back \
             as `{back}`, which is sent again"
        );
        let help = format!(
            "give the two directions topics of their own, or take only commands: a filter that ends in /{}/+/+/set",
            self.gateway
        );
        self.reader.error(receive.at, message, help);
    }
}

/// A filter that matches no topic.
const NONE: &str = "";

/// Whether the broker of this very gateway listens there, as far as names tell.
fn is_own(endpoint: &Endpoint, broker: &Broker) -> bool {
    let ip: Option<IpAddr> = match endpoint.host.as_str() {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        host => host.parse().ok(),
    };
    let Some(ip) = ip else { return false };
    broker.listen.iter().any(|listener| {
        let here = listener.address.ip();
        listener.address.port() == endpoint.port
            && (here == ip || (here.is_unspecified() || here.is_loopback()) && ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::load_text;

    fn said(upstreams: &str) -> String {
        let text = format!("gateway: g\nupstreams:\n{upstreams}");
        load_text("t.yaml", &text, Path::new("")).err().map(|report| report.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_way_round_is_refused_with_both_places() {
        let text = said(
            "  a:\n    url: mqtt://h\n    send:\n      - {filter: \"g/#\", prefix: s/}\n    receive:\n      - {filter: \"s/#\", \
             strip: s/}\n",
        );
        assert!(text.contains("t.yaml:8:") && text.contains("the `send` rule in t.yaml:6"), "{text}");
        assert!(text.contains("comes back as `g"), "{text}");
    }

    #[test]
    fn a_way_round_through_two_upstreams_of_one_broker_is_refused_and_through_two_brokers_is_none() {
        let two = |host: &str| {
            said(&format!(
                "  a: {{url: \"mqtt://h\", send: [{{filter: \"g/#\"}}]}}\n  b: {{url: \"mqtt://{host}\", client_id: b, \
                 receive: [{{filter: \"g/#\"}}]}}\n"
            ))
        };
        assert!(two("H").contains("t.yaml:4:") && two("H").contains("t.yaml:3"), "{}", two("H"));
        assert_eq!(two("i"), "");
    }

    #[test]
    fn commands_may_use_the_topics_that_values_go_out_by() {
        let text = "  a:\n    url: mqtt://h\n    send: [{filter: \"g/#\", strip: g/, prefix: sites/g/}]\n    receive: [{filter: \
                    \"sites/g/+/+/set\", strip: sites/}]\n";
        assert_eq!(said(text), "");
    }

    #[test]
    fn commands_that_would_come_back_over_3_1_1_are_told() {
        let warned = |mqtt: &str, filter: &str| {
            let text = format!(
                "gateway: g\nupstreams:\n  a:\n    url: mqtt://h\n    mqtt: {mqtt}\n    send: [{{filter: \"{filter}\"}}]\n    \
                 receive: [{{filter: \"g/+/+/set\"}}]\n"
            );
            load_text("t.yaml", &text, Path::new("")).unwrap_or_else(|r| panic!("{r}")).warnings.to_string()
        };
        let told = warned("3.1.1", "g/#");
        assert!(told.contains("t.yaml:7:") && told.contains("the rule in t.yaml:6"), "{told}");
        assert!(!warned("5", "g/#").contains("done twice"));
        assert!(!warned("3.1.1", "g/+/+").contains("done twice"));
    }

    #[test]
    fn the_gateways_own_broker_is_no_upstream() {
        for host in ["localhost", "127.0.0.1", "127.0.0.1:1883"] {
            let text = said(&format!("  a: {{url: \"mqtt://{host}\", send: [{{filter: \"g/#\"}}]}}\n"));
            assert!(text.contains("t.yaml:3:") && text.contains("own broker"), "{host}: {text}");
        }
        assert_eq!(said("  a: {url: \"mqtt://127.0.0.1:1884\", send: [{filter: \"g/#\"}]}\n"), "");
    }
}
