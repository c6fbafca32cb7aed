//! The language as JSON Schema, so that editors complete and check while a person types. The keys come from the checker's
//! own tables; the schema is looser than the checker, which alone decides.

use serde_json::Value;
use serde_json::json;

use crate::config::check;
use crate::config::preset::Preset;

const DURATION: &str = "with its unit: 250ms, 5s, 15m, 12h, 7d";

/// The schema of `gateway.yaml` and of included files.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Trunkline configuration",
        "type": "object",
        "additionalProperties": false,
        "properties": properties(check::ROOT_KEYS, root),
        "$defs": {
            "duration": {"type": "string", "pattern": "^[0-9.]+(us|ms|s|m|h|d)$", "description": DURATION},
            "size": {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$"},
            "secret": {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": false,
                "properties": {"file": {"type": "string"}, "env": {"type": "string"}, "credential": {"type": "string"}}},
            "point": map(check::POINT_KEYS, point),
            "line": map(check::LINE_KEYS, line),
            "device": map(check::DEVICE_KEYS, device),
            "report": map(check::REPORT_KEYS, point),
            "rule": map(check::MAPPING_KEYS, rule),
        },
    })
}

fn map(keys: &[&str], of: fn(&str) -> Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": properties(keys, of)})
}

fn properties(keys: &[&str], of: fn(&str) -> Value) -> Value {
    keys.iter().map(|key| ((*key).to_owned(), of(key))).collect::<serde_json::Map<_, _>>().into()
}

fn list(of: &Value) -> Value {
    json!({"type": "array", "items": of})
}

fn by_name(of: &str) -> Value {
    json!({"type": "object", "additionalProperties": {"$ref": of}})
}

fn root(key: &str) -> Value {
    match key {
        "gateway" => json!({"type": "string", "description": "{gateway} in topics; default: the host name"}),
        "include" => list(&json!({"type": "string"})),
        "schedules" => json!({"type": "object", "additionalProperties": map(&["every", "align", "cron"], point)}),
        "lines" => by_name("#/$defs/line"),
        "devices" => list(&json!({"$ref": "#/$defs/device"})),
        "publish" => map(check::PUBLISH_KEYS, point),
        "broker" => map(check::BROKER_KEYS, broker),
        "upstreams" => json!({"type": "object", "additionalProperties": map(check::UPSTREAM_KEYS, upstream)}),
        "spool" => map(check::SPOOL_KEYS, spool),
        "stats" => {
            map(&["every"], |_| json!({"anyOf": [{"const": "never"}, {"$ref": "#/$defs/duration"}], "default": "60s"}))
        }
        _ => map(&["listen"], |_| json!({"type": "string", "description": "address:port on loopback"})),
    }
}

fn line(key: &str) -> Value {
    match key {
        "baud" | "retries" => json!({"type": "integer"}),
        "format" => json!({"enum": ["8E1", "8N1", "8N2", "8O1", "8E2", "8O2"], "default": "8E1"}),
        "timeout" | "min_timeout" => json!({"$ref": "#/$defs/duration"}),
        "gap" => json!({"anyOf": [{"const": "auto"}, {"$ref": "#/$defs/duration"}]}),
        "echo" | "raw_access" => json!({"type": "boolean"}),
        "rs485" => map(&["kernel", "delay_before_send", "delay_after_send"], |key| match key {
            "kernel" => json!({"type": "boolean"}),
            _ => json!({"$ref": "#/$defs/duration"}),
        }),
        "serial" => json!({"type": "string", "description": "device file, best under /dev/serial/by-id/"}),
        _ => json!({"type": "string", "description": "host:port"}),
    }
}

fn device(key: &str) -> Value {
    match key {
        "unit_id" => json!({"type": ["integer", "string"], "description": "1, or 1-20, 25"}),
        "name" | "line" | "profile" => json!({"type": "string"}),
        "tags" => json!({"type": "object"}),
        "points" => by_name("#/$defs/point"),
        "without" => list(&json!({"type": "string"})),
        "limits" => map(&["registers", "bits"], |_| json!({"type": "integer"})),
        "functions" => list(&json!({"type": ["integer", "string"], "description": "a function the device knows"})),
        other => point(other),
    }
}

fn point(key: &str) -> Value {
    match key {
        "coil" | "discrete" | "input" | "holding" => {
            json!({"type": ["integer", "string"], "description": "zero-based address, decimal or 0x hex"})
        }
        "modicon" => json!({"description": "40001 or 400001: table and one-based address at once"}),
        "compute" => json!({"type": "string", "description": "an expression over other points of the device"}),
        "type" => json!({"type": "string", "pattern":
            "^(bool|i16|u16|i32|u32|i64|u64|f32|f64|bcd16|bcd32|string\\([0-9]+\\))$"}),
        "order" => json!({"enum": ["abcd", "cdab", "badc", "dcba"]}),
        "bit" | "decimals" => json!({"type": "integer"}),
        "scale" | "offset" => json!({"type": "number"}),
        "values" => json!({"type": "object", "description": "raw number: name"}),
        "range" => json!({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
        "every" | "at_least" | "at_most" => json!({"$ref": "#/$defs/duration"}),
        "align" | "retain" => json!({"type": "boolean"}),
        "report" => json!({"$ref": "#/$defs/report"}),
        "when" => json!({"enum": ["poll", "change"]}),
        "deadband" => json!({"type": ["number", "string"], "description": "0.5 in the point's unit, or 2%"}),
        "qos" => json!({"enum": [0, 1, 2]}),
        "class" => json!({"enum": ["normal", "alarm"]}),
        "payload" => json!({"type": "string", "description": "json, value, or a template with {value}"}),
        "invalid" => json!({"description": "raw patterns that mean \"not available\""}),
        "fail_safe" => map(check::FAIL_SAFE_KEYS, fail_safe),
        "write" => {
            json!({"anyOf": [{"type": "boolean"}, map(&["min", "max", "step", "verify", "expires", "function"], |key| match key {
                "function" => json!({"enum": [5, 6, 15, 16, 22]}),
                "verify" => json!({"type": "boolean"}),
                "expires" => json!({"$ref": "#/$defs/duration"}),
                _ => json!({"type": "number"}),
            })]})
        }
        _ => json!({"type": "string"}),
    }
}

fn fail_safe(key: &str) -> Value {
    match key {
        "after" => json!({"$ref": "#/$defs/duration"}),
        "when" => map(&["upstream", "client"], |_| json!({"type": "string"})),
        "on_return" => {
            json!({"anyOf": [{"enum": ["keep", "restore"]}, map(&["value"], |_| json!({}))], "default": "keep"})
        }
        _ => json!({"description": "what is written: a number, true, false, or a name of `values`"}),
    }
}

fn broker(key: &str) -> Value {
    match key {
        "listen" => list(&map(check::LISTENER_KEYS, listener)),
        "anonymous" => json!({"enum": ["loopback", "never", "always"]}),
        "access" => list(&map(check::ACCESS_KEYS, |key| match key {
            "user" | "client" => json!({"type": "string"}),
            _ => list(&json!({"type": "string"})),
        })),
        "limits" => map(check::LIMIT_KEYS, limit),
        _ => json!({"type": "string"}),
    }
}

fn listener(key: &str) -> Value {
    match key {
        "client_certificate" => json!({"enum": ["required", "optional"], "default": "required"}),
        "user" => json!({"enum": ["common_name"]}),
        "origins" => list(&json!({"type": "string", "description": "https://hmi.example.com"})),
        "limits" => map(check::LIMIT_KEYS, limit),
        _ => json!({"type": "string"}),
    }
}

fn limit(key: &str) -> Value {
    match key {
        "packet" | "queue_bytes" => json!({"$ref": "#/$defs/size"}),
        "connect_timeout" => json!({"$ref": "#/$defs/duration"}),
        "rate" => json!({"type": "string", "description": "500/s, or unlimited"}),
        _ => json!({"type": "integer"}),
    }
}

fn upstream(key: &str) -> Value {
    match key {
        "failover" => list(&json!({"type": "string"})),
        "preset" => json!({"enum": Preset::ALL.map(|p| p.facts().word)}),
        "username" => json!({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/secret"}]}),
        "mqtt" => json!({"enum": [5, "5", "3.1.1"]}),
        "password" => json!({"$ref": "#/$defs/secret"}),
        "tls" => map(&["ca", "cert", "key", "alpn"], |key| match key {
            "alpn" => list(&json!({"type": "string"})),
            _ => json!({"type": "string"}),
        }),
        "keep_alive" => json!({"$ref": "#/$defs/duration"}),
        "in_flight" => json!({"type": "integer", "minimum": 1, "maximum": 65535}),
        "send" | "receive" => list(&json!({"$ref": "#/$defs/rule"})),
        _ => json!({"type": "string"}),
    }
}

fn rule(key: &str) -> Value {
    match key {
        "qos" => json!({"enum": [0, 1, 2]}),
        "retain" => json!({"enum": ["keep", "never"]}),
        _ => json!({"type": "string"}),
    }
}

fn spool(key: &str) -> Value {
    match key {
        "keep" => json!({"enum": ["offline", "always"]}),
        "max_size" => json!({"$ref": "#/$defs/size"}),
        "max_age" => json!({"$ref": "#/$defs/duration"}),
        "when_full" => json!({"enum": ["drop-oldest", "drop-newest"]}),
        "replay" => json!({"enum": ["in-order", "live-first"]}),
        _ => json!({"type": "string"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_language_is_in_the_schema() {
        let schema = schema();
        for key in check::POINT_KEYS {
            assert!(schema["$defs"]["point"]["properties"][key].is_object(), "{key}");
        }
        assert!(schema["properties"]["upstreams"]["additionalProperties"]["properties"]["url"].is_object());
    }
}
