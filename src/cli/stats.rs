//! `stats`: how tasks of each method do, in the whole fleet.

use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::print;
use crate::config::Config;
use crate::core::clock::{Clock, Timestamp};
use crate::core::code::Code;
use crate::core::duration;
use crate::core::histogram::Histogram;
use crate::core::id::Id;
use crate::core::profile::{KEPT, Profile, SLOT, Subject, slot_of};
use crate::error::Error;
use crate::runtime::State;
use crate::runtime::clock::SystemClock;
use crate::store::Noted;

const HEADER: [&str; 12] = [
    "method", "tasks", "/min", "failed", "wait p50", "p95", "p99", "time p50", "p95", "p99", "mem p50", "max",
];

/// `gleitzeit stats`
#[derive(Debug, Args)]
#[command(after_help = "\
Counted are attempts, by the worker that made them, in slots of five minutes that are kept for a day. A worker tells \
every 5 s. The wait is that from when a task was ready until its attempt began, the time that of the attempt, the \
memory the most that a process of its own held. What nobody can know is shown as -. Percentiles are off by 3 % at most.

Examples:
  gleitzeit stats
  gleitzeit stats python/v1 --since 10m
  gleitzeit stats python/v1/execute --json")]
pub(crate) struct Stats {
    /// Only of this protocol, or of this method of it
    #[arg(value_name = "PROTOCOL[/METHOD]")]
    pub(crate) of: Option<String>,
    /// From so long ago on, from the beginning of its slot: 10m, 2h; at most 1d
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub(crate) since: String,
}

/// A method in the time that was asked for.
#[derive(Debug, Default, PartialEq)]
struct Line {
    profile: Profile,
    workers: BTreeSet<Id>,
}

/// `gleitzeit stats`
pub(crate) async fn stats(config: &Config, args: Stats, json: bool) -> Result<u8, Error> {
    let refused = |text: String| Error::new(Code::InvalidRequest, text);
    let back = duration::parse(&args.since).map_err(|error| refused(format!("--since: {error}")))?;
    if back > KEPT {
        return Err(refused(format!("--since {}: profiles are kept for a day", args.since)));
    }
    let now = SystemClock.now();
    let millis = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
    let since = slot_of(Timestamp::from_millis(now.as_millis() - millis));
    let state = State::open(config).await?;
    let noted = state.store.profiles(since, now).await;
    state.close().await;
    let lines = added_up(noted?, args.of.as_deref());
    let minutes = (now.since(since).as_secs_f64() / 60.0).max(1.0 / 60.0);
    if json {
        let methods = lines.iter().map(|(subject, line)| document(subject, line, minutes));
        print::json(&json!({"since": since, "until": now, "methods": methods.collect::<Vec<Value>>()}));
        return Ok(0);
    }
    if lines.is_empty() {
        let what = args.of.map(|of| format!(" of {of}")).unwrap_or_default();
        print::note(&format!("no attempt{what} has ended since {since}"));
        return Ok(0);
    }
    show(&lines, minutes);
    print::note(&format!("since {since}, slots of {} minutes", SLOT.as_secs() / 60));
    Ok(0)
}

/// Adds up what workers have noted in slots, of what was asked for.
fn added_up(noted: Vec<Noted>, of: Option<&str>) -> BTreeMap<Subject, Line> {
    let mut lines: BTreeMap<Subject, Line> = BTreeMap::new();
    for Noted { session, subject, profile, .. } in noted {
        if !of.is_none_or(|of| is_of(&subject, of)) {
            continue;
        }
        let line = lines.entry(subject).or_default();
        line.profile.merge(&profile);
        line.workers.insert(session);
    }
    lines
}

/// Whether that names it: `python`, `python/v1`, `python/v1/execute` or `python/v1:execute`.
fn is_of(subject: &Subject, of: &str) -> bool {
    let Subject { protocol, method } = subject;
    [format!("{protocol}/{method}"), format!("{protocol}:{method}")]
        .iter()
        .any(|name| name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':'])))
}

fn document(subject: &Subject, line: &Line, minutes: f64) -> Value {
    let Line { profile, workers } = line;
    let failures = profile.failures.iter().map(|(code, count)| (code_name(*code), json!(count)));
    json!({
        "protocol": subject.protocol,
        "method": subject.method,
        "count": profile.count,
        "failed": profile.failed(),
        "failures": failures.collect::<serde_json::Map<String, Value>>(),
        "throughput_per_minute": (profile.count as f64 / minutes * 1e4).round() / 1e4,
        "queue_wait": spread(&profile.wait, |micros| json!(micros as f64 / 1e6)),
        "duration": spread(&profile.duration, |micros| json!(micros as f64 / 1e6)),
        "memory_bytes": spread(&profile.memory, |bytes| json!(bytes)),
        "workers": workers.len(),
    })
}

/// Null where nothing is known.
fn spread(histogram: &Histogram, written: impl Fn(u64) -> Value) -> Value {
    let at = |share: f64| histogram.quantile(share).map(&written);
    let Some(max) = histogram.max().map(&written) else { return Value::Null };
    json!({"count": histogram.count(), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": max})
}

fn code_name(number: i32) -> String {
    Code::from_number(number).map_or_else(|| number.to_string(), |code| code.name().to_owned())
}

fn show(lines: &BTreeMap<Subject, Line>, minutes: f64) {
    let mut rows = vec![HEADER.map(str::to_owned)];
    for (Subject { protocol, method }, Line { profile, .. }) in lines {
        let time = |of: &Histogram, share: f64| of.quantile(share).map_or_else(|| "-".to_owned(), brief_time);
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), brief_size);
        let (wait, took, memory) = (&profile.wait, &profile.duration, &profile.memory);
        rows.push([
            print::printable(&format!("{protocol}/{method}")),
            profile.count.to_string(),
            format!("{:.1}", profile.count as f64 / minutes),
            profile.failed().to_string(),
            time(wait, 0.5),
            time(wait, 0.95),
            time(wait, 0.99),
            time(took, 0.5),
            time(took, 0.95),
            time(took, 0.99),
            size(memory.quantile(0.5)),
            size(memory.max()),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    for row in &rows {
        let mut text = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            text += &format!("  {cell:>width$}");
        }
        print::line(&text);
    }
    for (Subject { protocol, method }, Line { profile, .. }) in lines {
        if profile.failures.is_empty() {
            continue;
        }
        let failures: Vec<String> =
            profile.failures.iter().map(|(code, count)| format!("{} {count}", code_name(*code))).collect();
        print::line(&print::printable(&format!("{protocol}/{method} failed: {}", failures.join(", "))));
    }
}

/// Microseconds in three digits.
pub(super) fn brief_time(micros: u64) -> String {
    let seconds = Duration::from_micros(micros).as_secs_f64();
    match seconds {
        0.0..0.000_999_5 => format!("{micros} µs"),
        0.000_999_5..0.999_5 => format!("{} ms", three_digits(seconds * 1e3)),
        0.999_5..119.5 => format!("{} s", three_digits(seconds)),
        119.5..7_170.0 => format!("{} min", three_digits(seconds / 60.0)),
        _ => format!("{} h", three_digits(seconds / 3600.0)),
    }
}

fn brief_size(bytes: u64) -> String {
    let mebibytes = bytes as f64 / 1_048_576.0;
    match mebibytes {
        0.0..1_023.5 => format!("{} MiB", three_digits(mebibytes)),
        _ => format!("{} GiB", three_digits(mebibytes / 1024.0)),
    }
}

fn three_digits(number: f64) -> String {
    match number {
        0.0..9.995 => format!("{number:.2}"),
        9.995..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::profile::Sample;

    fn subject(protocol: &str, method: &str) -> Subject {
        Subject { protocol: protocol.to_owned(), method: method.to_owned() }
    }

    #[test]
    fn a_method_is_named_whole_or_by_its_beginning() {
        let execute = subject("python/v1", "execute");
        for name in ["python", "python/v1", "python/v1/execute", "python/v1:execute"] {
            assert!(is_of(&execute, name), "{name}");
        }
        for name in ["pyth", "python/v", "python/v1/exec", "python/v1/validate", "v1", "echo"] {
            assert!(!is_of(&execute, name), "{name}");
        }
        assert!(is_of(&subject("mcp/v1", "tools/list"), "mcp/v1/tools/list"));
    }

    #[test]
    fn workers_and_slots_add_up_by_method() {
        let noted = |session: &str, method: &str, slot: i64, failure: Option<Code>| {
            let mut profile = Profile::default();
            let took = Some(Duration::from_millis(20));
            profile.note(&Sample { failure, duration: took, ..Sample::default() });
            let session = Id::parse(session).expect("valid");
            let slot = Timestamp::from_millis(slot);
            Noted { session, slot, subject: subject("a/v1", method), profile }
        };
        let all = vec![
            noted("w1", "x", 0, None),
            noted("w1", "x", 300_000, Some(Code::TaskTimeout)),
            noted("w2", "x", 0, None),
            noted("w2", "y", 0, None),
        ];
        let lines = added_up(all.clone(), None);
        let told = document(&subject("a/v1", "x"), &lines[&subject("a/v1", "x")], 2.0);
        let expected = json!({
            "protocol": "a/v1", "method": "x", "count": 3, "failed": 1, "failures": {"TASK_TIMEOUT": 1},
            "throughput_per_minute": 1.5, "queue_wait": null,
            "duration": {"count": 3, "p50": 0.019967, "p95": 0.019967, "p99": 0.019967, "max": 0.02},
            "memory_bytes": null, "workers": 2,
        });
        assert_eq!(told, expected);
        assert_eq!(added_up(all, Some("a/v1/y")).len(), 1);
    }

    #[test]
    fn figures_have_three_digits() {
        for (micros, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1.00 ms"),
            (12_340, "12.3 ms"),
            (999_499, "999 ms"),
            (999_600, "1.00 s"),
            (59_960_000, "60.0 s"),
            (120_000_000, "2.00 min"),
            (7_200_000_000, "2.00 h"),
        ] {
            assert_eq!(brief_time(micros), text);
        }
        assert_eq!(
            (brief_size(12 << 20), brief_size(3 << 30)),
            ("12.0 MiB".to_owned(), "3.00 GiB".to_owned())
        );
    }
}
