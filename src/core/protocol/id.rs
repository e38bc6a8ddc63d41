//! The name of a protocol: `python/v1`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::core::code::Code;

/// Longest name, in characters; a queue's name is at most 255 bytes and has more parts.
const NAME_LENGTH_MAX: usize = 64;
/// Longest version, in characters; name, dot and version are at most 96.
const VERSION_LENGTH_MAX: usize = 31;

/// A protocol's name and version.
///
/// Versions are compared by their numbers, a missing one being 0: `python/v1` and `python/v1.0` are the same
/// protocol, `python/v1.2` is another one, and `v1.10` is newer than `v1.9`. It is printed in the shortest form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProtocolId {
    name: String,
    version: Version,
}

/// The numbers of a version, without zeros at the end; the first is always there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Vec<u64>);

/// Why some text is not the name of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolIdError {
    /// The part before the slash.
    #[error(
        "protocol `{text}`: the name must be 1 to 64 lower case letters, digits, `_` or `-`, and begin with a letter"
    )]
    Name {
        /// What was given.
        text: String,
    },
    /// The part after the slash.
    #[error(
        "protocol `{text}`: the version must be `v` and numbers with dots between them, such as v1 or v1.2"
    )]
    Version {
        /// What was given.
        text: String,
    },
}

impl ProtocolIdError {
    /// The stable code for programs.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            ProtocolIdError::Name { .. } | ProtocolIdError::Version { .. } => Code::InvalidRequest,
        }
    }
}

impl ProtocolId {
    /// Puts a name (`python`) and a version (`v1.0`) together.
    ///
    /// # Errors
    /// [`ProtocolIdError`] names the part that is not what it must be.
    pub fn new(name: &str, version: &str) -> Result<Self, ProtocolIdError> {
        let text = || shortened(&format!("{name}/{version}"));
        if !is_name(name) {
            return Err(ProtocolIdError::Name { text: text() });
        }
        match Version::parse(version, '.') {
            Some(version) => Ok(Self { name: name.to_owned(), version }),
            None => Err(ProtocolIdError::Version { text: text() }),
        }
    }

    /// The name: `python`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version, to compare or to print.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The routing key, which is also the end of the queues' names: `python.v1`.
    ///
    /// A dot inside the version becomes `_` (`llm/v1.2` is `llm.v1_2`), so that the only dot stands between
    /// name and version and no two protocols share a queue: a version has only digits besides.
    pub fn routing(&self) -> String {
        format!("{}.{}", self.name, self.version.written_with('_'))
    }

    /// The protocol of a routing key; the other direction of [`ProtocolId::routing`].
    ///
    /// # Errors
    /// [`ProtocolIdError`] if it is no protocol's routing key.
    pub fn from_routing(key: &str) -> Result<Self, ProtocolIdError> {
        let (name, version) = key.split_once('.').unwrap_or((key, ""));
        if !is_name(name) {
            return Err(ProtocolIdError::Name { text: shortened(key) });
        }
        match Version::parse(version, '_') {
            Some(version) => Ok(Self { name: name.to_owned(), version }),
            None => Err(ProtocolIdError::Version { text: shortened(key) }),
        }
    }
}

impl FromStr for ProtocolId {
    type Err = ProtocolIdError;

    /// Reads `python/v1`, `python/v1.0`, or `python`, which means `python/v1`.
    fn from_str(text: &str) -> Result<Self, ProtocolIdError> {
        let (name, version) = text.split_once('/').unwrap_or((text, "v1"));
        Self::new(name, version)
    }
}

impl fmt::Display for ProtocolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.version)
    }
}

impl TryFrom<String> for ProtocolId {
    type Error = ProtocolIdError;

    fn try_from(text: String) -> Result<Self, ProtocolIdError> {
        text.parse()
    }
}

impl From<ProtocolId> for String {
    fn from(id: ProtocolId) -> Self {
        id.to_string()
    }
}

impl Version {
    fn parse(text: &str, separator: char) -> Option<Self> {
        if text.len() > VERSION_LENGTH_MAX {
            return None;
        }
        let mut numbers = Vec::new();
        for part in text.strip_prefix('v')?.split(separator) {
            // `parse` alone would take a sign.
            if !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            numbers.push(part.parse().ok()?);
        }
        while numbers.len() > 1 && numbers.last() == Some(&0) {
            numbers.pop();
        }
        Some(Self(numbers))
    }

    fn written_with(&self, separator: char) -> String {
        let numbers: Vec<String> = self.0.iter().map(u64::to_string).collect();
        format!("v{}", numbers.join(&separator.to_string()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written_with('.'))
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_LENGTH_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}

/// What a message shows of a name that nobody has checked yet.
fn shortened(text: &str) -> String {
    text.chars().take(NAME_LENGTH_MAX + VERSION_LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> ProtocolId {
        text.parse().expect(text)
    }

    #[test]
    fn names_are_read_and_printed_in_the_shortest_form() {
        let check = |text: &str, printed: &str, routing: &str| {
            assert_eq!(id(text).to_string(), printed, "{text}");
            assert_eq!(id(text).routing(), routing, "{text}");
            assert_eq!(ProtocolId::from_routing(routing), Ok(id(text)), "{text}");
        };
        check("python/v1", "python/v1", "python.v1");
        check("python/v1.0", "python/v1", "python.v1");
        check("python/v01.0.0", "python/v1", "python.v1");
        check("python", "python/v1", "python.v1");
        check("llm/v1.2", "llm/v1.2", "llm.v1_2");
        check("llm/v1.0.2", "llm/v1.0.2", "llm.v1_0_2");
        check("web-search/v0", "web-search/v0", "web-search.v0");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<ProtocolId>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("", "the name must be");
        check("Python/v1", "the name must be");
        check("1python/v1", "the name must be");
        check("py.thon/v1", "the name must be");
        check("pythön/v1", "the name must be");
        check(&format!("{}/v1", "p".repeat(65)), "the name must be");
        check("python/1", "the version must be");
        check("python/v", "the version must be");
        check("python/v1.", "the version must be");
        check("python/v+1", "the version must be");
        check("python/v1/x", "the version must be");
        check("python/v1-beta", "the version must be");
        check("python/v99999999999999999999999", "the version must be");
        check("python/", "the version must be");
        assert!(ProtocolId::from_routing("python").is_err());
        assert!(ProtocolId::from_routing("python.v1.2").is_err());
    }

    #[test]
    fn the_longest_name_fits_a_routing_key() {
        let longest = id(&format!("{}/v{}", "p".repeat(64), "1.".repeat(15).trim_end_matches('.')));
        assert!(longest.routing().len() <= 96);
        assert!(format!("p/v{}1", "1.".repeat(15)).parse::<ProtocolId>().is_err());
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let same: HashSet<ProtocolId> = [id("p/v1"), id("p/v1.0"), id("p/v1.0.0")].into();
        assert_eq!(same.len(), 1);
        assert_ne!(id("p/v1"), id("p/v1.2"));
        assert!(id("p/v1") < id("p/v1.0.1"));
        assert!(id("p/v1.9") < id("p/v1.10"));
        assert!(id("p/v1.10") < id("p/v2"));
    }

    #[test]
    fn it_is_text_in_json() {
        let read: ProtocolId = serde_json::from_str("\"python/v1.0\"").expect("a name");
        assert_eq!(serde_json::to_string(&read).expect("text"), "\"python/v1\"");
        assert!(serde_json::from_str::<ProtocolId>("\"P\"").is_err());
    }

    proptest! {
        #[test]
        fn no_two_protocols_share_a_routing_key(
            a in "[a-z][a-z0-9_-]{0,5}/v[0-9]{1,2}(\\.[0-9]{1,2}){0,2}",
            b in "[a-z][a-z0-9_-]{0,5}/v[0-9]{1,2}(\\.[0-9]{1,2}){0,2}",
        ) {
            let (a, b) = (id(&a), id(&b));
            prop_assert_eq!(a == b, a.routing() == b.routing());
            prop_assert_eq!(a == b, a.to_string() == b.to_string());
            prop_assert_eq!(ProtocolId::from_routing(&a.routing()), Ok(a.clone()));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = text.parse::<ProtocolId>();
            let _ = ProtocolId::from_routing(&text);
        }
    }
}
