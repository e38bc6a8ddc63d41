//! What a run of the bench says: a table for people, one document for programs.

use serde_json::{Map, Value, json};

use super::figures::{Figures, METRICS, Metric, median, median_ratio, number};

/// The figures of a run, and what they were measured on.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// `distributed` or `embedded`.
    pub mode: &'static str,
    /// Tasks per round.
    pub tasks: usize,
    /// Round trips per round that count.
    pub round_trips: usize,
    /// Tasks at once in the worker.
    pub concurrency: u16,
    /// The machine.
    pub machine: Machine,
    /// Servers by name and version, and what else a figure depends on.
    pub servers: Vec<(&'static str, String)>,
    /// The floor, round by round; empty if it was not measured.
    pub floor: Vec<Figures>,
    /// Gleitzeit, round by round; empty if it was not measured.
    pub ours: Vec<Figures>,
}

/// The machine, and the program as it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// What the kernel calls them.
    pub processor: String,
    /// The kernel.
    pub kernel: String,
    /// `release`, or `debug`, whose figures say little.
    pub build: &'static str,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: model
                .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    /// The machine in a line, with the program's version and build.
    #[must_use]
    pub fn line(&self) -> String {
        let Machine { cores, processor, kernel, build } = self;
        format!("gleitzeit {} ({build}), {cores} x {processor}, Linux {kernel}", env!("CARGO_PKG_VERSION"))
    }

    /// The machine as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Machine { cores, processor, kernel, build } = self;
        json!({"cores": cores, "processor": processor, "kernel": kernel, "build": build})
    }
}

impl Report {
    /// Every figure: medians, ratios, and each round.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut servers = Map::new();
        for (name, value) in &self.servers {
            servers.insert((*name).to_owned(), json!(value));
        }
        let ratio = |metric: &Metric| median_ratio(&self.ours, &self.floor, metric.of);
        json!({
            "gleitzeit": env!("CARGO_PKG_VERSION"),
            "mode": self.mode,
            "tasks": self.tasks,
            "round_trips": self.round_trips,
            "concurrency": self.concurrency,
            "rounds": self.floor.len().max(self.ours.len()),
            "machine": self.machine.to_json(),
            "servers": servers,
            "floor": side(&self.floor),
            "ours": side(&self.ours),
            "ratio": of_every_metric(ratio),
        })
    }

    /// Lines for people.
    #[must_use]
    pub fn table(&self) -> Vec<String> {
        let rounds = self.floor.len().max(self.ours.len());
        let (mode, tasks, trips) = (self.mode, self.tasks, self.round_trips);
        let mut lines = vec![
            format!("{mode}: medians of {rounds} rounds of {tasks} tasks and {trips} round trips"),
            self.machine.line(),
        ];
        lines.extend(self.servers.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.push(String::new());
        let (floor, ours) = (title("floor", &self.floor), title("gleitzeit", &self.ours));
        lines.push(row("", [floor, ours, title_ratio(&self.floor, &self.ours)]));
        for metric in &METRICS {
            let (floor, ours) = (median(&self.floor, metric.of), median(&self.ours, metric.of));
            if floor.is_none() && ours.is_none() {
                continue;
            }
            let cell =
                |value: Option<f64>| value.map(|value| grouped(value, metric.digits)).unwrap_or_default();
            let ratio = median_ratio(&self.ours, &self.floor, metric.of);
            lines.push(row(
                metric.label,
                [cell(floor), cell(ours), ratio.map(|it| format!("{it:.2}")).unwrap_or_default()],
            ));
        }
        lines
    }
}

fn side(rounds: &[Figures]) -> Value {
    if rounds.is_empty() {
        return Value::Null;
    }
    let medians = of_every_metric(|metric| median(rounds, metric.of));
    json!({"median": medians, "rounds": rounds.iter().map(Figures::to_json).collect::<Vec<Value>>()})
}

fn of_every_metric(value: impl Fn(&Metric) -> Option<f64>) -> Value {
    let members = METRICS.iter().filter_map(|metric| Some((metric.key.to_owned(), number(value(metric)?))));
    Value::Object(members.collect::<Map<String, Value>>())
}

fn title(name: &str, rounds: &[Figures]) -> String {
    if rounds.is_empty() { String::new() } else { name.to_owned() }
}

fn title_ratio(floor: &[Figures], ours: &[Figures]) -> String {
    if floor.is_empty() || ours.is_empty() { String::new() } else { "ratio".to_owned() }
}

fn row(label: &str, cells: [String; 3]) -> String {
    let mut line = format!("{label:<26}");
    for (cell, width) in cells.iter().zip([12, 12, 8]) {
        line.push_str(&format!("{cell:>width$}"));
    }
    line.trim_end().to_owned()
}

/// `12345.678` as `12,346` or, with two digits, `12,345.68`.
pub(super) fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(floor: &[f64], ours: &[f64]) -> Report {
        let rounds = |rates: &[f64]| {
            let figures = |rate: &f64| Figures { tasks_per_second: Some(*rate), ..Figures::default() };
            rates.iter().map(figures).collect::<Vec<Figures>>()
        };
        let machine = Machine { cores: 2, processor: "P".into(), kernel: "6".into(), build: "release" };
        Report {
            mode: "distributed",
            tasks: 1000,
            round_trips: 10,
            concurrency: 128,
            machine,
            servers: vec![("broker", "RabbitMQ 3.10.8".into())],
            floor: rounds(floor),
            ours: rounds(ours),
        }
    }

    #[test]
    fn the_table_has_medians_and_the_ratio() {
        let lines = report(&[20_000.0, 10_000.0, 30_000.0], &[10_000.0, 6_000.0, 12_000.0]).table();
        assert_eq!(lines[2..4], ["broker: RabbitMQ 3.10.8", ""]);
        assert_eq!(lines[4], "                                 floor   gleitzeit   ratio");
        assert_eq!(lines[5], "tasks/s                         20,000      10,000    0.50");
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn a_side_that_was_not_measured_is_absent() {
        let report = report(&[20_000.0], &[]);
        assert_eq!(report.table()[4], "                                 floor");
        assert_eq!(report.to_json()["ours"], Value::Null);
        assert_eq!(report.to_json()["floor"]["median"]["tasks_per_second"], json!(20000.0));
        assert_eq!(report.to_json()["ratio"], json!({}));
    }

    #[test]
    fn thousands_are_grouped() {
        let check = |value: f64, digits: usize, text: &str| assert_eq!(grouped(value, digits), text);
        check(0.4, 0, "0");
        check(999.5, 1, "999.5");
        check(1_234_567.891, 2, "1,234,567.89");
    }
}
