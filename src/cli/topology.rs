//! `topology`: what is declared, what the broker has of it, and moving queues that differ.

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use super::args;
use super::print;
use super::run::seconds;
use crate::broker::{Finding, Migration, Moved};
use crate::config::Config;
use crate::core::code::Code;
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::topology::Topology;
use crate::topology::plan::{Plan, Release};

/// `gleitzeit topology ...`
pub(crate) async fn topology(config: Config, command: args::Topology, json: bool) -> Result<u8, Error> {
    let wanted = Runtime::topology(&config)?;
    match command {
        args::Topology::Export { rabbitmq } => export(&config, &wanted, &rabbitmq),
        args::Topology::Show => {
            let names: Vec<String> = wanted.queues().iter().flat_map(|queue| wanted.names(queue)).collect();
            if json {
                print::json(&json!({"queues": names}))
            } else {
                names.iter().for_each(|name| print::line(name))
            }
            Ok(0)
        }
        args::Topology::Check => {
            let runtime = Runtime::open(config, Role::Operator, None).await?;
            let ended = report(&runtime, &wanted, None, json).await;
            runtime.close().await;
            ended
        }
        args::Topology::Apply(wish) => {
            let settle = match wish.settle {
                Some(settle) => seconds(Some(settle))?.unwrap_or_default(),
                // A guard stands for what runs longer than a quarter.
                None => config.seconds("amqp.consumer_timeout") / 3,
            };
            let runtime = Runtime::open(config, Role::Operator, None).await?;
            let ended = apply(&runtime, &wanted, &wish, settle, json).await;
            runtime.close().await;
            ended
        }
    }
}

fn export(config: &Config, wanted: &Topology, rabbitmq: &str) -> Result<u8, Error> {
    let release = Release::parse(rabbitmq).ok_or_else(|| {
        let text = format!("--rabbitmq {rabbitmq:?} is no version such as 3.10 or 4.3");
        Error::new(Code::InvalidRequest, text)
    })?;
    let plan = Plan::new(wanted, release, &Runtime::queue_types(config)?);
    print::line(&serde_json::to_string_pretty(&plan.definitions()).unwrap_or_default());
    Ok(0)
}

async fn apply(
    runtime: &Runtime,
    wanted: &Topology,
    wish: &args::TopologyApply,
    settle: Duration,
    json: bool,
) -> Result<u8, Error> {
    if !wish.dry_run {
        runtime.broker.declare(wanted).await?;
    }
    if !wish.migrate {
        return report(runtime, wanted, None, json).await;
    }
    let clock = Arc::clone(&runtime.clock);
    let migration = Migration { settle, dry_run: wish.dry_run, clock, tell: print::note };
    let moved = match runtime.broker.migrate(wanted, &migration).await {
        Ok(moved) => moved,
        Err(error) => {
            print::note(
                "not ended; `gleitzeit topology check` tells what is left, and migrating again ends it",
            );
            return Err(error.into());
        }
    };
    report(runtime, wanted, Some(&moved), json).await
}

/// Compares, and prints what differs after what was `moved`.
async fn report(
    runtime: &Runtime,
    wanted: &Topology,
    moved: Option<&[Moved]>,
    json: bool,
) -> Result<u8, Error> {
    let findings = runtime.broker.check(wanted).await?;
    let version = runtime.broker.version().await?;
    if json {
        print::json(&document(&version, &findings, moved));
        return Ok(if findings.is_empty() { 0 } else { 4 });
    }
    for Moved { queue, why, messages } in moved.unwrap_or_default() {
        print::line(&format!("queue {queue}: {why}: {messages} messages moved"));
    }
    for finding in &findings {
        print::line(&format!("{}: {}", finding.what, finding.problem));
    }
    let verdict = match findings.len() {
        0 => "as declared".to_owned(),
        count => format!("{count} differences"),
    };
    print::note(&format!("{version}: {verdict}"));
    Ok(if findings.is_empty() { 0 } else { 4 })
}

fn document(version: &str, findings: &[Finding], moved: Option<&[Moved]>) -> Value {
    let rows: Vec<Value> =
        findings.iter().map(|finding| json!({"what": finding.what, "problem": finding.problem})).collect();
    let mut document = json!({"broker": version, "findings": rows});
    if let Some(moved) = moved {
        let row = |one: &Moved| json!({"queue": one.queue, "why": one.why, "messages": one.messages});
        document["moved"] = moved.iter().map(row).collect();
    }
    document
}
