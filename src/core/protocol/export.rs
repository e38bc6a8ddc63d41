//! JSON Schema (draft 2020-12) of a method's parameters and of a protocol's calls, for editors and for
//! producers in other languages.
//!
//! It says what [`MethodSpec::validate`] checks of parameters given by name. Two things cannot be said: a
//! pattern is a regular expression of Rust's crate `regex`, which is nearly but not wholly JSON Schema's, and
//! positional parameters are left out.

use serde_json::{Map, Value, json};

use crate::core::protocol::spec::{Fields, MethodSpec, ParameterSpec, ProtocolSpec, Type};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

impl MethodSpec {
    /// The schema of this method's parameters.
    pub fn params_json_schema(&self) -> Value {
        let mut schema = Map::new();
        schema.insert("$schema".to_owned(), json!(DRAFT));
        schema.extend(self.params_schema());
        Value::Object(schema)
    }

    /// The schema of this method's results, if it is declared.
    pub fn returns_json_schema(&self) -> Option<Value> {
        let mut schema = Map::new();
        schema.insert("$schema".to_owned(), json!(DRAFT));
        schema.extend(parameter(self.returns.as_ref()?));
        Some(Value::Object(schema))
    }

    fn params_schema(&self) -> Map<String, Value> {
        let mut schema = Map::new();
        put(&mut schema, "title", Some(json!(self.name)));
        put(&mut schema, "description", self.description.as_ref().map(|text| json!(text)));
        put(&mut schema, "deprecated", self.deprecated.then(|| json!(true)));
        put(&mut schema, "type", Some(json!("object")));
        put_fields(&mut schema, &self.params, self.additional_params);
        let groups: Vec<Value> = self.exactly_one_of.iter().map(|group| one_of(group)).collect();
        put(&mut schema, "allOf", (!groups.is_empty()).then(|| json!(groups)));
        let examples: Vec<&Value> = self.examples.iter().map(|example| &example.params).collect();
        put(&mut schema, "examples", (!examples.is_empty()).then(|| json!(examples)));
        schema
    }

    fn needs_params(&self) -> bool {
        !self.exactly_one_of.is_empty() || self.params.iter().any(|(_, spec)| spec.must_be_given())
    }
}

impl ProtocolSpec {
    /// The schema of a call, `{"method": ..., "params": {...}}`, one alternative for each method.
    pub fn json_schema(&self) -> Value {
        let mut definitions = Map::new();
        let mut calls = Vec::new();
        for method in &self.methods {
            definitions.insert(method.name.clone(), Value::Object(method.params_schema()));
            calls.push(self.call_schema(method));
        }
        let mut schema = Map::new();
        put(&mut schema, "$schema", Some(json!(DRAFT)));
        put(&mut schema, "$id", Some(json!(format!("urn:gleitzeit:protocol:{}", self.id.routing()))));
        put(&mut schema, "title", Some(json!(self.id.to_string())));
        put(&mut schema, "description", self.description.as_ref().map(|text| json!(text)));
        put(&mut schema, "oneOf", Some(json!(calls)));
        put(&mut schema, "$defs", Some(Value::Object(definitions)));
        Value::Object(schema)
    }

    fn call_schema(&self, method: &MethodSpec) -> Value {
        // Inside a reference, a slash of the name is written ~1 and a tilde ~0.
        let definition = method.name.replace('~', "~0").replace('/', "~1");
        let required = if method.needs_params() { json!(["method", "params"]) } else { json!(["method"]) };
        json!({
            "type": "object",
            "properties": {
                "method": self.name_schema(method),
                "params": {"$ref": format!("#/$defs/{definition}")},
            },
            "required": required,
        })
    }

    fn name_schema(&self, method: &MethodSpec) -> Value {
        let with_prefix = |name: &str| format!("{}/{name}", self.id.name());
        let Some(start) = method.name.strip_suffix('*') else {
            return json!({"enum": [method.name, with_prefix(&method.name)]});
        };
        // What is declared more exactly is not this family's.
        let narrower =
            self.methods.iter().filter(|other| other.name != method.name && other.name.starts_with(start));
        let exceptions: Vec<Value> = narrower.map(|other| self.name_schema(other)).collect();
        let pattern = format!("^({}/)?{}.", regex::escape(self.id.name()), regex::escape(start));
        if exceptions.is_empty() {
            return json!({"type": "string", "pattern": pattern});
        }
        json!({"type": "string", "pattern": pattern, "not": {"anyOf": exceptions}})
    }
}

fn one_of(group: &[String]) -> Value {
    let choices: Vec<Value> = group.iter().map(|name| json!({"required": [name]})).collect();
    json!({"oneOf": choices})
}

fn parameter(spec: &ParameterSpec) -> Map<String, Value> {
    let mut schema = Map::new();
    put(&mut schema, "type", types(spec));
    put(&mut schema, "description", spec.description.as_ref().map(|text| json!(text)));
    put(&mut schema, "default", spec.default.clone());
    put(&mut schema, "enum", spec.allowed.as_ref().map(|choices| json!(choices)));
    put(&mut schema, "minimum", spec.minimum.clone().map(Value::Number));
    put(&mut schema, "maximum", spec.maximum.clone().map(Value::Number));
    // One constraint of ours is two of JSON Schema's, each of which ignores the other's type.
    for (keyword_for_text, keyword_for_lists, length) in
        [("minLength", "minItems", spec.min_length), ("maxLength", "maxItems", spec.max_length)]
    {
        if spec.may_be(&[Type::String]) {
            put(&mut schema, keyword_for_text, length.map(|length| json!(length)));
        }
        if spec.may_be(&[Type::Array]) {
            put(&mut schema, keyword_for_lists, length.map(|length| json!(length)));
        }
    }
    put(&mut schema, "pattern", spec.pattern.as_ref().map(|pattern| json!(pattern.as_str())));
    put(&mut schema, "items", spec.items.as_deref().map(|items| Value::Object(parameter(items))));
    if !spec.properties.is_empty() || !spec.additional_properties {
        put_fields(&mut schema, &spec.properties, spec.additional_properties);
    }
    schema
}

fn types(spec: &ParameterSpec) -> Option<Value> {
    match spec.types.as_slice() {
        types if types.contains(&Type::Any) => None,
        [one] => Some(json!(one.name())),
        several => {
            let names: Vec<&str> = several.iter().map(|one| one.name()).collect();
            Some(json!(names))
        }
    }
}

fn put_fields(schema: &mut Map<String, Value>, fields: &Fields, accepts_others: bool) {
    let properties: Map<String, Value> =
        fields.iter().map(|(name, spec)| (name.clone(), Value::Object(parameter(spec)))).collect();
    let required: Vec<&String> =
        fields.iter().filter(|(_, spec)| spec.must_be_given()).map(|(name, _)| name).collect();
    put(schema, "properties", Some(Value::Object(properties)));
    put(schema, "required", (!required.is_empty()).then(|| json!(required)));
    put(schema, "additionalProperties", (!accepts_others).then(|| json!(false)));
}

fn put(schema: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        schema.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::protocol::Protocols;
    use crate::core::protocol::fixture::{load, method};

    #[test]
    fn parameters_become_json_schema() {
        let method = method(
            "description: d
deprecated: true
exactly_one_of: [[a, b]]
params:
  a: {type: string, required: false, min_length: 1, max_length: 9, pattern: x, description: text}
  b: {type: [array, 'null'], required: false, max_length: 3, items: {type: integer, minimum: 0}}
  c: {type: any, enum: [1, x]}
  d: {type: object, default: {n: 1}, additional_properties: false, properties: {n: {type: number, maximum: 2.5}}}
examples: [{params: {a: x, c: 1}}]",
        );
        assert_eq!(
            method.params_json_schema(),
            json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "m",
                "description": "d",
                "deprecated": true,
                "type": "object",
                "properties": {
                    "a": {"type": "string", "description": "text", "minLength": 1, "maxLength": 9, "pattern": "x"},
                    "b": {"type": ["array", "null"], "maxItems": 3, "items": {"type": "integer", "minimum": 0}},
                    "c": {"enum": [1, "x"]},
                    "d": {
                        "type": "object",
                        "default": {"n": 1},
                        "properties": {"n": {"type": "number", "maximum": 2.5}},
                        "required": ["n"],
                        "additionalProperties": false,
                    },
                },
                "required": ["c"],
                "additionalProperties": false,
                "allOf": [{"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}],
                "examples": [{"a": "x", "c": 1}],
            })
        );
        assert_eq!(method.returns_json_schema(), None);
    }

    #[test]
    fn a_protocol_becomes_one_alternative_for_each_method() {
        let protocols = load(&[
            "{name: p, version: v1.2, methods: {a/b: {params: {x: {type: any}}}, 't.*': {}, t.add: {}}}",
        ])
        .expect("consistent");
        let schema = protocols.iter().next().expect("one").json_schema();
        assert_eq!(schema["$id"], "urn:gleitzeit:protocol:p.v1_2");
        assert_eq!(schema["title"], "p/v1.2");
        let calls = schema["oneOf"].as_array().expect("alternatives");
        assert_eq!(
            calls[0],
            json!({
                "type": "object",
                "properties": {"method": {"enum": ["a/b", "p/a/b"]}, "params": {"$ref": "#/$defs/a~1b"}},
                "required": ["method", "params"],
            })
        );
        assert_eq!(
            calls[1]["properties"]["method"],
            json!({"type": "string", "pattern": "^(p/)?t\\..", "not": {"anyOf": [{"enum": ["t.add", "p/t.add"]}]}})
        );
        assert_eq!(calls[1]["required"], json!(["method"]));
        assert!(schema["$defs"]["a/b"]["properties"]["x"].is_object());
    }

    #[test]
    fn every_method_that_is_built_in_has_a_schema() {
        for spec in Protocols::builtin().expect("built in").iter() {
            let schema = spec.json_schema();
            let definitions = schema["$defs"].as_object().expect("definitions");
            assert_eq!(definitions.len(), spec.methods.len(), "{}", spec.id);
        }
    }
}
