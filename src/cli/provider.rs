//! `provider`: what can be done with providers.

mod control;
mod show;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::print;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::pool::Policy;
use crate::core::protocol::{ProtocolId, ProtocolSpec, Protocols, Source};
use crate::error::Error;
use crate::provider::process::Limits;
use crate::provider::rpc::conformance::{self, Check, Verdict};
use crate::provider::rpc::{Command, Road, Settings};
use crate::runtime::Runtime;
use crate::runtime::clock::SystemClock;
use crate::wire::control::Action;

/// How long a provider may take to be ready, where the configuration does not say.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// `gleitzeit provider ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Provider {
    /// List the providers of every worker
    List(control::List),
    /// Show how a provider has done in every worker: calls, failures, latency, health checks
    Show(show::Show),
    /// Start a provider that was stopped, in every worker that has it
    Start(control::One),
    /// Stop a provider: it takes no more calls and ends those that it has
    Stop(control::One),
    /// Replace what a provider runs in, the new first where its pool has room
    Restart(control::One),
    /// Keep exactly so many instances of a provider that has a pool
    Scale(control::Scale),
    /// Have every worker read its configuration again
    Reload(control::List),
    /// Run a provider that speaks JSON-RPC through a suite of checks
    Conformance(Conformance),
}

/// `gleitzeit provider conformance`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").args(["name", "url", "command"]).required(true))]
#[command(after_help = "\
The checks use the methods that the provider names and the examples of its protocol: what these change is changed. \
docs/provider-in-any-language.md tells what each check wants. Exit code 1 if one failed.

Examples:
  gleitzeit provider conformance --protocol text-v1.yaml -- python3 provider.py
  gleitzeit provider conformance --name text
  gleitzeit provider conformance --url http://127.0.0.1:8080/rpc --json")]
pub(crate) struct Conformance {
    /// A provider of the configuration, of kind rpc
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// A provider behind this address
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Hold it against this protocol: its name, or its file [default: that of the configuration, or none]
    #[arg(long, value_name = "P")]
    pub(crate) protocol: Option<String>,
    /// The program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// `gleitzeit provider ...`
pub(crate) async fn provider(config: Config, command: Provider, json: bool) -> Result<u8, Error> {
    match command {
        Provider::List(args) => control::order(config, Action::List, args.timeout, json).await,
        Provider::Show(args) => show::show(config, args, json).await,
        Provider::Start(args) => control::order(config, Action::Start(args.name), args.timeout, json).await,
        Provider::Stop(args) => control::order(config, Action::Stop(args.name), args.timeout, json).await,
        Provider::Restart(args) => {
            control::order(config, Action::Restart(args.name), args.timeout, json).await
        }
        Provider::Scale(args) => {
            let action = Action::Scale(args.one.name, args.count);
            control::order(config, action, args.one.timeout, json).await
        }
        Provider::Reload(args) => control::order(config, Action::Reload, args.timeout, json).await,
        Provider::Conformance(args) => conform(&config, args, json).await,
    }
}

async fn conform(config: &Config, args: Conformance, json: bool) -> Result<u8, Error> {
    let result_bytes_max = usize::try_from(config.number("task.result_bytes_max")).unwrap_or(usize::MAX);
    let (name, road, configured) = chosen(config, &args)?;
    let protocols = Runtime::protocols(config)?;
    let protocol = match (&args.protocol, configured) {
        (Some(asked), _) => Some(named(&protocols, asked)?),
        (None, Some(configured)) => Some(known(&protocols, &configured)?),
        (None, None) => None,
    };
    let settings = Settings { name, road, result_bytes_max };
    let mut checks: Vec<Check> = Vec::new();
    let mut tell = |check: &Check| {
        if !json {
            print::line(&format!("{:<8} {:<17} {}", word(check.verdict), check.name, check.text));
        }
        checks.push(check.clone());
    };
    conformance::run(settings, protocol.as_ref(), Arc::new(SystemClock), &mut tell).await;
    if json {
        let rows = checks.iter().map(|check| {
            json!({"check": check.name, "verdict": word(check.verdict).to_lowercase(), "text": check.text})
        });
        print::json(&rows.collect());
    }
    Ok(u8::from(checks.iter().any(|check| check.verdict == Verdict::Failed)))
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "ok",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skipped",
    }
}

/// Which provider, and the protocol that the configuration gives it.
fn chosen(config: &Config, args: &Conformance) -> Result<(String, Road, Option<ProtocolId>), Error> {
    if let Some(name) = &args.name {
        let found = config.rpc_providers().into_iter().find(|provider| provider.name == *name);
        let found = found.ok_or_else(|| {
            let text = format!("the configuration has no provider {name:?} of kind rpc ([providers.{name}])");
            Error::new(Code::InvalidRequest, text)
        })?;
        return Ok((found.name, found.road, Some(found.protocol)));
    }
    let road = match &args.url {
        Some(url) => Road::Http { url: url.as_str().into(), start_timeout: START_TIMEOUT },
        None => Road::Processes(Box::new(Command {
            line: args.command.clone(),
            directory: None,
            environment: Default::default(),
            secrets: Vec::new(),
            limits: Limits::default(),
            pool: Policy { min: 1, max: 2, ..Policy::default() },
            start_timeout: START_TIMEOUT,
        })),
    };
    Ok(("provider".to_owned(), road, None))
}

/// A protocol by its name, or in a file.
fn named(protocols: &Protocols, asked: &str) -> Result<ProtocolSpec, Error> {
    let is_file =
        ["yaml", "yml", "json"].iter().any(|end| Path::new(asked).extension().is_some_and(|own| own == *end));
    if !is_file {
        let id = asked.parse().map_err(|error| Error::new(Code::ProtocolNotFound, format!("{error}")))?;
        return known(protocols, &id);
    }
    let text = std::fs::read_to_string(asked)
        .map_err(|error| Error::new(Code::FileUnreadable, format!("cannot read {asked}: {error}")))?;
    let loaded = Protocols::with_files(&[Source { name: asked.to_owned(), text }])
        .map_err(|error| Error::new(Code::ConfigurationError, error.to_string()))?;
    let found = loaded.iter().find(|spec| spec.source == asked).cloned();
    found.ok_or_else(|| Error::new(Code::ProtocolNotFound, format!("{asked} declares no protocol")))
}

fn known(protocols: &Protocols, id: &ProtocolId) -> Result<ProtocolSpec, Error> {
    protocols.get(id).cloned().ok_or_else(|| {
        let text = format!("there is no protocol {id}; `gleitzeit protocol list` has all");
        Error::new(Code::ProtocolNotFound, text)
    })
}
