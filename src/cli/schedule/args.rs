//! `gleitzeit schedule` as data.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `gleitzeit schedule`
#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Run a task or workflow again and again, at the times of a cron expression
    Add(Box<Add>),
    /// List schedules with their next slot and what became of the last one
    List(List),
    /// Show one schedule, its counts and its next slots
    Show(Show),
    /// Fire no more until it is resumed; what runs goes on
    Pause(Name),
    /// Fire again, from the next slot on
    #[command(visible_alias = "unpause")]
    Resume(Name),
    /// Forget a schedule; what runs goes on
    Remove(Name),
    /// Run what a schedule runs once, now, outside its slots, and print the id
    RunNow(Name),
}

/// `gleitzeit schedule add`
#[derive(Debug, Args)]
#[command(after_help = "\
CRON has five fields: minute, hour, day of the month, month, day of the week; six with seconds in front; or is \
@hourly, @daily, @weekly, @monthly or @yearly. Each slot is fired once, by whichever worker is there, however many \
there are. A slot that the zone skips or repeats when clocks change: docs/schedules.md.

Examples:
  gleitzeit schedule add report '0 6 * * MON-FRI' --tz Europe/Berlin --workflow report.yaml
  gleitzeit schedule add sweep '*/15 * * * *' python/v1 execute --params @sweep.json --overlap skip
  gleitzeit schedule add import '@hourly' --catch-up all --workflow import.yaml --param source=crm")]
pub(crate) struct Add {
    /// Its name
    pub(crate) name: String,
    /// When, e.g. '30 9 * * MON-FRI'
    pub(crate) cron: String,
    /// The protocol of the task, e.g. python/v1
    #[arg(required_unless_present = "workflow", conflicts_with = "workflow", requires = "method")]
    pub(crate) protocol: Option<String>,
    /// The method of the task, e.g. execute
    pub(crate) method: Option<String>,
    /// Parameters of the task as JSON, or @FILE to read them from a file (@- from stdin)
    #[arg(long, value_name = "JSON", default_value = "{}", conflicts_with = "workflow")]
    pub(crate) params: String,
    /// How long an attempt of the task may take, in seconds
    #[arg(long, value_name = "S", conflicts_with = "workflow")]
    pub(crate) timeout: Option<f64>,
    /// Of the task: low, normal, high, urgent, or 0 to 9 (higher goes first)
    #[arg(long, value_name = "P", conflicts_with = "workflow")]
    pub(crate) priority: Option<String>,
    /// Run this workflow file instead of a task; it is read now, once
    #[arg(long, value_name = "FILE")]
    pub(crate) workflow: Option<PathBuf>,
    /// Give a parameter that the workflow file declares its value; may be repeated
    #[arg(long = "param", value_name = "K=V", requires = "workflow")]
    pub(crate) given: Vec<String>,
    /// Refuse unknown keys of the workflow file instead of warning of them
    #[arg(long, requires = "workflow")]
    pub(crate) strict: bool,
    /// The time zone that CRON is meant in
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub(crate) tz: String,
    /// What fires of slots that no worker was there for: latest (the newest one), all (in order, at most
    /// 1000), none (but those that are late by less than the grace)
    #[arg(long, value_name = "POLICY", default_value = "latest")]
    pub(crate) catch_up: String,
    /// How late a slot may fire with --catch-up none, in seconds
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    pub(crate) grace: f64,
    /// While the run before has not ended: allow another, or skip the slot
    #[arg(long, value_name = "POLICY", default_value = "allow")]
    pub(crate) overlap: String,
    /// Replace a schedule of this name
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `gleitzeit schedule list`
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only names that follow NAME in the alphabet
    #[arg(long, value_name = "NAME")]
    pub(crate) after: Option<String>,
    /// At most so many, up to 10000
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) limit: usize,
}

/// `gleitzeit schedule show`
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Its name
    pub(crate) name: String,
    /// How many of the next slots to show, up to 1000
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) next: usize,
}

/// A command that only needs the name.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// Its name
    pub(crate) name: String,
}
