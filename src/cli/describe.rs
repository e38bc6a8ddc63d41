//! `protocol`, `config`: what is declared and what is in force.

use serde_json::{Value, json};

use super::args;
use super::print;
use crate::client::lookup_error;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::protocol::{ProtocolId, Protocols, Source};
use crate::core::workflow::workflow_schema;
use crate::error::Error;
use crate::runtime::Runtime;

/// `gleitzeit protocol ...`
pub(crate) fn protocol(config: &Config, command: args::Protocol, json: bool) -> Result<u8, Error> {
    match command {
        args::Protocol::List => list(&Runtime::protocols(config)?, json),
        args::Protocol::Show { protocol, method, schema } => {
            show(&Runtime::protocols(config)?, &protocol, method.as_deref(), schema, json)?;
        }
        args::Protocol::Validate { files } => {
            let mut sources = Vec::new();
            for file in &files {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    Error::new(Code::FileUnreadable, format!("cannot read {}: {error}", file.display()))
                })?;
                sources.push(Source { name: file.to_string_lossy().into_owned(), text });
            }
            let protocols = Protocols::with_files(&sources)
                .map_err(|error| Error::new(Code::ConfigurationError, error.to_string()))?;
            if json {
                print::json(&json!({"valid": true, "protocols": protocols.iter().count()}));
            } else {
                print::note("valid");
            }
        }
    }
    Ok(0)
}

fn list(protocols: &Protocols, json: bool) {
    let row = |spec: &crate::core::protocol::ProtocolSpec| {
        let methods: Vec<String> = spec.methods.iter().map(|method| method.name.clone()).collect();
        (spec.id.to_string(), spec.description.clone().unwrap_or_default(), methods)
    };
    let rows: Vec<(String, String, Vec<String>)> = protocols.iter().map(row).collect();
    if json {
        let rows: Vec<Value> = rows
            .into_iter()
            .map(|(id, description, methods)| json!({"protocol": id, "description": description, "methods": methods}))
            .collect();
        return print::json(&Value::Array(rows));
    }
    for (id, description, methods) in rows {
        print::line(&format!("{id:<12}  {description}"));
        print::line(&format!("{:<12}  {}", "", methods.join(", ")));
    }
}

fn show(
    protocols: &Protocols,
    protocol: &str,
    method: Option<&str>,
    schema: bool,
    json: bool,
) -> Result<(), Error> {
    let id: ProtocolId =
        protocol.parse().map_err(|error| Error::new(Code::ProtocolNotFound, format!("{error}")))?;
    if let Some(name) = method {
        let found = protocols.method(&id, name).map_err(lookup_error)?;
        if schema || json {
            print::json(&found.spec.params_json_schema());
        } else {
            describe_method(found.name, found.spec);
        }
        return Ok(());
    }
    let Some(spec) = protocols.get(&id) else {
        let error = protocols.method(&id, "").err().map(lookup_error);
        return Err(
            error.unwrap_or_else(|| Error::new(Code::ProtocolNotFound, format!("unknown protocol {id}")))
        );
    };
    if schema || json {
        print::json(&spec.json_schema());
        return Ok(());
    }
    print::line(&format!("{id}  {}", spec.description.as_deref().unwrap_or_default()));
    for method in &spec.methods {
        describe_method(&method.name, method);
    }
    Ok(())
}

fn describe_method(name: &str, method: &crate::core::protocol::MethodSpec) {
    print::line(&format!("\n  {name}  {}", method.description.as_deref().unwrap_or_default()));
    for (name, spec) in &method.params {
        let types: Vec<&str> = spec.types.iter().map(|kind| kind.name()).collect();
        let need = match (&spec.default, spec.must_be_given()) {
            (Some(default), _) => format!("default {default}"),
            (None, true) => "required".to_owned(),
            (None, false) => "optional".to_owned(),
        };
        let text = spec.description.as_deref().unwrap_or_default();
        print::line(&format!("    {name:<16} {:<18} {need:<22} {text}", types.join("|")));
    }
}

/// `gleitzeit schema`
pub(crate) fn schema(args: &args::Schema) -> Result<u8, Error> {
    let text = serde_json::to_string_pretty(&workflow_schema()).unwrap_or_default();
    let Some(path) = &args.output else {
        print::line(&text);
        return Ok(0);
    };
    std::fs::write(path, text + "\n").map_err(|error| {
        Error::new(Code::FileUnreadable, format!("cannot write {}: {error}", path.display()))
    })?;
    print::note(&format!("written to {}", path.display()));
    Ok(0)
}

/// `gleitzeit config show`
pub(crate) fn config(config: &Config, json: bool) -> u8 {
    let shown = config.shown();
    if json {
        let rows =
            shown.into_iter().map(|(key, value, origin)| (key, json!({"value": value, "origin": origin})));
        print::json(&Value::Object(rows.collect()));
        return 0;
    }
    for (key, value, origin) in shown {
        print::line(&format!("{key:<24} {:<40} # {origin}", value.to_string()));
    }
    0
}
