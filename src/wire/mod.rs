//! What is written down: messages on the broker, documents in the store. Versioned, and the only types
//! that are serialised; `docs/wire-format.md` describes them for producers in other languages.

pub mod command;
pub mod control;
pub mod envelope;
pub mod event;
pub mod inbox;
pub mod profile;
pub mod properties;
pub mod record;
pub mod schedule;
pub mod task;
pub mod vitals;
pub mod worker;
pub mod workflow;

use serde_json::{Map, Value};

use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::reading::{self, Reading};
use crate::core::violation::Path;

pub use properties::{HEADER_READY, HEADER_ROOT, HEADER_RUN, Properties};

/// The newest version of messages (`v`) that is read, and the one that is written.
pub const VERSION: u64 = 1;

/// The members of a JSON object.
fn object(body: &[u8], what: &str) -> Result<Map<String, Value>, Failure> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::new(Code::ParseError, format!("{what} is not JSON: {error}")))?;
    match value {
        Value::Object(members) => Ok(members),
        other => {
            let found = reading::shown(&other);
            Err(Failure::new(Code::ParseError, format!("{what} must be a JSON object, found {found}")))
        }
    }
}

/// The version, if it is newer than ours.
fn newer(members: &Map<String, Value>) -> Option<u64> {
    members.get("v").and_then(Value::as_u64).filter(|v| *v > VERSION)
}

/// Notes a version that is none.
fn check_version(value: &Value, reading: &mut Reading) {
    if value.as_u64() != Some(VERSION) {
        reading.mismatch(&Path::Root("v"), value, format!("a version, at most {VERSION}"));
    }
}
