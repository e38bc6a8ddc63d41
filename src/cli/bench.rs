//! `bench`: how fast it is here.

use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

use super::print;
use super::signals::Signals;
use crate::bench::{self, BenchError, Machine, Program, Report, Servers, Settings, Sizes, WorkflowReport};
use crate::config::Config;
use crate::core::code::Code;
use crate::error::Error;
use crate::runtime::{Role, Runtime};

/// What the figures mean; printed by `--help`.
const FIGURES: &str = "\
Every figure is the median of the rounds. With RabbitMQ and Redis, the floor and Gleitzeit take turns on the \
same servers, and `ratio` is the median of gleitzeit / floor of each round: trust it more than the absolute \
figures, which vary with whatever else the machine does. The floor is the least work that keeps the same \
promise: a bare client with prefetch 128, one Redis SET and one ack per message, messages persistent and \
confirmed.

Figures:
  tasks/s                  no-op tasks (echo/v1 ping, about 200 bytes, published before), drained by one worker
                           process: results per second between the first and the last result
  submitted/s              tasks published and confirmed per second, pipelined, by this process
  submitted and done/s     embedded only: tasks per second of submission and drain together
  round trip p50, p99      one task at a time, from submission until its result is here: half, and 99 of 100,
                           are at least as fast
  worker CPU per task      processor time (user and system) of the worker process during the drain, per task
  worker peak memory       the most memory that the worker process ever held (embedded: and the client)
  start to first result    from starting the worker process to its first result

It works on the configured virtual host and Redis, takes the queue of echo/v1 for itself (and refuses to start if \
that has tasks or workers), and removes everything that it made. Embedded, it uses a new state file in the \
system's temporary folder.";

/// `gleitzeit bench`
#[derive(Debug, Args)]
#[command(after_long_help = FIGURES)]
pub(crate) struct Bench {
    /// What to measure
    #[arg(value_enum, default_value_t = What::Tasks)]
    pub(crate) what: What,
    /// Tasks per round
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    pub(crate) tasks: u32,
    /// Round trips per round
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub(crate) round_trips: u32,
    /// Rounds of each side
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Tasks at once in the worker
    #[arg(long, value_name = "N", default_value_t = bench::consumer::PREFETCH, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) concurrency: u16,
    /// Workflows: steps of the chain
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub(crate) chain: u32,
    /// Workflows: tasks of the narrow fan-out
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub(crate) narrow: u32,
    /// Workflows: tasks of the wide fan-out
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=50_000))]
    pub(crate) wide: u32,
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Gleitzeit, and beside it the floor where there are servers
    Tasks,
    /// The floor alone
    Floor,
    /// A chain beside a bare one, a narrow and a wide fan-out (needs servers)
    Workflows,
    /// The floor's consumer: started by the bench
    #[value(hide = true)]
    FloorConsumer,
    /// One embedded round: started by the bench
    #[value(hide = true)]
    EmbeddedRound,
}

/// `gleitzeit bench`
pub(crate) async fn bench(
    config: Config,
    config_file: Option<&Path>,
    args: Bench,
    json: bool,
) -> Result<u8, Error> {
    let servers = config.amqp_url().map(str::to_owned).zip(config.redis_url().map(str::to_owned));
    let settings = settings(&args);
    match (args.what, servers) {
        (What::FloorConsumer, Some((amqp, redis))) => {
            bench::consumer::run(&amqp, &redis, config.text("redis.prefix")).await?;
            Ok(0)
        }
        (What::EmbeddedRound, None) => embedded_round(config, &settings).await,
        (What::Tasks | What::Floor, Some((amqp, redis))) => {
            let program = program(&config, config_file)?;
            distributed(config, (amqp, redis), &settings, &program, json).await
        }
        (What::Workflows, Some((amqp, redis))) => {
            let program = program(&config, config_file)?;
            workflows(config, (amqp, redis), &args, &program, json).await
        }
        (What::Workflows, None) => {
            let text = "workflows are measured on RabbitMQ and Redis: give --amqp and --redis";
            Err(Error::new(Code::InvalidRequest, text))
        }
        (What::Tasks, None) => embedded(&settings, &program(&config, config_file)?, json).await,
        (What::Floor | What::FloorConsumer, None) => {
            let text = "the floor is measured on RabbitMQ and Redis: give --amqp and --redis";
            Err(Error::new(Code::InvalidRequest, text))
        }
        (What::EmbeddedRound, Some(_)) => Err(Error::new(
            Code::InvalidRequest,
            "an embedded round has no servers: leave --amqp and --redis out",
        )),
    }
}

async fn distributed(
    config: Config,
    (amqp, redis): (String, String),
    settings: &Settings,
    program: &Program,
    json: bool,
) -> Result<u8, Error> {
    let (runtime, servers) = connect(config, (amqp, redis)).await?;
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let measuring = Box::pin(bench::distributed(&servers, settings, program, &print::note, &stop));
    let code = until_signal(&signals, measuring, &stop, |report| show(&report, json)).await;
    runtime.close().await;
    code
}

async fn workflows(
    config: Config,
    urls: (String, String),
    args: &Bench,
    program: &Program,
    json: bool,
) -> Result<u8, Error> {
    let (runtime, servers) = connect(config, urls).await?;
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let sizes = Sizes { chain: size(args.chain), narrow: size(args.narrow), wide: size(args.wide) };
    let settings = settings(args);
    let measuring = Box::pin(bench::workflows(&servers, &settings, sizes, program, &print::note, &stop));
    let show = |report: WorkflowReport| {
        if json {
            return print::json(&report.to_json());
        }
        report.table().iter().for_each(|line| print::line(line));
    };
    let code = until_signal(&signals, measuring, &stop, show).await;
    runtime.close().await;
    code
}

async fn connect(config: Config, (amqp, redis): (String, String)) -> Result<(Runtime, Servers), Error> {
    let prefix = config.text("redis.prefix").to_owned();
    let runtime = Runtime::open(config, Role::Client, None).await?;
    let servers = Servers {
        amqp,
        redis,
        prefix,
        client: runtime.client(),
        broker: runtime.broker.clone(),
        store: runtime.store.clone(),
    };
    Ok((runtime, servers))
}

async fn embedded(settings: &Settings, program: &Program, json: bool) -> Result<u8, Error> {
    let folder = std::env::temp_dir().join(format!("gleitzeit-bench-{}", settings.run));
    std::fs::create_dir(&folder).map_err(|error| {
        Error::new(Code::FileUnreadable, format!("cannot create {}: {error}", folder.display()))
    })?;
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let measuring = bench::embedded(settings, program, &folder, &print::note, &stop);
    let code = until_signal(&signals, measuring, &stop, |report| show(&report, json)).await;
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        print::note(&format!("{} is left: {error}", folder.display()));
    }
    code
}

/// The first signal stops the measurement, which then removes what it made; a second one ends at once.
async fn until_signal<R>(
    signals: &Signals,
    measuring: impl Future<Output = Result<R, BenchError>>,
    stop: &CancellationToken,
    show: impl FnOnce(R),
) -> Result<u8, Error> {
    tokio::pin!(measuring);
    let signal = tokio::select! {
        report = &mut measuring => {
            show(report?);
            if Machine::here().build == "debug" {
                print::note("this is a debug build: its figures say little");
            }
            return Ok(0);
        }
        signal = signals.first() => signal,
    };
    stop.cancel();
    // It says by itself what could not be removed; that it was stopped is no news.
    let _ = measuring.await;
    Ok(128 + signal)
}

async fn embedded_round(config: Config, settings: &Settings) -> Result<u8, Error> {
    let runtime = Runtime::open(config, Role::Client, None).await?;
    let worker = runtime.worker().await?;
    let figures = bench::embedded_round(&runtime.client(), runtime.store.clone(), &worker, settings).await?;
    runtime.close().await;
    print::json(&figures.to_json());
    Ok(0)
}

fn show(report: &Report, json: bool) {
    if json {
        return print::json(&report.to_json());
    }
    report.table().iter().for_each(|line| print::line(line));
}

fn settings(args: &Bench) -> Settings {
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let id = Runtime::new_id().to_string();
    Settings {
        run: id.rsplit('-').next().unwrap_or(&id).to_owned(),
        tasks: count(args.tasks),
        round_trips: count(args.round_trips),
        rounds: count(args.rounds),
        concurrency: args.concurrency,
        only_floor: args.what == What::Floor,
    }
}

/// This program once more, with the configuration of this process.
fn program(config: &Config, config_file: Option<&Path>) -> Result<Program, Error> {
    let path = std::env::current_exe()
        .map_err(|error| Error::new(Code::FileUnreadable, format!("cannot find this program: {error}")))?;
    let mut options = Vec::new();
    if let Some(file) = config_file {
        let file = std::path::absolute(file).unwrap_or_else(|_| PathBuf::from(file));
        options.extend(["--config".to_owned(), file.to_string_lossy().into_owned()]);
    }
    let mut environment = Vec::new();
    if let (Some(amqp), Some(redis)) = (config.amqp_url(), config.redis_url()) {
        environment.push(("GLEITZEIT_AMQP_URL".to_owned(), amqp.to_owned()));
        environment.push(("GLEITZEIT_REDIS_URL".to_owned(), redis.to_owned()));
        environment.push(("GLEITZEIT_REDIS_PREFIX".to_owned(), config.text("redis.prefix").to_owned()));
    }
    Ok(Program { path, options, environment })
}
