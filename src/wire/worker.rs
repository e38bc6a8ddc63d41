//! What a worker says of itself while it lives, so that others know which tasks it could ever run.
//!
//! ```text
//! {"v": 1, "protocols": ["echo/v1"], "resources": {"cpu_cores": 2, "memory_mb": 16000}}
//! ```
//! What `resources` does not name is not limited.

use serde_json::{Map, Value, json};

use super::VERSION;
use crate::core::protocol::ProtocolId;
use crate::core::resources::Totals;

/// A worker, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The protocols whose tasks it takes.
    pub protocols: Vec<ProtocolId>,
    /// What it has.
    pub resources: Totals,
}

impl About {
    /// As it is recorded.
    #[must_use]
    pub fn encode(&self) -> String {
        let protocols: Vec<String> = self.protocols.iter().map(ToString::to_string).collect();
        json!({"v": VERSION, "protocols": protocols, "resources": self.resources.to_json()}).to_string()
    }

    /// Reads it. `None`: it is of no form that this worker knows.
    #[must_use]
    pub fn decode(text: &str) -> Option<About> {
        let members: Map<String, Value> = serde_json::from_str(text).ok()?;
        if super::newer(&members).is_some() {
            return None;
        }
        let protocols = members.get("protocols")?.as_array()?.iter();
        let resources = members.get("resources").and_then(Value::as_object);
        Some(About {
            protocols: protocols.filter_map(|protocol| protocol.as_str()?.parse().ok()).collect(),
            resources: resources.map(Totals::from_json).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::resources::Kind;

    #[test]
    fn a_worker_reads_what_another_one_says_of_itself() {
        let resources = Totals::default().with(Kind::Cpu, Some(1500)).with(Kind::Memory, Some(16_000));
        let about = About { protocols: vec!["echo/v1".parse().expect("valid")], resources };
        let text = r#"{"v":1,"protocols":["echo/v1"],"resources":{"cpu_cores":1.5,"memory_mb":16000}}"#;
        assert_eq!(serde_json::from_str::<Value>(&about.encode()).ok(), serde_json::from_str(text).ok());
        assert_eq!(About::decode(&about.encode()), Some(about));
        for other in ["", "[]", r#"{"v":2,"protocols":[]}"#, r#"{"v":1}"#] {
            assert_eq!(About::decode(other), None, "{other}");
        }
    }
}
