//! `identify` of a profile or device: what must be found there before its values are believed.

use std::sync::Arc;

use crate::config::check::Checker;
use crate::config::check::point::Context;
use crate::config::check::rules::Layers;
use crate::config::fingerprint::Expected;
use crate::config::fingerprint::Fingerprint;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::plant::Source;
use crate::config::plant::Wire;
use crate::point::DataType;

/// What the standard calls the objects (V1.1b3, 6.21), and the register.
pub(in crate::config) const IDENTIFY_KEYS: &[&str] =
    &["vendor", "product_code", "revision", "url", "product_name", "model", "application", "register"];
pub(in crate::config) const REGISTER_KEYS: &[&str] = &["input", "holding", "modicon", "type", "order", "bits", "is"];
/// Read device identification.
const FUNCTION: u8 = 43;

impl Checker {
    /// The nearest `identify`; `false` takes a profile's away.
    pub(super) fn fingerprint(&mut self, layers: Layers<'_>, context: &Context<'_>) -> Option<Arc<Fingerprint>> {
        let node = layers.get("identify")?;
        if matches!(&node.kind, Kind::Scalar { text, plain: true } if text == "false") {
            return None;
        }
        self.reader.keys(node, IDENTIFY_KEYS);
        let mut objects = Vec::new();
        for (id, key) in (0..).zip(&IDENTIFY_KEYS[..7]) {
            let Some(expected) = node.get(key).and_then(|n| self.expected(n, None)) else { continue };
            objects.push((id, expected));
        }
        let register = node.get("register").and_then(|n| self.model_register(n, context));
        if node.entries().is_empty() {
            let help = "e.g. {vendor: ACME, product_code: X-1*}, or {register: {holding: 0, is: 120}}";
            self.reader.error(node.at, "`identify` says nothing", help);
        }
        let functions = context.device.functions;
        if !objects.is_empty() && functions.is_said() && !functions.knows(FUNCTION) {
            let message = "a device says who it is by function 43, which is not among its `functions`";
            self.reader.error(node.at, message, "add 43, or name a `register`");
        }
        Some(Arc::new(Fingerprint { objects, register }))
    }

    fn model_register(&mut self, node: &Node, context: &Context<'_>) -> Option<(Arc<Wire>, Expected)> {
        self.reader.keys(node, REGISTER_KEYS);
        let source = self.source(Layers(&[Some(node), None]), ("identify.register", node.at), context, &|_| None)?;
        let Source::Wire(wire) = source else { return None };
        let Some(is) = node.get("is") else {
            self.reader.error(node.at, "what the register holds is missing", "e.g. {holding: 0, is: 120}");
            return None;
        };
        if matches!(wire.data_type, DataType::F32 | DataType::F64 | DataType::Bool) {
            let message = format!("a model is a whole number or a text, not {}", wire.data_type);
            self.reader.error(node.at, message, "e.g. type: u16, or string(8)");
        }
        let expected = self.expected(is, Some(&wire))?;
        Some((wire, expected))
    }

    /// A text or a list of them; for a register of numbers, numbers.
    fn expected(&mut self, node: &Node, wire: Option<&Wire>) -> Option<Expected> {
        let one = std::slice::from_ref(node);
        let items = if matches!(node.kind, Kind::List(_)) { self.reader.items(node) } else { one };
        let is_number = wire.is_some_and(|wire| wire.data_type.is_number());
        let texts = items.iter().map(|item| match is_number {
            true => self.reader.int(item, i64::MIN, i64::MAX).map(|n| n.to_string()),
            false => self.reader.text(item),
        });
        let texts: Option<Vec<String>> = texts.collect();
        texts.filter(|texts| !texts.is_empty()).map(Expected::new)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Plant;
    use crate::config::load_text;
    use crate::point::Table;

    fn loaded(device: &str) -> Result<Plant, String> {
        let text = format!(
            "gateway: g\nlines: {{l: {{tcp: \"h:502\"}}}}\ndevices:\n  - name: d\n    line: l\n    unit_id: 1\n    {device}\n    points: \
             {{p: {{holding: 1}}}}\n"
        );
        load_text("t.yaml", &text, Path::new("")).map(|l| l.plant).map_err(|report| report.to_string())
    }

    #[test]
    fn objects_and_a_register_are_expected() {
        let plant = loaded(
            "identify: {product_code: [X-1, \"X-2*\"], vendor: ACME, register: {holding: 0xFC02, is: [0x20, 33]}}",
        );
        let plant = plant.unwrap();
        let wanted = plant.devices[0].fingerprint.as_ref().unwrap();
        let objects: Vec<_> = wanted.objects.iter().map(|(id, expected)| (*id, expected.to_string())).collect();
        assert_eq!(objects, [(0, "\"ACME\"".to_owned()), (1, "\"X-1\" or \"X-2*\"".to_owned())]);
        let (wire, expected) = wanted.register.as_ref().unwrap();
        assert_eq!((wire.table, wire.range.start()), (Table::Holding, 0xFC02));
        assert!(expected.is("32") && expected.is("33") && !expected.is("0x20"));
    }

    #[test]
    fn nothing_is_expected_unless_it_is_said() {
        assert!(loaded("tags: {}").unwrap().devices[0].fingerprint.is_none());
        assert!(loaded("identify: false").unwrap().devices[0].fingerprint.is_none());
    }

    #[test]
    fn what_cannot_be_found_is_told() {
        for (device, said) in [
            ("identify: {}", "`identify` says nothing"),
            ("identify: {vender: ACME}", "did you mean `vendor`?"),
            ("identify: {register: {holding: 1}}", "what the register holds is missing"),
            ("identify: {register: {holding: 1, is: ACME}}", "`ACME` is not a whole number"),
            ("identify: {register: {coil: 1, is: 1}}", "unknown key `coil`"),
            ("identify: {register: {holding: 1, bit: 3, is: 1}}", "unknown key `bit`"),
            ("identify: {register: {modicon: 10001, is: 1}}", "a whole number or a text, not bool"),
            ("identify: {register: {is: 1}}", "point `identify.register` has no address"),
            ("identify: {register: {holding: 1, type: f32, is: 1}}", "a whole number or a text, not f32"),
            ("functions: [3]\n    identify: {vendor: ACME}", "by function 43, which is not among its `functions`"),
        ] {
            let report = loaded(device).unwrap_err();
            assert!(report.contains(said), "{said} is not in\n{report}");
        }
    }
}
