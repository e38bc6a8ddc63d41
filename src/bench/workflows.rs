//! Workflows: what a step of a chain and a task of a fan-out cost.
//!
//! ```text
//! round ── bare chain:  N times (SET, publish the next and wait for its confirm, ack), in this process
//!       ├─ chain:       one workflow of N tasks in a row, by one `gleitzeit worker` process
//!       ├─ narrow:      one task, a few hundred after it, one after all of them; the same worker
//!       └─ wide:        the same with many; the last task refers to the results of all
//! ```
//! Times are those of the workflow's own record, from taken in to ended, so they hold what a user waits for
//! after the submission. The chain is compared with the bare chain of the same round; the wide fan-out with
//! the narrow one, time per task: that ratio is 1 if time grows linearly.

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::error::BenchError;
use super::figures::{middle, number};
use super::floor::{Floor, QUEUE, RESULT_TTL_SECONDS};
use super::load::PROTOCOL;
use super::process::Child;
use super::report::grouped;
use super::servers::Rounds;
use super::{Machine, Progress, consumer};
use crate::core::id::Id;

/// How long one workflow may take.
const WORKFLOW_TIMEOUT: Duration = Duration::from_secs(300);

/// How big the workflows are.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Steps of the chain.
    pub chain: usize,
    /// Tasks between the first and the last of the narrow fan-out.
    pub narrow: usize,
    /// The same of the wide one.
    pub wide: usize,
}

/// What one round measured, in microseconds per step or task.
#[derive(Debug, Clone, Copy)]
struct Round {
    bare_step: f64,
    step: f64,
    narrow_task: f64,
    wide_task: f64,
    memory: Memory,
}

/// The most memory that the worker ever held, in MiB, at the end of each of its workflows in their order.
#[derive(Debug, Clone, Copy)]
struct Memory {
    chain: f64,
    narrow: f64,
    wide: f64,
}

/// The figures of a run.
#[derive(Debug, Clone)]
pub struct WorkflowReport {
    sizes: Sizes,
    machine: Machine,
    servers: Vec<(&'static str, String)>,
    rounds: Vec<Round>,
}

impl Rounds<'_> {
    /// Measures workflows.
    pub(super) async fn workflows(
        &self,
        sizes: Sizes,
        servers: Vec<(&'static str, String)>,
        progress: Progress<'_>,
    ) -> Result<WorkflowReport, BenchError> {
        let mut rounds = Vec::new();
        for round in 1..=self.settings().rounds {
            rounds.push(self.workflow_round(round, sizes, progress).await?);
        }
        Ok(WorkflowReport { sizes, machine: Machine::here(), servers, rounds })
    }

    async fn workflow_round(
        &self,
        round: usize,
        sizes: Sizes,
        progress: Progress<'_>,
    ) -> Result<Round, BenchError> {
        progress(&format!("round {round}: a bare chain of {} steps", sizes.chain));
        let bare = self.bare_chain(round, sizes.chain).await?;
        let concurrency = self.settings().concurrency.to_string();
        let mut worker =
            self.program().start(&["worker", "--protocol", PROTOCOL, "--concurrency", &concurrency])?;
        // Connections, caches and scripts are warm then.
        self.run_workflow(&fan(self.id(round, "w")?, 50)?, "warm-up").await?;
        progress(&format!("round {round}: a chain of {} tasks", sizes.chain));
        let chain = self.run_workflow(&chain(self.id(round, "c")?, sizes.chain)?, "the chain").await?;
        let chain_memory = peak_mib(&mut worker).await?;
        progress(&format!("round {round}: fan-outs of {} and {} tasks", sizes.narrow, sizes.wide));
        let narrow =
            self.run_workflow(&fan(self.id(round, "n")?, sizes.narrow)?, "the narrow fan-out").await?;
        let narrow_memory = peak_mib(&mut worker).await?;
        let wide = self.run_workflow(&fan(self.id(round, "x")?, sizes.wide)?, "the wide fan-out").await?;
        let wide_memory = peak_mib(&mut worker).await?;
        worker.stop().await?;
        self.forget().await?;
        let each = |time: Duration, count: usize| time.as_secs_f64() * 1e6 / count as f64;
        Ok(Round {
            bare_step: each(bare, sizes.chain),
            step: each(chain, sizes.chain),
            narrow_task: each(narrow, sizes.narrow + 2),
            wide_task: each(wide, sizes.wide + 2),
            memory: Memory { chain: chain_memory, narrow: narrow_memory, wide: wide_memory },
        })
    }

    fn id(&self, round: usize, what: &str) -> Result<Id, BenchError> {
        let text = format!("bench-{}-{round}-{what}", self.settings().run);
        Id::parse(&text).map_err(|error| BenchError::Invalid(error.to_string()))
    }

    /// From taken in to ended.
    async fn run_workflow(
        &self,
        (id, document): &(Id, Value),
        what: &'static str,
    ) -> Result<Duration, BenchError> {
        let client = self.client();
        client.submit_workflow(document, id).await.map_err(BenchError::product)?;
        let ended = client.wait(id, Some(WORKFLOW_TIMEOUT)).await.map_err(BenchError::product)?;
        let state = ended.map(|ended| ended.state);
        if state.as_deref() != Some("completed") {
            return Err(BenchError::Invalid(format!("{what} ended as {state:?}")));
        }
        let record = self.store().workflow(id).await.map_err(BenchError::product)?;
        let times = record.and_then(|record| Some((record.created_at, record.ended_at?)));
        let (from, to) = times.ok_or_else(|| BenchError::Invalid(format!("{what} has no record")))?;
        Ok(to.since(from))
    }

    /// Each message causes the next: `SET`, publish and confirm, ack. Nothing else happens meanwhile.
    async fn bare_chain(&self, round: usize, steps: usize) -> Result<Duration, BenchError> {
        let id = self.id(round, "f")?.to_string();
        let floor = Floor::open(&self.servers().amqp, self.like(), super::load::body(&id)?).await?;
        let channel = floor.open_channel().await?;
        let qos = channel.basic_qos(consumer::PREFETCH, BasicQosOptions::default());
        qos.await.map_err(BenchError::amqp("set its prefetch"))?;
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let consuming = channel.basic_consume(QUEUE.into(), "chain".into(), options, table);
        let mut deliveries = consuming.await.map_err(BenchError::amqp("consume"))?;
        let mut redis = self.connection();

        let one = [id];
        floor.publish(&one).await?;
        let started = Instant::now();
        for step in 1..=steps {
            let next = tokio::time::timeout(WORKFLOW_TIMEOUT, deliveries.next()).await;
            let Ok(Some(delivery)) = next else {
                return Err(BenchError::Invalid(format!("the bare chain broke at step {step}")));
            };
            let delivery = delivery.map_err(BenchError::amqp_error)?;
            let key = consumer::key(&self.servers().prefix, &format!("{}-{step}", one[0]));
            let set = redis::Cmd::set_ex(key, &delivery.data[..], RESULT_TTL_SECONDS);
            let set: Result<(), _> = set.query_async(&mut redis).await;
            set.map_err(BenchError::redis("keep a result"))?;
            if step < steps {
                floor.publish(&one).await?;
            }
            delivery.ack(BasicAckOptions::default()).await.map_err(BenchError::amqp_error)?;
        }
        let took = started.elapsed();
        floor.close().await?;
        Ok(took)
    }
}

async fn peak_mib(worker: &mut Child) -> Result<f64, BenchError> {
    Ok(worker.usage().await?.memory_peak_bytes as f64 / (1024.0 * 1024.0))
}

fn chain(id: Id, steps: usize) -> Result<(Id, Value), BenchError> {
    let task = |step: usize| match step {
        0 => json!({"id": "t0", "method": "echo/ping"}),
        _ => {
            json!({"id": format!("t{step}"), "method": "echo/ping", "dependencies": [format!("t{}", step - 1)]})
        }
    };
    Ok((id, json!({"name": "chain", "tasks": (0..steps).map(task).collect::<Vec<_>>()})))
}

fn fan(id: Id, width: usize) -> Result<(Id, Value), BenchError> {
    let mut tasks = vec![json!({"id": "first", "method": "echo/ping"})];
    let names: Vec<String> = (0..width).map(|number| format!("t{number}")).collect();
    let one = |name: &String| json!({"id": name, "method": "echo/ping", "dependencies": ["first"]});
    tasks.extend(names.iter().map(one));
    // It reads what each of them gave, as a fan-in does.
    let inputs: Vec<String> = names.iter().map(|name| format!("${{{name}.response}}")).collect();
    let params = json!({ "message": inputs });
    tasks.push(json!({"id": "last", "method": "echo/ping", "params": params, "dependencies": names}));
    Ok((id, json!({"name": "fan", "tasks": tasks})))
}

/// One kind of figure: its key, its name for people, and where it is.
type Line = (&'static str, &'static str, fn(&Round) -> f64);

const LINES: [Line; 9] = [
    ("bare_step_us", "bare step, us", |it| it.bare_step),
    ("chain_step_us", "step of the chain, us", |it| it.step),
    ("chain_ratio", "chain / bare", |it| it.step / it.bare_step),
    ("narrow_task_us", "task of the narrow fan-out, us", |it| it.narrow_task),
    ("wide_task_us", "task of the wide fan-out, us", |it| it.wide_task),
    ("fan_ratio", "wide / narrow", |it| it.wide_task / it.narrow_task),
    ("chain_memory_peak_mib", "worker peak, chain, MiB", |it| it.memory.chain),
    ("narrow_memory_peak_mib", "worker peak, narrow fan-out, MiB", |it| it.memory.narrow),
    ("memory_peak_mib", "worker peak, wide fan-out, MiB", |it| it.memory.wide),
];

/// The highest values that `docs/performance.md` allows, by key.
const LIMITS: [(&str, f64); 2] = [("chain_ratio", 2.5), ("fan_ratio", 1.3)];

/// The limit of a figure, and whether it is kept.
fn limit(key: &str, value: f64) -> Option<(f64, bool)> {
    let (_, at_most) = LIMITS.iter().find(|(limited, _)| *limited == key)?;
    Some((*at_most, value <= *at_most))
}

impl WorkflowReport {
    /// Every figure: medians and each round, and which limits are kept.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (mut medians, mut limits) = (serde_json::Map::new(), serde_json::Map::new());
        for (key, _, of) in LINES {
            medians.insert(key.to_owned(), number(self.median(of)));
            if let Some((at_most, is_kept)) = limit(key, self.median(of)) {
                limits.insert(key.to_owned(), json!({"at_most": at_most, "kept": is_kept}));
            }
        }
        let round = |round: &Round| {
            LINES.iter().map(|(key, _, of)| ((*key).to_owned(), number(of(round)))).collect::<Value>()
        };
        let Sizes { chain, narrow, wide } = self.sizes;
        json!({
            "gleitzeit": env!("CARGO_PKG_VERSION"),
            "mode": "workflows",
            "chain": chain,
            "narrow": narrow,
            "wide": wide,
            "machine": self.machine.to_json(),
            "servers": self.servers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<Value>(),
            "median": medians,
            "limits": limits,
            "rounds": self.rounds.iter().map(round).collect::<Vec<_>>(),
        })
    }

    /// Lines for people.
    #[must_use]
    pub fn table(&self) -> Vec<String> {
        let Sizes { chain, narrow, wide } = self.sizes;
        let rounds = self.rounds.len();
        let mut lines = vec![
            format!(
                "workflows: medians of {rounds} rounds of a chain of {chain} and fan-outs of {narrow} and {wide}"
            ),
            self.machine.line(),
        ];
        lines.extend(self.servers.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.push(String::new());
        for (key, label, of) in LINES {
            let digits = if key.ends_with("ratio") { 2 } else { 0 };
            let value = self.median(of);
            let verdict = match limit(key, value) {
                Some((at_most, true)) => format!("  at most {at_most}: kept"),
                Some((at_most, false)) => format!("  at most {at_most}: NOT KEPT"),
                None => String::new(),
            };
            lines.push(format!("{label:32}{:>10}{verdict}", grouped(value, digits)));
        }
        lines
    }

    fn median(&self, of: fn(&Round) -> f64) -> f64 {
        middle(self.rounds.iter().map(of).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_of_the_page_is_judged() {
        for (key, at_most) in LIMITS {
            assert!(LINES.iter().any(|(line, _, _)| *line == key), "{key} is no figure");
            assert_eq!(limit(key, at_most), Some((at_most, true)), "{key}");
            assert_eq!(limit(key, at_most + 0.01), Some((at_most, false)), "{key}");
        }
        assert_eq!(limit("memory_peak_mib", 1e9), None);
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md"));
        let page = page.expect("the page");
        for text in ["chain / bare (at most 2.5)", "wide / narrow (at most 1.3)"] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn the_last_task_of_a_fan_reads_what_all_before_it_gave() {
        let protocols = crate::core::protocol::Protocols::builtin().expect("built in");
        let (_, document) = fan(Id::parse("f").expect("an id"), 20).expect("a fan");
        let workflow = crate::core::workflow::Workflow::read(document, &protocols).expect("a workflow");
        assert_eq!(workflow.tasks.last().map(|last| last.inputs.len()), Some(20));
    }
}
