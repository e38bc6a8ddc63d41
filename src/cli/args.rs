//! The command line as data. The help texts here are what `--help` prints.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

use super::when::When;

/// Runs tasks and workflows: on a laptop with nothing else installed, or over RabbitMQ and Redis.
///
/// Without --amqp and --redis everything happens in this process and in one state file (embedded mode).
/// With them, workers on any number of machines do the work (distributed mode). The same files run in both.
#[derive(Debug, Parser)]
#[command(name = "gleitzeit", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 general, 2 refused input, 3 file, 4 backend or provider not \
available, 5 task or workflow failed, 6 --timeout over, 7 id unknown, 130/143 signals.\n\
Try: gleitzeit exec 'sum(range(10))'")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Read the configuration from FILE (default: ~/.config/gleitzeit/config.toml if it exists)
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// RabbitMQ, e.g. amqp://user@host:5672/vhost; better in GLEITZEIT_AMQP_URL: it holds a password
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) amqp: Option<String>,
    /// Redis, e.g. redis://host:6379/0; better in GLEITZEIT_REDIS_URL
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) redis: Option<String>,
    /// What every Redis key starts with [default: gleitzeit]
    #[arg(long, value_name = "TEXT", global = true)]
    pub(crate) redis_prefix: Option<String>,
    /// The embedded state file, or :memory:
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) state: Option<String>,
    /// error, warn, info, debug, trace, or a filter like info,gleitzeit::broker=debug
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log_level: Option<String>,
    /// text or json [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub(crate) log_format: Option<String>,
    /// Print one JSON document on stdout and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a workflow file to its end, with live progress
    Run(Run),
    /// Run one task and print its result
    Call(Call),
    /// Run Python code: short for `call python/v1 execute`
    Exec(Exec),
    /// Run one task for each file of a directory
    Batch(Batch),
    /// Submit a workflow file and print its id at once
    Submit(Submit),
    /// Consume tasks until told to stop (SIGTERM drains, a second signal stops at once)
    Worker(Worker),
    /// Show where a task is, or the graph of a workflow
    Status(Status),
    /// Follow a task or workflow live until it ends
    Watch(Watch),
    /// Print results, of one id, of many, or of ids read from stdin with `-`
    Result(ResultArgs),
    /// List tasks and workflows, newest first
    List(List),
    /// Cancel a task or workflow, also one that runs or that nobody has seen yet
    Cancel(Cancel),
    /// Run again what failed of a task or workflow, and what depends on that
    Retry(Retry),
    /// Dead letters: what came to nothing, looked at, sent again or thrown away
    #[command(subcommand)]
    Dead(super::dead::Dead),
    /// Compare what was accepted with what is queued: name what is lost or stuck, and send it again
    Audit(super::audit::Audit),
    /// Continue interrupted embedded runs
    Resume(Resume),
    /// Print the graph of a workflow file as Mermaid or DOT
    Graph(Graph),
    /// Schedules: tasks and workflows that run at the times of a cron expression
    #[command(subcommand)]
    Schedule(super::schedule::args::Schedule),
    /// Protocols: what methods take and give
    #[command(subcommand)]
    Protocol(Protocol),
    /// Providers: how they do, start and stop them in every worker, check one of your own
    #[command(subcommand)]
    Provider(super::provider::Provider),
    /// How tasks of each method do: throughput, failures, waits, durations, memory
    Stats(super::stats::Stats),
    /// Print the JSON Schema of workflow files, for editors
    Schema(Schema),
    /// Exchanges and queues: what is declared against what was found
    #[command(subcommand)]
    Topology(Topology),
    /// The configuration in force
    #[command(subcommand)]
    Config(Config),
    /// Measure how fast it is here, beside the least work possible on the same servers
    Bench(super::bench::Bench),
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// A workflow file and what is put into it.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The workflow file (YAML or JSON)
    pub(crate) file: PathBuf,
    /// Give a parameter that the file declares its value; may be repeated. K=@FILE takes the text of a file
    #[arg(long = "param", value_name = "K=V")]
    pub(crate) params: Vec<String>,
    /// Refuse unknown keys instead of warning of them
    #[arg(long)]
    pub(crate) strict: bool,
}

/// `gleitzeit run`
#[derive(Debug, Args)]
#[command(after_help = "\
On a terminal the graph is drawn live, elsewhere each end is a line on stderr; results go to stdout.

Examples:
  gleitzeit run report.yaml
  gleitzeit run report.yaml --param topic=rain --param text=@notes.txt --output report.md
  gleitzeit run report.yaml --json --timeout 60 > result.json")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Stop following after S seconds (exit 6); the work goes on where workers are
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<f64>,
    /// Also write the results to OUT: .json (the document), .md or .csv
    #[arg(long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Run under this id instead of a new one; a repeat finds what the first run did
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) when: When,
    /// Print what its tasks give while they run; with --json an object a line, the document last
    #[arg(long)]
    pub(crate) follow: bool,
    /// Cancel the workflow when interrupted; without it only the following stops
    #[arg(long)]
    pub(crate) cancel_on_exit: bool,
}

/// `gleitzeit call`
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The protocol, e.g. python/v1
    pub(crate) protocol: String,
    /// The method, e.g. execute
    pub(crate) method: String,
    /// Parameters as JSON, or @FILE to read them from a file (@- from stdin)
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) params: String,
    #[command(flatten)]
    pub(crate) how: How,
}

/// `gleitzeit exec`
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Python code; the value of the last expression is the result
    pub(crate) code: String,
    #[command(flatten)]
    pub(crate) how: How,
}

/// How a single task is run.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Stop waiting after S seconds (exit 6); the work goes on where workers are
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<f64>,
    /// low, normal, high, urgent, or 0 to 9 (higher goes first)
    #[arg(long, value_name = "P")]
    pub(crate) priority: Option<String>,
    #[command(flatten)]
    pub(crate) when: When,
    /// Run under this id instead of a new one
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Print the id at once instead of waiting for the result
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print what it gives while it runs; with --json an object a line, the document last
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) follow: bool,
    /// Cancel the task when interrupted; without it only the waiting stops
    #[arg(long)]
    pub(crate) cancel_on_exit: bool,
}

/// `gleitzeit batch`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["prompt", "script", "template", "resume"]).required(true))]
#[command(after_help = "\
The pattern is matched below DIR: * and ? within a name, ** over folders, [a-z], {png,jpg}. Files are taken in the \
order of their names, hidden ones and links that lead outside left out. A script finds its file as `file_path`. One \
file that fails stops no other (exit 5 at the end). Workers elsewhere must find the files under the same paths.

A batch is a workflow: `status`, `watch` and `result` know its id. --resume goes on with one that was interrupted, \
and runs again what failed of one that has ended.

Examples:
  gleitzeit batch docs --pattern '**/*.txt' --prompt 'Summarise this file' --model llama3.2 --output out.md
  gleitzeit batch photos --pattern '*.{png,jpg}' --prompt 'What is this?' --vision --max-parallel 4
  gleitzeit batch data --pattern '*.csv' --script count.py --output counts.csv
  gleitzeit batch --resume batch-0198c0de-... --output out.md")]
pub(crate) struct Batch {
    /// The directory
    #[arg(value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    pub(crate) directory: Option<String>,
    /// Which files below the directory
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub(crate) pattern: String,
    /// Ask a model this about each file
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Run this Python file for each file
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<String>,
    /// Take method and parameters from this YAML or JSON file, as `template` of a batch document
    #[arg(long, value_name = "FILE")]
    pub(crate) template: Option<PathBuf>,
    /// The files are pictures
    #[arg(long, requires = "prompt")]
    pub(crate) vision: bool,
    /// The model to ask [default: the provider's]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["script", "resume"])]
    pub(crate) model: Option<String>,
    /// So many files at once [default: as many as workers take]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), conflicts_with = "resume")]
    pub(crate) max_parallel: Option<u32>,
    /// Write the results to OUT: .json, .csv or .md
    #[arg(long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Stop following after S seconds (exit 6)
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<f64>,
    /// Take up the batch with this id again
    #[arg(long, value_name = "ID")]
    pub(crate) resume: Option<String>,
}

/// `gleitzeit submit`
#[derive(Debug, Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Submit under this id instead of a new one
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) when: When,
}

/// `gleitzeit worker`
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Consume only this protocol; may be repeated [default: all that this worker can serve]
    #[arg(long = "protocol", value_name = "P")]
    pub(crate) protocols: Vec<String>,
    /// Tasks at once, for each protocol
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<u16>,
    /// Tasks at once in all, divided among the protocols
    #[arg(long, value_name = "M")]
    pub(crate) max_running: Option<u16>,
    /// Leave workflows, commands and the dead inbox to other workers
    #[arg(long)]
    pub(crate) no_coordination: bool,
}

/// `gleitzeit status`
#[derive(Debug, Args)]
#[command(after_help = "\
A workflow is drawn with one row per task, below what it waits for, with its state, time and attempts; a task \
that waits says for what. Many tasks that are alike share a row, and a graph that is too large becomes a line per \
layer. Box drawing needs a UTF-8 locale (LANG), colours a terminal without NO_COLOR.")]
pub(crate) struct Status {
    /// A task, a workflow, or WORKFLOW/TASK
    pub(crate) id: String,
    /// Show every task on a row of its own
    #[arg(long)]
    pub(crate) all: bool,
}

/// `gleitzeit watch`
#[derive(Debug, Args)]
#[command(after_help = "\
On a terminal the graph is redrawn in place, elsewhere each end is a line on stderr; at the end the results are \
printed as `run` prints them. Exit codes as of `run`: 0 completed, 5 failed, 6 --timeout over. Watching changes \
nothing: an interrupt ends the watching, not the work.")]
pub(crate) struct Watch {
    /// A task, a workflow, or WORKFLOW/TASK
    pub(crate) id: String,
    /// Print what is given while it runs, from the beginning as far as it is kept; with --json an object a line, the document last
    #[arg(long)]
    pub(crate) follow: bool,
    /// Stop watching after S seconds (exit 6)
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<f64>,
}

/// `gleitzeit result`
#[derive(Debug, Args)]
pub(crate) struct ResultArgs {
    /// Tasks, workflows, WORKFLOW/TASK, or `-` to read ids from stdin
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    /// Wait for what has not ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stop waiting after S seconds (exit 6)
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<f64>,
}

/// `gleitzeit list`
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this status, e.g. failed
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) limit: usize,
}

/// `gleitzeit cancel`
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Tasks or workflows
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
}

/// `gleitzeit retry`
#[derive(Debug, Args)]
#[command(after_help = "\
Of a workflow, tasks that failed, expired or were cancelled run again under the same id, and every task that \
depends on them; what completed keeps its result. Refused (exit 2) are what has not ended, and a workflow whose \
results are not kept any more. Where everything completed there is nothing to do (exit 0).

Examples:
  gleitzeit retry ID --wait       run again what failed and follow it
  gleitzeit retry ID              only ask for it; embedded, `gleitzeit resume ID` does the work")]
pub(crate) struct Retry {
    /// A task or workflow that has ended
    pub(crate) id: String,
    /// Follow the new run to its end, as `watch` does
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stop waiting after S seconds (exit 6)
    #[arg(long, value_name = "S", requires = "wait")]
    pub(crate) timeout: Option<f64>,
}

/// `gleitzeit graph`
#[derive(Debug, Args)]
#[command(after_help = "\
A line joins a task to what waits for it; a dashed one names what happens if the first does not complete \
(skip, continue, default). A dashed border: it may fail; a doubled one: it runs once for each item of a list; a \
rounded one: a workflow of its own.

Examples:
  gleitzeit graph w.yaml                                      for Markdown, in a block called mermaid
  gleitzeit graph w.yaml --format dot | dot -Tsvg > w.svg     with Graphviz")]
pub(crate) struct Graph {
    #[command(flatten)]
    pub(crate) source: Source,
    /// The language of the picture
    #[arg(long, value_enum, default_value_t = Picture::Mermaid)]
    pub(crate) format: Picture,
}

/// The language of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Picture {
    /// A Mermaid flowchart
    Mermaid,
    /// A Graphviz digraph
    Dot,
}

/// `gleitzeit resume`
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The task or workflow; without it, everything that has not ended
    pub(crate) id: Option<String>,
    /// Stop after S seconds (exit 6); the state is kept
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<f64>,
}

/// `gleitzeit protocol`
#[derive(Debug, Subcommand)]
pub(crate) enum Protocol {
    /// List the known protocols and their methods
    List,
    /// Show one protocol, or one method, with its parameters
    Show {
        /// e.g. python/v1
        protocol: String,
        /// e.g. execute
        method: Option<String>,
        /// Print a JSON Schema (2020-12) of the parameters
        #[arg(long)]
        schema: bool,
    },
    /// Check protocol files
    Validate {
        /// YAML or JSON
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// `gleitzeit schema`
#[derive(Debug, Args)]
#[command(
    after_help = "An editor with a YAML language server completes and checks a workflow file that begins with\n\
# yaml-language-server: $schema=workflow.schema.json"
)]
pub(crate) struct Schema {
    /// Write it to FILE instead of stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `gleitzeit topology`
#[derive(Debug, Subcommand)]
pub(crate) enum Topology {
    /// Print what is declared
    Show,
    /// Declare what is missing
    Apply(TopologyApply),
    /// Compare with what the broker has; exit 4 if something differs
    Check,
    /// Print definitions.json for RabbitMQ's import
    Export {
        /// The RabbitMQ version that it is for; the queue types depend on it
        #[arg(long, default_value = "3.10", value_name = "VERSION")]
        rabbitmq: String,
    },
}

/// `gleitzeit topology apply`
#[derive(Debug, clap::Args)]
pub(crate) struct TopologyApply {
    /// Move queues whose type or arguments differ, with all their messages
    #[arg(long)]
    pub(crate) migrate: bool,
    /// Print what --migrate would do, and do nothing
    #[arg(long, requires = "migrate")]
    pub(crate) dry_run: bool,
    /// How long workers get to end what they hold of a queue before it is deleted [default: a third of
    /// amqp.consumer_timeout; longer tasks have a guard by then]
    #[arg(long, requires = "migrate", value_name = "SECONDS")]
    pub(crate) settle: Option<f64>,
}

/// `gleitzeit config`
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print each value with its origin, secrets masked
    Show,
}
