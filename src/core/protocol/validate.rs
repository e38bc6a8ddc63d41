//! Checks a call's parameters and its result, and fills in defaults.
//!
//! Two steps that do not mix: [`fill`] changes and never refuses, [`Check`] refuses and never changes.

use serde_json::{Map, Value};

use crate::core::protocol::check::{Check, Leniency, listed, shown};
use crate::core::protocol::spec::{Fields, MethodSpec, ParameterSpec};
use crate::core::violation::{Path, Violation};

impl MethodSpec {
    /// Checks a call's parameters and returns them by name with the defaults filled in, those inside
    /// objects and arrays too.
    ///
    /// `params` is an object, an array (values in the declared order), or null for none.
    ///
    /// # Errors
    /// Every violation, up to [`VIOLATIONS_MAX`](crate::core::violation::VIOLATIONS_MAX).
    pub fn validate(&self, params: Value, leniency: Leniency) -> Result<Map<String, Value>, Vec<Violation>> {
        let root = Path::Root("params");
        let mut check = Check::new(leniency);
        let mut named = match params {
            Value::Object(map) => map,
            Value::Array(values) => self.by_name(values, &mut check),
            Value::Null => Map::new(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                check.violations.add(&root, format!("found {}", shown(&params)), "object or array");
                return Err(check.violations.into_vec());
            }
        };
        fill_fields(&self.params, &mut named);
        check.fields(&self.params, self.additional_params, "parameter", &named, &root);
        for group in &self.exactly_one_of {
            check.exactly_one_of(group, &named, &root);
        }
        let violations = check.violations.into_vec();
        if violations.is_empty() { Ok(named) } else { Err(violations) }
    }

    /// Checks a result against what the method returns. Without violations it is fine.
    #[must_use]
    pub fn check_result(&self, result: &Value) -> Vec<Violation> {
        let mut check = Check::new(Leniency::Exact);
        if let Some(returns) = &self.returns {
            check.value(returns, result, &Path::Root("result"));
        }
        check.violations.into_vec()
    }

    fn by_name(&self, values: Vec<Value>, check: &mut Check) -> Map<String, Value> {
        if values.len() > self.params.len() {
            let names = self.params.iter().map(|(name, _)| name.as_str());
            let allowed = format!("at most {}: {}", self.params.len(), listed(names));
            let problem = format!("found {} positional parameters", values.len());
            check.violations.add(&Path::Root("params"), problem, allowed);
        }
        let names = self.params.iter().map(|(name, _)| name.clone());
        names.zip(values).collect()
    }
}

/// Puts defaults where nothing is given, at every depth. Doing it twice changes nothing more.
pub(crate) fn fill(spec: &ParameterSpec, value: &mut Value) {
    match value {
        Value::Object(map) => fill_fields(&spec.properties, map),
        Value::Array(values) => {
            let Some(items) = &spec.items else { return };
            for item in values {
                fill(items, item);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn fill_fields(fields: &Fields, map: &mut Map<String, Value>) {
    for (name, spec) in fields {
        if let Some(value) = map.get_mut(name) {
            fill(spec, value);
            continue;
        }
        if let Some(default) = &spec.default {
            let mut value = default.clone();
            fill(spec, &mut value);
            map.insert(name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::core::protocol::Protocols;
    use crate::core::protocol::fixture::{exact, method, params};

    #[test]
    fn every_violation_of_a_call_is_reported() {
        let method = params("a: {type: string}\nb: {type: integer}\nc: {type: integer, default: 1}");
        let found = method.validate(json!({"b": "x", "d": 1}), Leniency::Exact).expect_err("three");
        let lines: Vec<String> = found.iter().map(Violation::to_string).collect();
        assert_eq!(
            lines,
            [
                "params.a: is missing; allowed: string",
                "params.b: found string \"x\"; allowed: integer",
                "params.d: unknown parameter; did you mean a, b, c?; allowed: a, b, c",
            ]
        );
    }

    #[test]
    fn unknown_parameters_pass_where_the_method_takes_them() {
        let open = method("additional_params: true\nparams: {a: {type: integer}}");
        let filled = open.validate(json!({"a": 1, "b": [2]}), Leniency::Exact).expect("open");
        assert_eq!(Value::Object(filled), json!({"a": 1, "b": [2]}));
    }

    #[test]
    fn exactly_one_of_a_group_is_given() {
        let method = method(
            "exactly_one_of: [[a, b]]\nparams: {a: {type: any, required: false}, b: {type: any, required: false}}",
        );
        let check = |params: Value, expected: Option<&str>| {
            let found = method.validate(params, Leniency::Exact).err().map(|found| found[0].to_string());
            assert_eq!(found.as_deref(), expected);
        };
        check(json!({"a": 1}), None);
        check(json!({"b": null}), None);
        check(json!({}), Some("params: none is given; allowed: exactly one of a, b"));
        check(json!(null), Some("params: none is given; allowed: exactly one of a, b"));
        check(json!({"a": 1, "b": 1}), Some("params: found a and b together; allowed: exactly one of a, b"));
        check(json!([1, 2]), Some("params: found a and b together; allowed: exactly one of a, b"));
    }

    #[test]
    fn parameters_may_be_given_by_position() {
        let method = params("a: {type: integer}\nb: {type: integer, default: 2}");
        let check = |params: Value, expected: Result<Value, &str>| {
            let found = method.validate(params.clone(), Leniency::Exact);
            let found = found.map(Value::Object).map_err(|found| found[0].to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{params}");
        };
        check(json!([1]), Ok(json!({"a": 1, "b": 2})));
        check(json!([1, 3]), Ok(json!({"a": 1, "b": 3})));
        check(json!([]), Err("params.a: is missing; allowed: integer"));
        check(json!([1, 3, 4, 5]), Err("params: found 4 positional parameters; allowed: at most 2: a, b"));
        check(json!("x"), Err("params: found string \"x\"; allowed: object or array"));
    }

    #[test]
    fn defaults_are_filled_at_every_depth() {
        let method = params(
            "list: {type: array, required: false, items: {type: object, properties: {n: {type: integer, default: 1}}}}\n\
             whole: {type: object, default: {}, properties: {n: {type: integer, default: 2}}}\n\
             absent: {type: object, required: false, properties: {n: {type: integer, default: 3}}}",
        );
        let filled = method.validate(json!({"list": [{}, {"n": 7}]}), Leniency::Exact).expect("valid");
        assert_eq!(Value::Object(filled), json!({"list": [{"n": 1}, {"n": 7}], "whole": {"n": 2}}));
    }

    #[test]
    fn large_numbers_and_the_order_of_keys_survive() {
        let method = method("additional_params: true\nparams: {z: {type: integer}}");
        let text = r#"{"y":1e400,"z":123456789012345678901234567890,"a":0.10}"#;
        let filled = method.validate(exact(text), Leniency::Exact).expect("valid");
        let written = serde_json::to_string(&filled).expect("text");
        assert_eq!(exact(&written), exact(text));
        assert_eq!(filled.keys().collect::<Vec<_>>(), ["y", "z", "a"]);
        assert!(written.contains("123456789012345678901234567890") && written.contains("0.10"), "{written}");
    }

    #[test]
    fn results_are_checked_too() {
        let method = method("returns: {type: object, properties: {n: {type: integer}}}");
        assert_eq!(method.check_result(&json!({"n": 1, "more": true})), []);
        let found = method.check_result(&json!({"n": "1"}));
        assert_eq!(found[0].to_string(), "result.n: found string \"1\"; allowed: integer");
        assert_eq!(method.check_result(&json!(null)).len(), 1);
        assert_eq!(params("a: {type: any}").check_result(&json!(null)), []);
    }

    static BUILTIN: LazyLock<Protocols> = LazyLock::new(|| Protocols::builtin().expect("built in"));

    fn any_json() -> impl Strategy<Value = Value> {
        let names =
            ["messages", "role", "content", "a", "b", "arguments", "timeout", "code", "model", "images"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-5..5_i64).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,5}".prop_map(Value::from),
            Just(json!("${a.b}")),
        ];
        leaf.prop_recursive(3, 20, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((proptest::sample::select(names.to_vec()), inner), 0..5)
                    .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn filling_in_defaults_twice_changes_nothing_more(value in any_json()) {
            for method in BUILTIN.iter().flat_map(|protocol| &protocol.methods) {
                for leniency in [Leniency::Exact, Leniency::References] {
                    let Ok(once) = method.validate(value.clone(), leniency) else { continue };
                    let twice = method.validate(Value::Object(once.clone()), leniency);
                    prop_assert_eq!(twice, Ok(once));
                }
            }
        }

        #[test]
        fn by_position_is_by_name(values in proptest::collection::vec(any_json(), 0..4)) {
            let method = params("x: {type: any}\ny: {type: integer, default: 1}\nz: {type: any, required: false}");
            let names = ["x", "y", "z"].map(str::to_owned).into_iter();
            let named: Map<String, Value> = names.zip(values.clone()).collect();
            let by_position = method.validate(Value::from(values), Leniency::Exact);
            prop_assert_eq!(by_position, method.validate(Value::Object(named), Leniency::Exact));
        }

        #[test]
        fn what_is_accepted_exactly_is_accepted_with_references(value in any_json()) {
            for method in BUILTIN.iter().flat_map(|protocol| &protocol.methods) {
                if method.validate(value.clone(), Leniency::Exact).is_ok() {
                    prop_assert!(method.validate(value.clone(), Leniency::References).is_ok());
                }
            }
        }
    }
}
