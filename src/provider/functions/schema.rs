//! From Rust types, by way of their JSON Schema, to what a protocol's file says of a method.
//!
//! The file knows less than JSON Schema does. What it cannot say (alternatives that are no plain types, references to
//! a type inside itself) becomes `any`; serde then refuses what the type does not take.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// Names in JSON Schema, and those in a protocol's file; and of which types they speak.
const BOUNDS: [(&str, &str, &[&str]); 7] = [
    ("minimum", "minimum", &["integer", "number"]),
    ("maximum", "maximum", &["integer", "number"]),
    ("minLength", "min_length", &["string"]),
    ("maxLength", "max_length", &["string"]),
    ("minItems", "min_length", &["array"]),
    ("maxItems", "max_length", &["array"]),
    ("pattern", "pattern", &["string"]),
];

/// What a method takes and gives.
pub(super) fn method<P: JsonSchema, R: JsonSchema>() -> Result<Map<String, Value>, String> {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let taken = settings.clone().for_deserialize().into_generator().into_root_schema_for::<P>();
    let given = settings.for_serialize().into_generator().into_root_schema_for::<R>();
    let mut method = Map::new();
    for (key, value) in params(&taken)? {
        method.insert(key, value);
    }
    method.insert("returns".to_owned(), parameter(given.as_value()));
    Ok(method)
}

fn params(schema: &Schema) -> Result<Map<String, Value>, String> {
    let value = schema.as_value();
    let mut params = Map::new();
    match value.get("type").and_then(Value::as_str) {
        Some("object") => {}
        Some("null") => {
            params.insert("params".to_owned(), json!({}));
            return Ok(params);
        }
        Some(_) | None => {
            return Err("its parameters must be a struct with named fields, or a map".to_owned());
        }
    }
    if let Some(text) = value.get("description") {
        params.insert("description".to_owned(), text.clone());
    }
    params.insert("params".to_owned(), properties(value));
    let others = value.get("additionalProperties");
    if others.is_some_and(|others| *others != Value::Bool(false)) {
        params.insert("additional_params".to_owned(), true.into());
    }
    Ok(params)
}

/// The fields of an object. One that need not be there and has no default says so.
fn properties(object: &Value) -> Value {
    let required: Vec<&str> =
        object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields = Map::new();
    for (name, schema) in object["properties"].as_object().into_iter().flatten() {
        let mut field = parameter(schema);
        if !required.contains(&name.as_str()) && field.get("default").is_none() {
            field["required"] = false.into();
        }
        fields.insert(name.clone(), field);
    }
    Value::Object(fields)
}

fn parameter(schema: &Value) -> Value {
    let mut parameter = Map::new();
    let (types, one) = types(schema);
    let may_be = |names: &[&str]| types.iter().any(|own| names.contains(&own.as_str()));
    parameter.insert("type".to_owned(), json!(types));
    for key in ["description", "default"] {
        if let Some(value) = schema.get(key).or_else(|| one.get(key)) {
            parameter.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(allowed) = allowed(one, &types) {
        parameter.insert("enum".to_owned(), allowed);
    }
    for (theirs, ours, of) in BOUNDS {
        if let Some(value) = one.get(theirs).filter(|_| may_be(of)) {
            parameter.insert(ours.to_owned(), value.clone());
        }
    }
    if let Some(items) = one.get("items").filter(|_| may_be(&["array"])) {
        parameter.insert("items".to_owned(), self::parameter(items));
    }
    if one.get("properties").is_some() && may_be(&["object"]) {
        parameter.insert("properties".to_owned(), properties(one));
        if one.get("additionalProperties") == Some(&Value::Bool(false)) {
            parameter.insert("additional_properties".to_owned(), false.into());
        }
    }
    Value::Object(parameter)
}

/// The types that a value may have, and the schema that says the rest: of `T` or null, that of `T`.
fn types(schema: &Value) -> (Vec<String>, &Value) {
    let own = |schema: &Value| match schema.get("type") {
        Some(Value::String(name)) => vec![name.clone()],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(_) | None => Vec::new(),
    };
    let found = own(schema);
    if !found.is_empty() {
        return (found, schema);
    }
    let any = (vec!["any".to_owned()], schema);
    let Some(choices) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) else {
        return any;
    };
    let mut found: Vec<String> = Vec::new();
    for choice in choices {
        let types = own(choice);
        if types.is_empty() {
            return any;
        }
        for name in types {
            if !found.contains(&name) {
                found.push(name);
            }
        }
    }
    let mut told = choices.iter().filter(|choice| own(choice) != ["null"]);
    match (told.next(), told.next()) {
        (Some(one), None) => (found, one),
        // Several: their bounds cannot be told apart, so only the types are said, and constants.
        (Some(_), Some(_)) | (None, _) => (found, schema),
    }
}

/// The only values there are, if they can be listed.
fn allowed(schema: &Value, types: &[String]) -> Option<Value> {
    let mut values: Vec<Value> = match (schema.get("enum"), schema.get("const"), schema.get("oneOf")) {
        (Some(Value::Array(values)), _, _) => values.clone(),
        (_, Some(value), _) => vec![value.clone()],
        (_, _, Some(Value::Array(choices))) => {
            let constants = choices.iter().map(|choice| choice.get("const").cloned());
            constants.collect::<Option<Vec<Value>>>()?
        }
        _ => return None,
    };
    if types.iter().any(|name| name == "null") && !values.contains(&Value::Null) {
        values.push(Value::Null);
    }
    Some(Value::Array(values))
}
