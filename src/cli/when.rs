//! When work may start, and until when: `--in`, `--at`, `--expires-in`, `--expires-at`.

use clap::Args;
use serde_json::Value;
use std::time::Duration;

use crate::broker::DELAY_MAX;
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::duration;
use crate::core::workflow::Workflow;
use crate::error::Error;

/// How far in the past a time may lie and still mean now: clocks differ, and reading takes a moment.
const PAST_MAX: Duration = Duration::from_secs(1);

/// The flags.
#[derive(Debug, Default, Args)]
pub(crate) struct When {
    /// Start when this much time has passed: 90 or 90s, 5m, 2h, 1d; at most 310 days
    #[arg(long = "in", value_name = "DURATION", conflicts_with = "at")]
    pub(crate) delay: Option<String>,
    /// Start at this time (RFC 3339), e.g. 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// End as expired (exit 5) what has not been started when this much time has passed, from now
    #[arg(long, value_name = "DURATION", conflicts_with = "expires_at")]
    pub(crate) expires_in: Option<String>,
    /// End as expired (exit 5) what has not been started by this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<String>,
}

/// What the flags say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// Not to be started earlier; `None` for at once.
    pub(crate) not_before: Option<Timestamp>,
    /// Not to be started later.
    pub(crate) expires_at: Option<Timestamp>,
}

impl When {
    /// The points in time that are meant now.
    ///
    /// # Errors
    /// What is no time or duration, in the past, or further away than a message can wait, and a start after the end.
    pub(crate) fn times(&self, now: Timestamp) -> Result<Times, Error> {
        let start = point("--in", self.delay.as_deref(), "--at", self.at.as_deref(), now)?;
        if let Some(start) = start.filter(|start| now.since(*start) > PAST_MAX) {
            return Err(refused(format!("--at {start} is in the past: it is {now}")));
        }
        if let Some(start) = start.filter(|start| start.since(now) > DELAY_MAX) {
            let (days, last) = (DELAY_MAX.as_secs() / 86_400, now.after(DELAY_MAX));
            return Err(refused(format!(
                "{start} is too far away: work can be delayed by at most {days} days, until {last}"
            )));
        }
        let (for_end, at_end) = (self.expires_in.as_deref(), self.expires_at.as_deref());
        let end = point("--expires-in", for_end, "--expires-at", at_end, now)?;
        if let Some(end) = end.filter(|end| *end <= now) {
            return Err(refused(format!("it would be expired at once: it ends at {end}, and it is {now}")));
        }
        if let (Some(start), Some(end)) = (start, end)
            && end <= start
        {
            let text = format!("it would expire at {end}, before it may start at {start}");
            return Err(refused(text));
        }
        Ok(Times { not_before: start.filter(|start| *start > now), expires_at: end })
    }
}

/// The time that one of two flags means; the parser lets nobody give both.
fn point(
    in_flag: &str,
    wait: Option<&str>,
    at_flag: &str,
    at: Option<&str>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Error> {
    if let Some(text) = at {
        return text.parse().map(Some).map_err(|error| refused(format!("{at_flag}: {error}")));
    }
    let Some(text) = wait else { return Ok(None) };
    let wait = duration::parse(text).map_err(|error| refused(format!("{in_flag}: {error}")))?;
    Ok(Some(now.after(wait)))
}

fn refused(text: String) -> Error {
    Error::new(Code::InvalidRequest, text)
}

/// Gives the tasks of a workflow that wait for no other this end, unless they have an earlier one: what follows
/// them is decided by their policies.
pub(crate) fn expire_roots(document: &mut Value, workflow: &Workflow, end: Timestamp) {
    let tasks = document.get_mut("tasks").and_then(Value::as_array_mut).into_iter().flatten();
    for (task, read) in tasks.zip(&workflow.tasks) {
        let has_earlier = read.spec.expires_at.is_some_and(|own| own <= end);
        if let Some(members) = task.as_object_mut().filter(|_| read.dependencies.is_empty() && !has_earlier) {
            members.insert("expires_at".to_owned(), end.to_string().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn when(flags: [Option<&str>; 4]) -> Result<Times, String> {
        let [delay, at, expires_in, expires_at] = flags.map(|flag| flag.map(str::to_owned));
        let now = NOW.parse().expect("a time");
        When { delay, at, expires_in, expires_at }.times(now).map_err(|error| error.message)
    }

    #[track_caller]
    fn check(flags: [Option<&str>; 4], not_before: Option<&str>, expires_at: Option<&str>) {
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        let expected = Times { not_before: not_before.map(time), expires_at: expires_at.map(time) };
        assert_eq!(when(flags), Ok(expected), "{flags:?}");
    }

    #[track_caller]
    fn check_refused(flags: [Option<&str>; 4], part: &str) {
        let message = when(flags).expect_err(part);
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn durations_and_times_are_points_in_time() {
        check([None; 4], None, None);
        check([Some("5m"), None, None, None], Some("2026-01-02T03:09:05Z"), None);
        check([Some("0"), None, None, None], None, None);
        check([None, Some("2026-01-02T05:04:05+01:00"), None, None], Some("2026-01-02T04:04:05Z"), None);
        check(
            [Some("1d"), None, Some("2d"), None],
            Some("2026-01-03T03:04:05Z"),
            Some("2026-01-04T03:04:05Z"),
        );
        check([None, None, None, Some("2026-01-02T03:04:06Z")], None, Some("2026-01-02T03:04:06Z"));
        check([Some("310d"), None, None, None], Some("2026-11-08T03:04:05Z"), None);
    }

    #[test]
    fn a_second_of_the_past_is_now_and_more_is_refused() {
        check([None, Some("2026-01-02T03:04:04Z"), None, None], None, None);
        check_refused(
            [None, Some("2026-01-02T03:04:03.9Z"), None, None],
            "is in the past: it is 2026-01-02T03:04:05.000Z",
        );
        check_refused([None, None, None, Some(NOW)], "expired at once");
        check_refused([None, None, Some("0"), None], "expired at once");
    }

    #[test]
    fn what_cannot_be_waited_for_or_read_is_refused() {
        check_refused([Some("311d"), None, None, None], "at most 310 days, until 2026-11-08T");
        check_refused([None, Some("2027-01-02T03:04:05Z"), None, None], "too far away");
        check_refused([Some("soon"), None, None, None], "--in: \"soon\" is no duration");
        check_refused([None, Some("noon"), None, None], "--at: \"noon\" is not a time in RFC 3339");
        check_refused([None, None, Some("-1"), None], "--expires-in: \"-1\"");
        check_refused(
            [Some("1h"), None, Some("5m"), None],
            "before it may start at 2026-01-02T04:04:05.000Z",
        );
    }
}
