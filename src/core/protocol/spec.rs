//! The parts of a protocol, as they are after loading: consistent, inheritance resolved.

use regex::Regex;
use serde_json::{Number, Value};

use crate::core::protocol::id::ProtocolId;
use crate::core::protocol::number;
use crate::core::requirements::{ResourceRequirements, SecurityRequirements};
use crate::core::retry::RetryPolicy;

/// Named schemas, in the order in which they were declared; that order is the one of positional parameters.
pub type Fields = Vec<(String, ParameterSpec)>;

/// A protocol: the contract between who asks for a task and the provider that does it.
#[derive(Debug, Clone)]
pub struct ProtocolSpec {
    /// Name and version.
    pub id: ProtocolId,
    /// What it is for.
    pub description: Option<String>,
    /// The protocol whose methods it inherits; its own override them by name.
    pub extends: Option<ProtocolId>,
    /// Its methods, inherited ones first. Use [`ProtocolSpec::find`] to look one up.
    pub methods: Vec<MethodSpec>,
    /// Who wrote it.
    pub author: Option<String>,
    /// Its licence.
    pub license: Option<String>,
    /// Where more is written.
    pub documentation_url: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The file that it came from.
    pub source: String,
}

/// One method of a protocol.
#[derive(Debug, Clone)]
pub struct MethodSpec {
    /// Its name without the protocol's. With `*` at the end it stands for every method that begins so.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// Its parameters.
    pub params: Fields,
    /// Whether parameters that are not declared are accepted, unchecked.
    pub additional_params: bool,
    /// Groups of parameters of which exactly one must be given.
    pub exactly_one_of: Vec<Vec<String>>,
    /// What a result looks like; absent: anything.
    pub returns: Option<ParameterSpec>,
    /// Calls that show how it is used; tests run them.
    pub examples: Vec<Example>,
    /// Whether it will go away; using it gives a warning.
    pub deprecated: bool,
    /// How long an attempt may take where the task does not say, in seconds, above 0.
    pub timeout_seconds: Option<f64>,
    /// When it is tried again where the task does not say.
    pub retry_policy: Option<RetryPolicy>,
    /// What it needs where the task does not say.
    pub resource_requirements: Option<ResourceRequirements>,
    /// How it is confined; a task may only tighten it.
    pub security_requirements: Option<SecurityRequirements>,
}

/// A call and what comes of it.
#[derive(Debug, Clone)]
pub struct Example {
    /// What it shows.
    pub description: Option<String>,
    /// The parameters, as somebody would write them.
    pub params: Value,
    /// The part of the result that is always the same: an object's other keys are left open. Absent where
    /// nothing is certain.
    pub result: Option<Value>,
}

/// What a parameter, a result or a part of either looks like.
#[derive(Debug, Clone)]
pub struct ParameterSpec {
    /// The types it may have; at least one.
    pub types: Vec<Type>,
    /// What it means.
    pub description: Option<String>,
    /// Whether it must be given. One with a default never must.
    pub required: bool,
    /// What it is when not given.
    pub default: Option<Value>,
    /// `enum`: the only values allowed, compared by value (`1` is `1.0`).
    pub allowed: Option<Vec<Value>>,
    /// Smallest number, itself included.
    pub minimum: Option<Number>,
    /// Largest number, itself included.
    pub maximum: Option<Number>,
    /// Fewest characters of a string, fewest items of an array.
    pub min_length: Option<u64>,
    /// Most characters of a string, most items of an array.
    pub max_length: Option<u64>,
    /// What must be found somewhere in a string.
    pub pattern: Option<Regex>,
    /// What each item of an array looks like.
    pub items: Option<Box<ParameterSpec>>,
    /// The known properties of an object.
    pub properties: Fields,
    /// Whether an object may have others, unchecked.
    pub additional_properties: bool,
}

/// A JSON type. `integer` is every number without a fraction, `1.0` too, as in JSON Schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// A number without a fraction, of any size.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    Array,
    /// A mapping from text.
    Object,
    /// Null.
    Null,
    /// Whatever JSON can say.
    Any,
}

impl ProtocolSpec {
    /// The method of that name, given with or without the protocol's (`execute`, `python/execute`), and the
    /// name without it. An exact name wins over one with `*`, and of those the longest.
    ///
    /// A slash may belong to the name itself (`tools/list`), so the name is first tried as it is.
    pub fn find<'a>(&'a self, name: &'a str) -> Option<(&'a MethodSpec, &'a str)> {
        let bare = self.strip(name);
        for candidate in [name, bare] {
            if let Some(method) = self.methods.iter().find(|m| m.name == candidate && !m.is_pattern()) {
                return Some((method, candidate));
            }
        }
        if !is_method_name(bare) {
            return None;
        }
        let patterns = self.methods.iter().filter(|method| method.covers(bare));
        patterns.max_by_key(|method| method.name.len()).map(|method| (method, bare))
    }

    /// A method's name without the protocol's in front.
    pub(crate) fn strip<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.id.name()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name)
    }
}

impl MethodSpec {
    /// Whether the name ends in `*` and stands for many.
    pub fn is_pattern(&self) -> bool {
        self.name.ends_with('*')
    }

    /// Whether a name with `*` stands for `name`. The star stands for at least one character.
    fn covers(&self, name: &str) -> bool {
        let Some(start) = self.name.strip_suffix('*') else { return false };
        name.len() > start.len() && name.starts_with(start)
    }
}

/// Whether a method may have that name: a letter, then letters, digits and `_ . / : -`, at most 128, without
/// two dots in a row or one at the end.
pub(crate) fn is_method_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_./:-".contains(c))
        && !name.contains("..")
        && !name.ends_with('.')
}

impl ParameterSpec {
    /// Whether any of the types is one of `types`.
    pub(crate) fn may_be(&self, types: &[Type]) -> bool {
        self.types.iter().any(|own| *own == Type::Any || types.contains(own))
    }

    /// Whether leaving it out is an error.
    pub fn must_be_given(&self) -> bool {
        self.required && self.default.is_none()
    }
}

impl Type {
    /// Every type.
    pub const ALL: [Type; 8] = [
        Type::String,
        Type::Integer,
        Type::Number,
        Type::Boolean,
        Type::Array,
        Type::Object,
        Type::Null,
        Type::Any,
    ];

    /// Its name in files and messages, which is JSON Schema's but for `any`.
    pub fn name(self) -> &'static str {
        match self {
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            Type::Array => "array",
            Type::Object => "object",
            Type::Null => "null",
            Type::Any => "any",
        }
    }

    /// Whether a value is of this type.
    pub fn accepts(self, value: &Value) -> bool {
        match self {
            Type::String => value.is_string(),
            Type::Integer => value.as_number().is_some_and(number::is_integer),
            Type::Number => value.is_number(),
            Type::Boolean => value.is_boolean(),
            Type::Array => value.is_array(),
            Type::Object => value.is_object(),
            Type::Null => value.is_null(),
            Type::Any => true,
        }
    }
}
