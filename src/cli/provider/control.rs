//! Orders to the providers of every worker, and what these answer.

use clap::Args;
use serde_json::{Value, json};

use super::super::print;
use super::super::run::seconds;
use super::super::stats::brief_time;
use crate::client::Collected;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::wire::control::{Action, Answer, Row};

/// What the time is over for, not the work.
const TIME_OVER: u8 = 6;
const HEADER: [&str; 8] = ["worker", "provider", "instances", "state", "calls", "failed", "p95", "error"];

/// `gleitzeit provider list` and `reload`
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 every worker has answered, 2 refused, 4 no worker is there, 6 --timeout over before all have \
answered. What may change while a worker runs is in docs/providers.md; what may not is named, and then nothing changes.")]
pub(crate) struct List {
    /// Wait for the answers of workers for S seconds at most
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub(crate) timeout: f64,
}

/// `gleitzeit provider start`, `stop` and `restart`
#[derive(Debug, Args)]
#[command(after_help = "\
It is asked of all workers that are there, and holds until they are started again: the configuration is the truth. \
While nobody else serves its protocol, tasks wait in their queue and no attempt is spent. Calls under way get \
worker.grace, then they are given back.

Exit codes: 0 done, 4 no worker has it or it cannot start, 6 --timeout over; what is under way goes on.")]
pub(crate) struct One {
    /// The provider, as `gleitzeit provider list` names it
    pub(crate) name: String,
    /// Wait until workers have done it for S seconds at most
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub(crate) timeout: f64,
}

/// `gleitzeit provider scale`
#[derive(Debug, Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    pub(crate) one: One,
    /// Instances in each worker, 1 to 1000: pool.min and pool.max until the worker is started again
    pub(crate) count: u32,
}

/// Has every worker do it, and shows what they answer.
pub(crate) async fn order(config: Config, action: Action, timeout: f64, json: bool) -> Result<u8, Error> {
    let is_about_one = action.name().is_some();
    let collected = ask(config, action, timeout).await?;
    if json {
        print::json(&document(&collected));
    } else {
        show(&collected, is_about_one);
    }
    Ok(exit_code(&collected))
}

/// Has every worker do it; what they answer.
pub(super) async fn ask(config: Config, action: Action, timeout: f64) -> Result<Collected, Error> {
    let timeout = seconds(Some(timeout))?.unwrap_or_default();
    let runtime = Runtime::open(config, Role::Operator, None).await?;
    let collected = runtime.client().ask_workers(action, timeout).await;
    runtime.close().await;
    let collected = collected?;
    if collected.answers.is_empty() && collected.silent.is_empty() {
        let text = "no worker is there to be asked; `gleitzeit worker` starts one";
        return Err(Error::new(Code::ProviderNotAvailable, text));
    }
    Ok(collected)
}

pub(super) fn document(collected: &Collected) -> Value {
    let answer = |answer: &Answer| {
        json!({
            "worker": answer.worker,
            "done": answer.is_done,
            "providers": answer.providers.iter().map(Row::to_json).collect::<Vec<_>>(),
            "resources": answer.resources,
            "changed": answer.changed,
            "error": answer.error,
        })
    };
    let workers: Vec<Value> = collected.answers.iter().map(answer).collect();
    json!({"workers": workers, "silent": collected.silent})
}

fn show(collected: &Collected, is_about_one: bool) {
    let mut rows = vec![HEADER.map(str::to_owned)];
    // Who does not have it is of interest where nobody has.
    let hides = is_about_one && collected.answers.iter().any(|answer| !lacks_it(answer));
    for answer in collected.answers.iter().filter(|answer| !(hides && lacks_it(answer))) {
        rows.extend(rows_of(answer));
    }
    let silent = "has not answered; it is busy, or of a version that does not know this";
    rows.extend(collected.silent.iter().map(|worker| nobody(worker.as_str(), silent)));
    let widths: Vec<usize> = (0..HEADER.len() - 1)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(&widths) {
            line += &format!("{text:<width$}  ");
        }
        print::line(format!("{line}{}", row[HEADER.len() - 1]).trim_end());
    }
    for answer in &collected.answers {
        if let Some(told) = resources_of(answer) {
            print::line(&print::printable(&told));
        }
    }
    for answer in collected.answers.iter().filter(|answer| !answer.changed.is_empty()) {
        print::note(&format!("worker {} has changed {}", answer.worker, answer.changed.join(", ")));
    }
}

fn rows_of(answer: &Answer) -> Vec<[String; 8]> {
    let worker = answer.worker.as_str();
    let error = answer.error.as_ref().map(|failure| failure.message.as_str());
    let mut rows: Vec<[String; 8]> = Vec::new();
    for provider in &answer.providers {
        let instances = match provider.pool {
            Some([instances, min, max]) => format!("{instances} ({min}-{max})"),
            None => "-".to_owned(),
        };
        let is_of_it = answer.providers.len() == 1;
        let why = error.filter(|_| is_of_it).or(provider.why.as_deref()).unwrap_or("-");
        let [calls, failed, slow] = figures(provider);
        let cells = [worker, &provider.name, &instances, &provider.state, &calls, &failed, &slow, why];
        rows.push(cells.map(print::printable));
    }
    if let Some(error) = error.filter(|_| answer.providers.len() != 1) {
        rows.push(nobody(worker, error));
    }
    rows
}

/// Calls, how many of them failed, and how long nearly all took at most.
fn figures(provider: &Row) -> [String; 3] {
    let Some(vitals) = &provider.vitals else { return ["-"; 3].map(str::to_owned) };
    let slow = vitals.latency.map_or_else(|| "-".to_owned(), |latency| brief_time(latency.p95));
    [vitals.calls.to_string(), vitals.failures.to_string(), slow]
}

/// What tasks hold of what the worker has: `w  memory_mb 300 of 1000, cpu_cores 0 of 4`.
fn resources_of(answer: &Answer) -> Option<String> {
    let of = |(name, told): (&String, &Value)| match told.get("total") {
        Some(total) => format!("{name} {} of {total}", told["held"]),
        None => format!("{name} {}", told["held"]),
    };
    let told: Vec<String> = answer.resources.iter().map(of).collect();
    (!told.is_empty()).then(|| format!("{}  held: {}", answer.worker, told.join(", ")))
}

fn nobody(worker: &str, error: &str) -> [String; 8] {
    [worker, "-", "-", "-", "-", "-", "-", error].map(print::printable)
}

fn lacks_it(answer: &Answer) -> bool {
    answer.error.as_ref().is_some_and(|failure| failure.code == Code::ProviderNotFound)
}

/// The worst of what was answered. That some workers do not have it is nothing, as long as one does.
pub(super) fn exit_code(collected: &Collected) -> u8 {
    let failed = collected.answers.iter().filter(|answer| !lacks_it(answer));
    let failures = failed.filter_map(|answer| answer.error.clone());
    let worst = failures.map(code_of).max();
    let lacking = collected.answers.iter().all(lacks_it).then(|| collected.answers.first()).flatten();
    match (worst, lacking) {
        (Some(code), _) => code,
        (None, _) if !collected.is_whole => TIME_OVER,
        (None, Some(answer)) => answer.error.clone().map_or(0, code_of),
        (None, None) => 0,
    }
}

fn code_of(failure: Failure) -> u8 {
    Error::from(failure).exit_code()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Id;

    fn answer(worker: &str, error: Option<Code>) -> Answer {
        Answer {
            id: Id::parse("o").expect("valid"),
            worker: Id::parse(worker).expect("valid"),
            is_done: true,
            providers: Vec::new(),
            resources: serde_json::Map::new(),
            changed: Vec::new(),
            error: error.map(|code| Failure::new(code, "no")),
        }
    }

    #[test]
    fn what_tasks_hold_is_told_of_what_there_is() {
        let nothing = answer("w", None);
        assert_eq!(resources_of(&nothing), None);
        let resources = json!({"cpu_cores": {"held": 0.5, "total": 4}, "disk_space_mb": {"held": 7}});
        let Value::Object(resources) = resources else { panic!("an object") };
        let told = resources_of(&Answer { resources, ..nothing });
        assert_eq!(told.as_deref(), Some("w  held: cpu_cores 0.5 of 4, disk_space_mb 7"));
    }

    #[test]
    fn the_exit_code_is_of_the_worst_answer_and_one_worker_that_has_it_is_enough() {
        let (not_found, cannot) = (Some(Code::ProviderNotFound), Some(Code::ProviderInitializationFailed));
        for (errors, is_whole, expected) in [
            (vec![None, None], true, 0),
            (vec![None, not_found], true, 0),
            (vec![not_found, not_found], true, 4),
            (vec![None, cannot], true, 4),
            (vec![None, Some(Code::ConfigurationError)], true, 2),
            (vec![None], false, 6),
            (vec![Some(Code::InvalidParams)], false, 2),
            (vec![], false, 6),
        ] {
            let answers = errors.iter().map(|error| answer("w", *error)).collect();
            let collected = Collected { answers, silent: Vec::new(), is_whole };
            assert_eq!(exit_code(&collected), expected, "{errors:?} {is_whole}");
        }
    }
}
