//! The protocols that have lanes: `[fairness."llm/v1"]`.

use std::collections::BTreeMap;
use toml::Value;

use super::{Config, Origin};
use crate::core::fairness::WEIGHT_MAX;
use crate::core::near::did_you_mean;
use crate::topology::lane::{LANES_MAX, Lanes};

/// What keys of lanes start with; then the protocol, then what is said of it.
pub(super) const FAIRNESS: &str = "fairness.";
/// How many there are.
const LANES: &str = ".lanes";
/// What stands between the protocol and a fairness key with a weight.
const WEIGHTS: &str = ".weights.";

impl Config {
    /// The protocols that have lanes, or had some, as they are written.
    #[must_use]
    pub fn fairness(&self) -> Vec<(String, Lanes)> {
        let (protocols, _) = read(&self.values);
        protocols.into_iter().map(|(protocol, lanes)| (protocol.to_owned(), lanes)).collect()
    }
}

/// Every problem with these keys.
pub(super) fn problems(values: &BTreeMap<String, (Value, Origin)>) -> Vec<String> {
    read(values).1
}

fn read(values: &BTreeMap<String, (Value, Origin)>) -> (BTreeMap<&str, Lanes>, Vec<String>) {
    let (mut protocols, mut found) = (BTreeMap::new(), Vec::new());
    let ours = || values.iter().filter_map(|(key, said)| Some((key, key.strip_prefix(FAIRNESS)?, said)));
    for (key, rest, (value, origin)) in ours() {
        let Some(protocol) = rest.strip_suffix(LANES).filter(|rest| !rest.contains(WEIGHTS)) else {
            continue;
        };
        match value
            .as_integer()
            .and_then(|count| u16::try_from(count).ok())
            .filter(|count| *count <= LANES_MAX)
        {
            Some(count) => _ = protocols.insert(protocol, Lanes { count, ..Lanes::default() }),
            None => found.push(format!("{origin}: {key} must be a whole number from 0 to {LANES_MAX}")),
        }
    }
    for (key, rest, (value, origin)) in ours() {
        if rest.ends_with(LANES) && !rest.contains(WEIGHTS) {
            continue;
        }
        let Some((protocol, of)) = rest.split_once(WEIGHTS) else {
            let said = rest.rsplit_once('.').map_or(rest, |(_, said)| said);
            let hint = did_you_mean(said, ["lanes", "weights"]);
            found.push(format!(
                "{origin}: {key} is not known; a table such as [fairness.\"llm/v1\"] has lanes and weights{hint}"
            ));
            continue;
        };
        let weight = value.as_integer().and_then(|weight| u32::try_from(weight).ok());
        match (weight.filter(|weight| (1..=WEIGHT_MAX).contains(weight)), protocols.get_mut(protocol)) {
            (None, _) => {
                found.push(format!("{origin}: {key} must be a whole number from 1 to {WEIGHT_MAX}"));
            }
            (Some(weight), Some(lanes)) => _ = lanes.weights.insert(of.to_owned(), weight),
            (Some(_), None) => {
                found.push(format!("{origin}: {key} is of a protocol without {FAIRNESS}{protocol}{LANES}"));
            }
        }
    }
    (protocols, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn read(text: &str) -> Result<Vec<(String, Lanes)>, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).expect("write");
        let config = load(&Sources { file: Some(path), ..Sources::default() });
        config.map(|config| config.fairness()).map_err(|error| error.to_string())
    }

    #[test]
    fn lanes_are_off_unless_they_are_said() {
        assert_eq!(read(""), Ok(Vec::new()));
        let said = read(
            "[fairness.'llm/v1']\nlanes = 8\nweights = {big = 3, 'a.b' = 2}\n[fairness.'echo/v1']\nlanes = 0\n",
        );
        let weights = BTreeMap::from([("a.b".to_owned(), 2), ("big".to_owned(), 3)]);
        let expected =
            [("echo/v1".to_owned(), Lanes::default()), ("llm/v1".to_owned(), Lanes { count: 8, weights })];
        assert_eq!(said, Ok(expected.to_vec()));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let said = read(
            "[fairness]\nlanes = 8\n[fairness.a]\nlane = 1\n[fairness.b]\nlanes = 65\nweights = {k = 0}\n\
             [fairness.c]\nweights = {k = 1}\n[fairness.d]\nlanes = -1\n",
        )
        .expect_err("all of it is wrong");
        for part in [
            "fairness.lanes is not known; a table such as [fairness.\"llm/v1\"] has lanes and weights",
            "fairness.a.lane is not known",
            "did you mean lanes?",
            "fairness.b.lanes must be a whole number from 0 to 64",
            "fairness.b.weights.k must be a whole number from 1 to 100",
            "fairness.c.weights.k is of a protocol without fairness.c.lanes",
            "fairness.d.lanes must be a whole number",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
