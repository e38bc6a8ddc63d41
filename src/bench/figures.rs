//! Figures of one round, and what many rounds say together: medians, and the median of the ratios of rounds
//! that ran side by side (a machine's speed varies from minute to minute; the ratio does not).

use serde_json::{Map, Value, json};
use std::time::Duration;

/// What was measured of one side in one round. `None` for what this side or mode does not have.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    /// Results per second, from the first to the last result of the drain.
    pub tasks_per_second: Option<f64>,
    /// Tasks published or submitted and confirmed, per second.
    pub submitted_per_second: Option<f64>,
    /// Tasks per second of submission and drain together.
    pub whole_per_second: Option<f64>,
    /// Median time of one task from submission to its result at the producer, nothing else going on; ms.
    pub round_trip_p50_ms: Option<f64>,
    /// The same, 99 of 100 are faster; ms.
    pub round_trip_p99_ms: Option<f64>,
    /// Processor time, user and system, that the worker process used per task of the drain; microseconds.
    pub cpu_us_per_task: Option<f64>,
    /// The most memory that the worker process ever held (VmHWM); MiB.
    pub memory_peak_mib: Option<f64>,
    /// From the start of the worker process to the first result; ms.
    pub start_ms: Option<f64>,
}

/// One kind of figure.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The member in JSON, with its unit.
    pub key: &'static str,
    /// For people.
    pub label: &'static str,
    /// Digits after the point, for people.
    pub digits: usize,
    /// Where it is.
    pub of: fn(&Figures) -> Option<f64>,
}

/// Every kind of figure, in the order in which they are shown.
pub const METRICS: [Metric; 8] = [
    Metric { key: "tasks_per_second", label: "tasks/s", digits: 0, of: |it| it.tasks_per_second },
    Metric { key: "submitted_per_second", label: "submitted/s", digits: 0, of: |it| it.submitted_per_second },
    Metric {
        key: "whole_per_second",
        label: "submitted and done/s",
        digits: 0,
        of: |it| it.whole_per_second,
    },
    Metric {
        key: "round_trip_p50_ms",
        label: "round trip p50, ms",
        digits: 2,
        of: |it| it.round_trip_p50_ms,
    },
    Metric {
        key: "round_trip_p99_ms",
        label: "round trip p99, ms",
        digits: 2,
        of: |it| it.round_trip_p99_ms,
    },
    Metric {
        key: "cpu_us_per_task",
        label: "worker CPU per task, us",
        digits: 1,
        of: |it| it.cpu_us_per_task,
    },
    Metric {
        key: "memory_peak_mib",
        label: "worker peak memory, MiB",
        digits: 1,
        of: |it| it.memory_peak_mib,
    },
    Metric { key: "start_ms", label: "start to first result, ms", digits: 0, of: |it| it.start_ms },
];

impl Figures {
    /// What there is, by key.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let members =
            METRICS.iter().filter_map(|metric| Some((metric.key.to_owned(), number((metric.of)(self)?))));
        Value::Object(members.collect::<Map<String, Value>>())
    }

    /// Reads what [`Figures::to_json`] wrote.
    #[must_use]
    pub fn from_json(value: &Value) -> Figures {
        let get = |key: &str| value.get(key).and_then(Value::as_f64);
        Figures {
            tasks_per_second: get("tasks_per_second"),
            submitted_per_second: get("submitted_per_second"),
            whole_per_second: get("whole_per_second"),
            round_trip_p50_ms: get("round_trip_p50_ms"),
            round_trip_p99_ms: get("round_trip_p99_ms"),
            cpu_us_per_task: get("cpu_us_per_task"),
            memory_peak_mib: get("memory_peak_mib"),
            start_ms: get("start_ms"),
        }
    }

    /// Adds the round trips' percentiles.
    #[must_use]
    pub fn with_round_trips(self, mut times: Vec<Duration>) -> Figures {
        times.sort();
        let at = |part: f64| percentile(&times, part).map(|time| time.as_secs_f64() * 1000.0);
        Figures { round_trip_p50_ms: at(0.5), round_trip_p99_ms: at(0.99), ..self }
    }
}

/// The median of one kind of figure over rounds; of an even number the mean of the middle two.
#[must_use]
pub fn median(rounds: &[Figures], of: fn(&Figures) -> Option<f64>) -> Option<f64> {
    middle(rounds.iter().filter_map(of).collect())
}

/// The median over rounds of the ratio between two sides that took turns.
#[must_use]
pub fn median_ratio(ours: &[Figures], floor: &[Figures], of: fn(&Figures) -> Option<f64>) -> Option<f64> {
    let ratio = |(ours, floor): (&Figures, &Figures)| {
        let below = of(floor).filter(|below| *below > 0.0)?;
        Some(of(ours)? / below)
    };
    middle(ours.iter().zip(floor).filter_map(ratio).collect())
}

/// A count per second.
#[must_use]
pub fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}

/// A number in JSON with at most three digits after the point.
#[must_use]
pub fn number(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

/// The median; of an even number of values the mean of the middle two.
pub(super) fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    values.get(values.len() / 2 - 1).map(|lower| (lower + upper) / 2.0)
}

/// The smallest value that `part` of all values do not exceed.
fn percentile(sorted: &[Duration], part: f64) -> Option<Duration> {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(tasks_per_second: f64) -> Figures {
        Figures { tasks_per_second: Some(tasks_per_second), ..Figures::default() }
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        let (ours, floor) = ([rate(50.0), rate(10.0), rate(70.0)], [rate(100.0), rate(40.0), rate(100.0)]);
        assert_eq!(median(&ours, METRICS[0].of), Some(50.0));
        assert_eq!(median_ratio(&ours, &floor, METRICS[0].of), Some(0.5));
        assert_eq!(median_ratio(&ours, &floor, METRICS[3].of), None);
    }

    #[test]
    fn an_even_number_has_its_median_in_the_middle() {
        assert_eq!(median(&[rate(1.0), rate(4.0), rate(2.0), rate(3.0)], METRICS[0].of), Some(2.5));
        assert_eq!(median(&[], METRICS[0].of), None);
    }

    #[test]
    fn percentiles_are_of_the_times_themselves() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let figures = Figures::default().with_round_trips(times);
        assert_eq!((figures.round_trip_p50_ms, figures.round_trip_p99_ms), (Some(100.0), Some(198.0)));
    }

    #[test]
    fn figures_survive_json() {
        let figures = Figures { start_ms: Some(1.5), ..rate(12.25) };
        assert_eq!(Figures::from_json(&figures.to_json()), figures);
    }
}
