//! The command line: arguments to work, work to output and exit codes.

mod args;
mod audit;
mod batch;
mod bench;
mod call;
mod dead;
mod describe;
mod follow;
mod graph;
mod live;
mod load;
mod look;
mod output;
mod pieces;
mod print;
mod provider;
mod retry;
mod run;
mod schedule;
mod screen;
mod signals;
mod stats;
mod topology;
mod watch;
mod when;
mod work;

use clap::{CommandFactory, Parser};
use std::process::ExitCode;

use crate::config::{self, Config, Sources};
use crate::core::code::Code;
use crate::error::Error;
use crate::telemetry;
use args::{Cli, Command, Global};

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    let json = cli.global.json;
    match start(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print::error(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

/// What cannot be read as arguments: told as clap tells it, and with `--json` as a document too. Help and the
/// version are asked for in the same way; they are no error.
fn refuse(refused: &clap::Error) -> ExitCode {
    if !refused.use_stderr() {
        print::bytes(refused.render().to_string().as_bytes());
        return ExitCode::SUCCESS;
    }
    // A stderr that went away changes nothing about the refusal.
    let _ = refused.print();
    if std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json") {
        let text = refused.render().to_string();
        let message = text.trim_start_matches("error: ").lines().next().unwrap_or_default().trim_end();
        let error = Error::new(Code::InvalidRequest, message);
        print::json(&serde_json::json!({"error": error.to_json()}));
    }
    ExitCode::from(2)
}

fn start(cli: Cli) -> Result<u8, Error> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "gleitzeit", &mut script);
        print::bytes(&script);
        return Ok(0);
    }
    let config = configure(&cli.global, &cli.command)?;
    let format = telemetry::Format::choose(config.text("log.format"));
    telemetry::start(config.text("log.level"), format)
        .map_err(|problem| Error::new(Code::ConfigurationError, problem))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Code::ResourceExhausted, format!("cannot start threads: {error}")))?;
    let code = runtime.block_on(dispatch(config, cli.command, &cli.global));
    // Nothing that matters is left: what had to be recorded is recorded.
    runtime.shutdown_background();
    code
}

async fn dispatch(config: Config, command: Command, global: &Global) -> Result<u8, Error> {
    let json = global.json;
    match command {
        Command::Run(args) => Box::pin(run::run(config, args, json)).await,
        Command::Call(args) => Box::pin(call::call(config, args, json)).await,
        Command::Exec(args) => Box::pin(call::exec(config, args, json)).await,
        Command::Batch(args) => Box::pin(batch::batch(config, args, json)).await,
        Command::Submit(args) => run::submit(config, args, json).await,
        Command::Worker(_) => work::worker(config, json).await,
        Command::Status(args) => look::status(config, args, json).await,
        Command::Watch(args) => watch::watch(config, args, json).await,
        Command::Result(args) => look::result(config, args, json).await,
        Command::List(args) => look::list(config, args, json).await,
        Command::Cancel(args) => look::cancel(config, args, json).await,
        Command::Retry(args) => Box::pin(retry::retry(config, args, json)).await,
        Command::Dead(command) => Box::pin(dead::dead(config, command, json)).await,
        Command::Audit(args) => audit::audit(config, args, json).await,
        Command::Resume(args) => work::resume(config, args, json).await,
        Command::Graph(args) => run::graph(&config, &args, json),
        Command::Schedule(command) => Box::pin(schedule::schedule(config, command, json)).await,
        Command::Protocol(command) => describe::protocol(&config, command, json),
        Command::Provider(command) => provider::provider(config, command, json).await,
        Command::Stats(args) => stats::stats(&config, args, json).await,
        Command::Schema(args) => describe::schema(&args),
        Command::Topology(command) => topology::topology(config, command, json).await,
        Command::Bench(args) => bench::bench(config, global.config.as_deref(), args, json).await,
        Command::Config(args::Config::Show) => Ok(describe::config(&config, json)),
        Command::Completions { .. } => Ok(0),
    }
}

/// Flags become configuration values, so that `config show` tells their origin too.
fn configure(global: &Global, command: &Command) -> Result<Config, Error> {
    let mut sources = Sources::of_process(global.config.clone());
    let mut flag = |key: &'static str, value: Option<String>, name: &'static str| {
        if let Some(value) = value {
            sources.flags.push((key, value, name));
        }
    };
    flag("amqp.url", global.amqp.clone(), "amqp");
    flag("redis.url", global.redis.clone(), "redis");
    flag("redis.prefix", global.redis_prefix.clone(), "redis-prefix");
    flag("state.path", global.state.clone(), "state");
    flag("log.level", global.log_level.clone(), "log-level");
    flag("log.format", global.log_format.clone(), "log-format");
    if let Command::Worker(worker) = command {
        let protocols = (!worker.protocols.is_empty()).then(|| worker.protocols.join(","));
        flag("worker.protocols", protocols, "protocol");
        flag("worker.concurrency", worker.concurrency.map(|n| n.to_string()), "concurrency");
        flag("worker.max_running", worker.max_running.map(|n| n.to_string()), "max-running");
        flag("worker.coordination", worker.no_coordination.then(|| "false".to_owned()), "no-coordination");
    }
    Ok(config::load(&sources)?)
}
