//! `lines`: trunks and endpoints.

use std::time::Duration;

use crate::config::check::Checker;
use crate::config::node::At;
use crate::config::node::Node;
use crate::config::plant::CharFormat;
use crate::config::plant::Line;
use crate::config::plant::Parity;
use crate::config::plant::Port;
use crate::config::plant::Rs485;
use crate::config::plant::SerialPort;
use crate::point::LineId;

pub(in crate::config) const LINE_KEYS: &[&str] = &[
    "serial",
    "tcp",
    "rtu_over_tcp",
    "baud",
    "format",
    "timeout",
    "min_timeout",
    "retries",
    "rs485",
    "echo",
    "gap",
    "raw_access",
];
/// Keys that mean something on a serial port only.
const SERIAL_KEYS: &[&str] = &["baud", "format", "rs485", "echo", "gap"];
const TIMEOUT: Duration = Duration::from_millis(500);
/// A scheduler's hiccup or a busy USB hub stays below; a dead device is still found out in a fifth of the usual timeout.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

impl Checker {
    pub(super) fn lines(&mut self, roots: &[crate::config::node::Node]) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for (name, at, node) in self.joined(roots, "lines") {
            self.name(at, name);
            let Some(port) = self.port(node) else { continue };
            if let Some(other) = lines.iter().find(|l| same_port(&l.port, &port)) {
                let help = "one port is one line: hang all devices on it";
                self.reader.error(at, format!("`{name}` has the port of line `{}`", other.name), help);
            }
            let timeout = node.get("timeout").and_then(|n| self.timeout(n)).unwrap_or(TIMEOUT);
            let min_timeout = self.min_timeout(node, timeout);
            let retries = node.get("retries").and_then(|n| self.reader.int(n, 0, 10)).unwrap_or(1);
            let gap = node.get("gap").and_then(|n| self.gap(n));
            let id = LineId(u16::try_from(lines.len()).unwrap_or(u16::MAX));
            self.line_at.push(at);
            let retries = u8::try_from(retries).unwrap_or(1);
            let raw_access = node.get("raw_access").and_then(|n| self.reader.bool(n)).unwrap_or(false);
            lines.push(Line { id, name: name.into(), port, timeout, min_timeout, retries, gap, raw_access });
        }
        lines
    }

    fn port(&mut self, node: &Node) -> Option<Port> {
        self.reader.keys(node, LINE_KEYS);
        let kinds = ["serial", "tcp", "rtu_over_tcp"];
        let found: Vec<_> = kinds.into_iter().filter_map(|k| node.get(k).map(|n| (k, n))).collect();
        let [(kind, value)] = found[..] else {
            let help = "e.g. serial: /dev/serial/by-id/… or tcp: 192.168.1.10:502";
            self.reader.error(node.at, "a line has `serial`, `tcp` or `rtu_over_tcp`, one of them", help);
            return None;
        };
        if kind != "serial" {
            for (key, at, _) in node.entries().iter().filter(|(k, ..)| SERIAL_KEYS.contains(&k.as_str())) {
                self.reader.error(*at, format!("`{key}` means nothing on a `{kind}` line"), "take it out");
            }
            let address = self.address(value)?;
            return Some(if kind == "tcp" { Port::Tcp(address) } else { Port::RtuOverTcp(address) });
        }
        let path = self.reader.text(value)?.into();
        let baud = node.get("baud").and_then(|n| self.reader.int(n, 50, 4_000_000)).unwrap_or(19_200);
        let even = CharFormat { data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let format = node.get("format").and_then(|n| self.format(n)).unwrap_or(even);
        let rs485 = node.get("rs485").and_then(|n| self.rs485(n));
        let echo = node.get("echo").and_then(|n| self.reader.bool(n)).unwrap_or(false);
        Some(Port::Serial(SerialPort { path, baud: u32::try_from(baud).unwrap_or(19_200), format, rs485, echo }))
    }

    /// `host:port`, the port 502 where none is written.
    fn address(&mut self, node: &Node) -> Option<String> {
        let text = self.reader.text(node)?;
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse::<u16>().ok()),
            _ => (text.as_str(), Some(502)),
        };
        match port {
            Some(port) if port != 0 && !host.is_empty() => Some(format!("{host}:{port}")),
            _ => {
                self.reader.error(
                    node.at,
                    format!("`{text}` is no address"),
                    "write host:port, port 1 to 65535, e.g. 192.168.1.10:502",
                );
                None
            }
        }
    }

    pub(super) fn format(&mut self, node: &Node) -> Option<CharFormat> {
        let text = self.reader.text(node)?;
        let parsed = match text.as_bytes() {
            [data @ (b'7' | b'8'), parity, stop @ (b'1' | b'2')] => {
                let parity = match parity.to_ascii_uppercase() {
                    b'N' => Some(Parity::None),
                    b'E' => Some(Parity::Even),
                    b'O' => Some(Parity::Odd),
                    _ => None,
                };
                parity.map(|parity| CharFormat { data_bits: data - b'0', parity, stop_bits: stop - b'0' })
            }
            _ => None,
        };
        if parsed.is_none_or(|f| f.data_bits == 7) {
            let help = "8E1 is the Modbus default; RTU needs 8 data bits: 8N1, 8N2, 8E1, 8O1";
            self.reader.error(node.at, format!("`{text}` is no character format for RTU"), help);
        }
        parsed
    }

    fn timeout(&mut self, node: &Node) -> Option<Duration> {
        let timeout = self.reader.duration(node)?;
        if (Duration::from_millis(5)..=Duration::from_secs(60)).contains(&timeout) {
            return Some(timeout);
        }
        self.reader.error(node.at, "a timeout is 5ms to 60s", "300ms is usual on RS485, 1s over networks");
        None
    }

    /// Without a word 100 ms, or the timeout where that is shorter.
    fn min_timeout(&mut self, line: &Node, timeout: Duration) -> Duration {
        let usual = MIN_TIMEOUT.min(timeout);
        let Some(node) = line.get("min_timeout") else { return usual };
        let Some(least) = self.reader.duration(node) else { return usual };
        if least > timeout {
            let said = format!("`min_timeout` is above the timeout of {timeout:?}");
            self.reader.error(node.at, said, "the wait for a device is learnt between the two; make it smaller");
        } else if least < Duration::from_millis(10) {
            let help = "below, this machine's own pauses would look like a device that does not answer";
            self.reader.error(node.at, "a min_timeout is at least 10ms", help);
        }
        least
    }

    fn gap(&mut self, node: &Node) -> Option<Duration> {
        if self.reader.text(node)? == "auto" {
            return None;
        }
        let gap = self.reader.duration(node)?;
        if gap > Duration::from_secs(1) {
            self.reader.error(node.at, "a gap is at most 1s", "auto is right for nearly every device");
        }
        Some(gap)
    }

    fn rs485(&mut self, node: &Node) -> Option<Rs485> {
        self.reader.keys(node, &["kernel", "delay_before_send", "delay_after_send"]);
        let kernel = node.get("kernel").and_then(|n| self.reader.bool(n)).unwrap_or(false);
        let delay =
            |checker: &mut Self, key| node.get(key).and_then(|n| checker.reader.duration(n)).unwrap_or_default();
        let delay_before_send = delay(self, "delay_before_send");
        let delay_after_send = delay(self, "delay_after_send");
        kernel.then_some(Rs485 { delay_before_send, delay_after_send })
    }

    /// The line of that name; reported with near names where there is none.
    pub(super) fn line_named<'a>(&mut self, lines: &'a [Line], name: &str, at: At) -> Option<&'a Line> {
        let found = lines.iter().find(|l| &*l.name == name);
        if found.is_none() {
            let near = crate::config::node::near(name, lines.iter().map(|l| &*l.name));
            let all: Vec<_> = lines.iter().map(|l| &*l.name).collect();
            let help = near.map_or_else(|| format!("lines: {}", all.join(", ")), |n| format!("did you mean `{n}`?"));
            self.reader.error(at, format!("no line `{name}`"), help);
        }
        found
    }
}

fn same_port(a: &Port, b: &Port) -> bool {
    match (a, b) {
        (Port::Serial(a), Port::Serial(b)) => a.path == b.path,
        _ => false,
    }
}
