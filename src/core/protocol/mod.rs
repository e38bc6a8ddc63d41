//! Protocols: which methods there are, what they take and what they give back.
//!
//! A protocol is a YAML (or JSON) file. Those in `topology/protocols` are compiled in; users add their own.
//!
//! ```text
//! text --load--> ProtocolSpec --inherit--> Protocols --method--> Method --validate--> parameters, defaults filled
//!      (every problem at once)  (extends)             (name)            --check_result--> violations
//! ```
//!
//! A file mirrors [`ProtocolSpec`], [`MethodSpec`] and [`ParameterSpec`]:
//!
//! ```yaml
//! name: weather
//! version: v1                      # v1 and v1.0 are the same protocol, v1.2 is another
//! extends: echo/v1                 # has its methods too; one of the same name replaces it
//! methods:
//!   forecast:                      # called as `forecast` or `weather/forecast`; `tool.*` is a family
//!     timeout_seconds: 60
//!     params:                      # `params_schema` is accepted too; the order is that of positional ones
//!       city: {type: string, min_length: 1}
//!       days: {type: [integer, string], default: 3, minimum: 1, maximum: 14}
//!     returns: {type: object, properties: {text: {type: string}}}
//!     examples:
//!       - params: {city: Bonn}
//! ```
//!
//! The rules that a reader may not expect:
//! - A parameter is required unless it says `required: false` or has a default.
//! - Unknown parameters are refused unless the method says `additional_params: true`; unknown properties of
//!   an object inside are accepted unless it says `additional_properties: false`.
//! - Defaults are filled in at every depth, but an object that is not given is not invented for the sake of
//!   the defaults inside it.
//! - `min_length` and `max_length` count a string's characters and an array's items.
//! - A pattern is searched for, not anchored.
//! - Numbers are compared exactly, whatever their size; `1.0` is an integer.
//! - Null is a value: where nothing is meant, leave the parameter out.
//!
//! ```
//! use gleitzeit::core::protocol::{Leniency, ProtocolId, Protocols};
//!
//! let protocols = Protocols::builtin()?;
//! let python: ProtocolId = "python/v1.0".parse()?;
//! let execute = protocols.method(&python, "python/execute")?;
//! let params = execute.validate(serde_json::json!({"code": "6 * 7"}), Leniency::Exact);
//! assert_eq!(params.expect("valid")["code"], "6 * 7");
//! let violations = execute.validate(serde_json::json!({"cod": "6 * 7"}), Leniency::Exact).unwrap_err();
//! assert_eq!(violations[0].path, "params.cod");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod export;
mod id;
mod inherit;
mod load;
mod method;
mod number;
mod parameter;
mod read;
mod registry;
mod spec;
mod validate;

pub use check::Leniency;
pub use id::{ProtocolId, ProtocolIdError, Version};
pub use load::{FILE_BYTES_MAX, Source};
pub(crate) use parameter::schema;
pub use read::Problem;
pub use registry::{LoadError, LookupError, Method, Protocols};
pub(crate) use spec::is_method_name;
pub use spec::{Example, Fields, MethodSpec, ParameterSpec, ProtocolSpec, Type};

#[cfg(test)]
mod fixture;
