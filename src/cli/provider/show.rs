//! `provider show`: how one provider has done, in every worker that has it.

use clap::Args;
use std::collections::BTreeSet;

use super::super::print;
use super::super::stats::brief_time;
use super::control;
use crate::client::Collected;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::near::did_you_mean;
use crate::error::Error;
use crate::wire::control::{Action, Row};
use crate::wire::vitals::{Latency, Vitals};

/// `gleitzeit provider show`
#[derive(Debug, Args)]
#[command(after_help = "\
Counted are calls since the worker has the provider. Failed are those that failed by the provider's own doing: neither a \
caller's mistakes nor cancelled calls. `expected` is what its next call is taken to need; it falls while there are none.

Exit codes: 0 every worker has answered, 4 no worker is there or none has it, 6 --timeout over before all have answered.")]
pub(crate) struct Show {
    /// The provider, as `gleitzeit provider list` names it
    pub(crate) name: String,
    /// Wait for the answers of workers for S seconds at most
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub(crate) timeout: f64,
}

/// `gleitzeit provider show NAME`
pub(crate) async fn show(config: Config, args: Show, json: bool) -> Result<u8, Error> {
    let mut collected = control::ask(config, Action::List, args.timeout).await?;
    let named = |row: &Row| row.name.clone();
    let known: BTreeSet<String> =
        collected.answers.iter().flat_map(|answer| answer.providers.iter().map(named)).collect();
    if !known.contains(&args.name) && collected.is_whole {
        let hint = did_you_mean(&args.name, known.iter().map(String::as_str));
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        let text = format!("no worker has a provider {:?}{hint}; there are {}", args.name, names.join(", "));
        return Err(Error::new(Code::ProviderNotFound, text));
    }
    collected.answers.iter_mut().for_each(|answer| answer.providers.retain(|row| row.name == args.name));
    collected.answers.retain(|answer| !answer.providers.is_empty());
    if json {
        print::json(&control::document(&collected));
    } else {
        tell(&collected);
    }
    Ok(control::exit_code(&collected))
}

fn tell(collected: &Collected) {
    for answer in &collected.answers {
        for row in &answer.providers {
            print::line(&print::printable(&format!(
                "{} ({}) {} in worker {}",
                row.name, row.protocol, row.state, answer.worker
            )));
            let lines = row.vitals.as_ref().map(lines).unwrap_or_default();
            lines.iter().for_each(|line| print::line(&print::printable(line)));
            row.why.iter().for_each(|why| print::line(&print::printable(&format!("  why         {why}"))));
        }
    }
    for worker in &collected.silent {
        print::note(&format!("worker {worker} has not answered"));
    }
}

fn lines(vitals: &Vitals) -> Vec<String> {
    let Vitals { calls, failures, consecutive_failures, .. } = vitals;
    let share = vitals.error_rate() * 100.0;
    let mut lines = vec![format!(
        "  calls       {calls}, {failures} failed ({share:.1} %), {consecutive_failures} in a row"
    )];
    if let Some(Latency { p50, p95, p99, max, expected }) = vitals.latency {
        let [p50, p95, p99, max, expected] = [p50, p95, p99, max, expected].map(brief_time);
        lines.push(format!("  latency     p50 {p50}, p95 {p95}, p99 {p99}, max {max}; expected {expected}"));
    }
    if let Some(error) = &vitals.last_error {
        let name = Code::from_number(error.code)
            .map_or_else(|| error.code.to_string(), |code| code.name().to_owned());
        lines.push(format!("  last error  {} {name}: {}", error.at, error.message));
    }
    if let Some((at, took)) = vitals.last_check {
        let next = vitals.next_check.map(|at| format!("; next by {at}")).unwrap_or_default();
        lines.push(format!("  last check  {at}, took {}{next}", brief_time(took)));
    }
    lines
}
