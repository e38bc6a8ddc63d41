//! The arguments of `dead`.

use clap::{Args, Subcommand};
use std::time::Duration;

use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::id::Id;
use crate::core::near::did_you_mean;
use crate::core::protocol::ProtocolId;
use crate::dead::Filter;
use crate::error::Error;
use crate::topology::{Address, Queue, Topology};

/// `gleitzeit dead`
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List dead letters, one line each, newest last
    #[command(after_help = "\
Each line: when it died, protocol:method, id, code, how often it had been replayed, message. What has no id goes \
by its letter's name (letter-...). A summary by code is on stderr.

Letters that are listed are held for that moment and given back: two people who look at once each see only what \
the other does not hold.

Examples:
  gleitzeit dead list
  gleitzeit dead list python/v1 --code TASK_TIMEOUT --newer-than 2h")]
    List(List),
    /// Show letters with everything that is known: why, what to do, attempts, output, the message
    Show(Show),
    /// Run again what failed, under the same id, and take the letters away
    #[command(after_help = "\
A task on its own runs again with its id and priority. Of a workflow, what did not complete runs again, and what \
depends on that, once for all its letters. What is not known any more, or never had an id, is published again as it \
was. What completed meanwhile only loses its letters. What cannot run again is named with the reason, and stays \
(exit 1). A replay that is interrupted can be made again: nothing is run twice or lost. Embedded, `gleitzeit resume` \
does the work.

Examples:
  gleitzeit dead replay --code PROVIDER_NOT_AVAILABLE --dry-run
  gleitzeit dead replay report-7/load
  gleitzeit dead replay --protocol python/v1 --newer-than 1d")]
    Replay(Change),
    /// Throw letters away for good; the record of the task stays as it is
    Drop(Change),
}

/// `gleitzeit dead list`
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this protocol, e.g. python/v1; unknown/v0 for what belongs to none
    #[arg(value_name = "PROTOCOL", conflicts_with = "protocols")]
    protocol: Option<String>,
    #[command(flatten)]
    pub(crate) which: Which,
}

/// `gleitzeit dead show`
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Ids, WORKFLOW/TASK, or names of letters
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    pub(crate) which: Which,
}

/// `gleitzeit dead replay`, `gleitzeit dead drop`
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// Ids, WORKFLOW/TASK, or names of letters
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Every letter; needed where nothing else says which
    #[arg(long)]
    all: bool,
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Which letters; everything that is said must hold.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only this protocol; may be repeated
    #[arg(long = "protocol", value_name = "P")]
    protocols: Vec<String>,
    /// Only what died of this, by name or number, e.g. TASK_TIMEOUT
    #[arg(long, value_name = "CODE", allow_negative_numbers = true)]
    code: Option<String>,
    /// Only what died at least this long ago, e.g. 90s, 30m, 2h, 7d
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    /// Only what died at most this long ago
    #[arg(long, value_name = "AGE")]
    newer_than: Option<String>,
    /// Only letters of this workflow
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// Only this id, WORKFLOW/TASK, or name of a letter; may be repeated
    #[arg(long = "id", value_name = "ID")]
    only: Vec<String>,
    /// At most so many letters: the newest of `list` (default 100) and `show` (20), the oldest of the others
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}

/// What is asked for, read and checked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The dead queues to look at.
    pub(crate) addresses: Vec<Address>,
    /// What of them.
    pub(crate) filter: Filter,
}

impl List {
    /// What is asked for.
    ///
    /// # Errors
    /// Refuses what cannot be read.
    pub(crate) fn asked(&self, topology: &Topology, now: Timestamp) -> Result<Asked, Error> {
        let protocols: Vec<&str> =
            self.protocol.iter().chain(&self.which.protocols).map(String::as_str).collect();
        self.which.asked(&protocols, &[], topology, now)
    }
}

impl Show {
    /// As [`List::asked`].
    pub(crate) fn asked(&self, topology: &Topology, now: Timestamp) -> Result<Asked, Error> {
        let protocols: Vec<&str> = self.which.protocols.iter().map(String::as_str).collect();
        let asked = self.which.asked(&protocols, &self.ids, topology, now)?;
        if protocols.is_empty() && asked.filter.is_empty() {
            return Err(refused("say which letters: by id, or by --code, --protocol, --workflow, ..."));
        }
        Ok(asked)
    }
}

impl Change {
    /// As [`List::asked`]; nobody empties a queue by a slip.
    pub(crate) fn asked(&self, topology: &Topology, now: Timestamp) -> Result<Asked, Error> {
        let protocols: Vec<&str> = self.which.protocols.iter().map(String::as_str).collect();
        let asked = self.which.asked(&protocols, &self.ids, topology, now)?;
        if protocols.is_empty() && asked.filter.is_empty() && !self.all {
            return Err(refused("say which letters: ids, a filter such as --code or --protocol, or --all"));
        }
        Ok(asked)
    }
}

impl Which {
    fn asked(
        &self,
        protocols: &[&str],
        ids: &[String],
        topology: &Topology,
        now: Timestamp,
    ) -> Result<Asked, Error> {
        let before = |text: &Option<String>, flag| {
            let read = |text: &String| {
                let millis = i64::try_from(age(text, flag)?.as_millis()).unwrap_or(i64::MAX);
                Ok::<_, Error>(Timestamp::from_millis(now.as_millis().saturating_sub(millis)))
            };
            text.as_ref().map(read).transpose()
        };
        let filter = Filter {
            code: self.code.as_deref().map(code).transpose()?,
            died_until: before(&self.older_than, "--older-than")?,
            died_from: before(&self.newer_than, "--newer-than")?,
            workflow: self.workflow.as_deref().map(Id::parse).transpose()?,
            ids: ids.iter().chain(&self.only).cloned().collect(),
        };
        let mut addresses = protocols.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            let dead = topology.queues().into_iter().filter_map(|queue| match queue {
                Queue::Dead(address) => Some(address),
                Queue::Tasks(_) | Queue::Workflows | Queue::Inbox => None,
            });
            addresses.extend(dead);
        }
        Ok(Asked { addresses, filter })
    }
}

fn refused(text: impl Into<String>) -> Error {
    Error::new(Code::InvalidRequest, text)
}

fn address(text: &str) -> Result<Address, Error> {
    let id: Option<ProtocolId> = text.parse().ok();
    let address = id.and_then(|id| Address::parse(&id.routing()).ok());
    address.ok_or_else(|| refused(format!("{text:?} is no protocol such as python/v1")))
}

fn code(text: &str) -> Result<Code, Error> {
    Code::find(text).ok_or_else(|| {
        let hint = did_you_mean(text, Code::ALL.iter().map(|code| code.name()));
        refused(format!("--code {text:?} is no code{hint}; docs/errors.md has all"))
    })
}

/// A number of seconds, or of what its last letter says.
fn age(text: &str, flag: &str) -> Result<Duration, Error> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3_600.0),
        Some((at, 'd')) => (&text[..at], 86_400.0),
        Some((at, 'w')) => (&text[..at], 604_800.0),
        Some(_) | None => (text, 1.0),
    };
    let seconds: Option<f64> = number.parse().ok();
    let age = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds * unit).ok());
    age.ok_or_else(|| refused(format!("{flag} {text:?} is no age such as 90s, 30m, 2h, 7d")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_a_unit() {
        let ages = [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7_200), ("7d", 604_800), ("1w", 604_800)];
        for (text, seconds) in ages {
            assert_eq!(age(text, "--older-than").ok(), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "-1h", "2y", "nan", "1e300d"] {
            assert!(age(text, "--older-than").is_err(), "{text}");
        }
    }
}
