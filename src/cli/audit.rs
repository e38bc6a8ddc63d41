//! `audit`: what is lost or stuck, for people and for scripts; `--repair` sends it again.

use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::print;
use crate::audit::{self, Asked, Depths, Finding, NOT_COVERED, Parts, Report};
use crate::config::Config;
use crate::core::code::Code;
use crate::core::duration;
use crate::core::id::Id;
use crate::core::protocol::ProtocolId;
use crate::core::state::TaskState;
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::topology::Queue;

/// How many findings are printed for people.
const SHOWN: usize = 100;

/// `gleitzeit audit`
#[derive(Debug, Args)]
#[command(after_help = "\
Looks at everything that has not ended, and at the depths of the queues; what seems lost is looked at again some
seconds later. Exit code 1: something is lost or stuck (with --repair: and could not be sent again).

Examples:
  gleitzeit audit
  gleitzeit audit --repair
  gleitzeit audit --json --older-than 10m")]
pub(crate) struct Audit {
    /// Send again what is lost. Harmless where nothing is: it may be repeated, and workers may go on
    #[arg(long)]
    repair: bool,
    /// How long nothing of it must have changed, e.g. 90s, 10m
    #[arg(long, value_name = "S", default_value = "120s")]
    older_than: String,
    /// Only this workflow or task on its own
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
}

/// `gleitzeit audit`
pub(crate) async fn audit(config: Config, args: Audit, json: bool) -> Result<u8, Error> {
    let older_than = duration::parse(&args.older_than)
        .map_err(|error| Error::new(Code::InvalidRequest, format!("--older-than: {error}")))?;
    let root = args.workflow.as_deref().map(Id::parse).transpose()?;
    let queues = Runtime::topology(&config)?.queues();
    // Who only looks needs no queue that is not there; who sends does.
    let role = if args.repair { Role::Client } else { Role::Operator };
    let runtime = Runtime::open(config, role, None).await?;
    let parts = Parts {
        broker: Arc::clone(&runtime.broker),
        store: Arc::clone(&runtime.store),
        clock: Arc::clone(&runtime.clock),
        queues,
    };
    let mut report = audit::audit(&parts, &Asked { older_than, root }).await?;
    if args.repair {
        audit::repair(&parts, &mut report).await?;
    }
    runtime.close().await;
    if json {
        print::json(&document(&report));
    } else {
        show(&report);
    }
    Ok(u8::from(report.findings.iter().any(|finding| !finding.is_repaired)))
}

fn document(report: &Report) -> Value {
    let queues: Map<String, Value> = report
        .depths
        .iter()
        .map(|(queue, depth)| {
            let value = depth.map(|depth| json!({"ready": depth.ready, "consumers": depth.consumers}));
            (queue.name(), value.unwrap_or(Value::Null))
        })
        .collect();
    json!({
        "summary": report.balance.to_json(),
        "open": report.counts,
        "workflows_running": report.balance.workflows,
        "queues": queues,
        "findings": report.findings.iter().map(Finding::to_json).collect::<Vec<Value>>(),
        "more": report.has_more,
        "not_covered": NOT_COVERED,
    })
}

fn show(report: &Report) {
    let line = |protocol: &str, counts: &BTreeMap<&'static str, u64>| {
        let count = |state: TaskState| counts.get(state.name()).copied().unwrap_or_default();
        print::line(&print::printable(&format!(
            "{protocol:<20}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>9}  {:>8}",
            count(TaskState::Accepted),
            count(TaskState::Waiting),
            count(TaskState::Queued),
            count(TaskState::Delayed),
            count(TaskState::Running),
            shown(&report.depths, protocol, false),
            consumers(&report.depths, protocol),
            shown(&report.depths, protocol, true),
        )));
    };
    print::line(&format!(
        "{:<20}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>9}  {:>8}",
        "open", "accepted", "waiting", "queued", "delayed", "running", "ready", "consumers", "dead"
    ));
    report.counts.iter().for_each(|(protocol, counts)| line(protocol, counts));
    report.balance.lines().iter().for_each(|line| print::line(line));
    for finding in report.findings.iter().take(SHOWN) {
        print::line(&print::printable(&format!(
            "{}  {} {}  since {}: {}; {}",
            finding.subject,
            finding.subject.kind(),
            finding.state,
            finding.since,
            finding.why,
            finding.advice()
        )));
    }
    let (found, repaired) =
        (report.findings.len(), report.findings.iter().filter(|finding| finding.is_repaired).count());
    let more = if report.has_more { ", and there are more: audit again afterwards" } else { "" };
    match found {
        0 => print::note("nothing is lost or stuck"),
        _ => print::note(&format!("{found} lost or stuck, {repaired} sent again{more} (--json has all)")),
    }
    print::note(&format!("not covered: {}", NOT_COVERED.join("; ")));
}

/// The queue of a line, or its dead queue.
fn queue(protocol: &str, is_dead: bool) -> Option<Queue> {
    if protocol == "workflows" {
        return (!is_dead).then_some(Queue::Workflows);
    }
    let protocol: ProtocolId = protocol.parse().ok()?;
    let address = crate::topology::Address::parse(&protocol.routing()).ok()?;
    Some(if is_dead { Queue::Dead(address) } else { Queue::Tasks(address) })
}

fn shown(depths: &Depths, protocol: &str, is_dead: bool) -> String {
    let depth = queue(protocol, is_dead).and_then(|queue| depths.get(&queue).copied());
    match depth {
        Some(Some(depth)) => depth.ready.to_string(),
        Some(None) => "no queue".to_owned(),
        None => "-".to_owned(),
    }
}

fn consumers(depths: &Depths, protocol: &str) -> String {
    let depth = queue(protocol, false).and_then(|queue| depths.get(&queue).copied()).flatten();
    depth.map_or_else(|| "-".to_owned(), |depth| depth.consumers.to_string())
}
