//! Profiles as stores keep them. Ours alone: `gleitzeit stats --json` is for others.
//!
//! ```text
//! {"n":3,"f":{"-32602":2},"w":[3000,184,1],"d":[1000000,318,1],"m":[1048576,272,1]}
//! ```
//! `n` attempts, `f` failures by code; of waits, durations (microseconds) and memory (bytes) the largest value, then
//! buckets and their counts in turn.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::core::histogram::Histogram;
use crate::core::profile::Profile;

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    n: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    f: BTreeMap<i32, u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    w: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    d: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    m: Vec<u64>,
}

/// Writes a profile.
#[must_use]
pub fn encode(profile: &Profile) -> String {
    let written = Written {
        n: profile.count,
        f: profile.failures.clone(),
        w: numbers(&profile.wait),
        d: numbers(&profile.duration),
        m: numbers(&profile.memory),
    };
    serde_json::to_string(&written).expect("numbers are JSON")
}

/// Reads what [`encode`] wrote; `None` if that is nothing of the kind.
#[must_use]
pub fn decode(text: &str) -> Option<Profile> {
    let Written { n, f, w, d, m } = serde_json::from_str(text).ok()?;
    let (wait, duration, memory) = (histogram(&w)?, histogram(&d)?, histogram(&m)?);
    Some(Profile { count: n, failures: f, wait, duration, memory })
}

fn numbers(histogram: &Histogram) -> Vec<u64> {
    let buckets = histogram.buckets().flat_map(|(bucket, count)| [u64::from(bucket), count]);
    histogram.max().into_iter().chain(buckets).collect()
}

fn histogram(numbers: &[u64]) -> Option<Histogram> {
    let Some((max, buckets)) = numbers.split_first() else { return Some(Histogram::default()) };
    let pairs = buckets.chunks(2).map(|pair| match pair {
        [bucket, count] => Some((u16::try_from(*bucket).ok()?, *count)),
        _ => None,
    });
    Histogram::of(pairs.collect::<Option<Vec<_>>>()?, *max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::code::Code;
    use crate::core::profile::Sample;
    use std::time::Duration;

    #[test]
    fn a_profile_reads_back_and_is_written_as_ever() {
        let mut profile = Profile::default();
        assert_eq!(decode(&encode(&profile)), Some(profile.clone()));
        profile.note(&Sample {
            failure: None,
            wait: Some(Duration::from_millis(3)),
            duration: Some(Duration::from_secs(1)),
            memory_bytes: Some(1 << 20),
        });
        profile.note(&Sample { failure: Some(Code::InvalidParams), ..Sample::default() });
        profile.note(&Sample { failure: Some(Code::InvalidParams), ..Sample::default() });
        let text = encode(&profile);
        assert_eq!(
            text,
            r#"{"n":3,"f":{"-32602":2},"w":[3000,135,1],"d":[1000000,270,1],"m":[1048576,272,1]}"#
        );
        assert_eq!(decode(&text), Some(profile));
    }

    #[test]
    fn what_is_no_profile_is_not_read() {
        for text in ["", "{}", "[]", r#"{"n":1,"w":[1,2]}"#, r#"{"n":1,"d":[1,70000,1]}"#, r#"{"n":-1}"#] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
