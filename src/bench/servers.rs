//! Rounds against RabbitMQ and Redis: the floor and Gleitzeit take turns on the same servers.

use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::BenchError;
use super::figures::{Figures, per_second};
use super::floor::{self, Floor};
use super::load;
use super::process::Program;
use super::results::{Drain, Measured, Results, follow};
use super::{Progress, Settings, consumer};
use crate::broker::{Broker, Settlement};
use crate::client::Client;
use crate::store::Store;
use crate::topology::plan::{Argument, Plan, QueueDeclaration, QueueTypes, Release};
use crate::topology::{Address, Queue, Topology};

/// What the bench connects to, and through what.
#[derive(Debug, Clone)]
pub struct Servers {
    /// RabbitMQ, with its password.
    pub amqp: String,
    /// Redis, with its password.
    pub redis: String,
    /// What every key begins with.
    pub prefix: String,
    /// The product's client.
    pub client: Client,
    /// The product's broker.
    pub broker: Arc<dyn Broker>,
    /// The product's store.
    pub store: Arc<dyn Store>,
}

/// How long a queue gives nothing before its depth is asked for.
const QUIET: Duration = Duration::from_secs(1);

/// So many times it may have messages and give none: then something else is wrong there.
const QUIETS_MAX: u32 = 60;

/// How many foreign tasks are held while ours are picked out.
const FOREIGN_MAX: u16 = 1000;

/// A run of rounds on servers.
#[derive(Debug)]
pub(super) struct Rounds<'a> {
    servers: &'a Servers,
    settings: &'a Settings,
    program: &'a Program,
    redis: redis::Client,
    connection: MultiplexedConnection,
    like: QueueDeclaration,
    stop: &'a CancellationToken,
    /// Submissions: they end by themselves, so that all that was submitted is known when it is taken back.
    submitting: TaskTracker,
}

impl<'a> Rounds<'a> {
    /// # Errors
    /// Somebody else uses the task queue.
    pub(super) async fn new(
        servers: &'a Servers,
        settings: &'a Settings,
        program: &'a Program,
        stop: &'a CancellationToken,
    ) -> Result<Rounds<'a>, BenchError> {
        let queue = queue()?;
        let depth = servers.broker.depth(&queue).await.map_err(BenchError::product)?;
        if depth.ready > 0 || depth.consumers > 0 {
            return Err(BenchError::Refused(format!(
                "queue {queue} has {} tasks and {} consumers, and the bench must have it for itself: stop the \
                 workers that take {}, or use a virtual host of its own",
                depth.ready,
                depth.consumers,
                load::PROTOCOL,
            )));
        }
        let redis =
            redis::Client::open(servers.redis.as_str()).map_err(BenchError::redis("read the address"))?;
        let connection = redis.get_multiplexed_async_connection_with_config(&consumer::patient()).await;
        let connection = connection.map_err(BenchError::redis("connect"))?;
        let like = declaration(&servers.broker.version().await.map_err(BenchError::product)?)?;
        let submitting = TaskTracker::new();
        Ok(Rounds { servers, settings, program, redis, connection, like, stop, submitting })
    }

    /// The least work possible.
    pub(super) async fn floor(&self, round: usize, progress: Progress<'_>) -> Result<Figures, BenchError> {
        let ids = load::ids(&self.settings.run, round, "f", self.settings.tasks);
        let first = ids.first().map(String::as_str).unwrap_or_default();
        let floor = Floor::open(&self.servers.amqp, &self.like, load::body(first)?).await?;
        progress(&format!("round {round}: floor: publishing {} messages", ids.len()));
        let submitted = floor.publish(&ids).await?;

        progress(&format!("round {round}: floor: draining"));
        let mut consumer = self.program.start(&["bench", "floor-consumer"])?;
        let keys = ids.iter().map(|id| consumer::key(&self.servers.prefix, id)).collect();
        let mut results = Results::Redis { connection: self.connection.clone(), keys };
        let drain = follow(&mut results, Measured::Child(&mut consumer), "the floor").await?;

        progress(&format!("round {round}: floor: {} round trips", self.settings.round_trips));
        let ids = load::ids(&self.settings.run, round, "fr", self.settings.round_trips + load::WARM_UP);
        let channel = format!("{}:bench:done:{}", self.servers.prefix, self.settings.run);
        let mut times = floor.round_trips(&self.redis, &channel, &ids).await?;
        consumer.stop().await?;
        let waiting = floor.waiting().await?;
        if waiting > 0 {
            return Err(BenchError::Invalid(format!("the floor did not settle {waiting} messages")));
        }
        floor.close().await?;
        self.forget().await?;
        Ok(figures(&drain, submitted, self.settings.tasks).with_round_trips(times.split_off(load::WARM_UP)))
    }

    /// The real thing: our client, and one `gleitzeit worker` process.
    pub(super) async fn ours(&self, round: usize, progress: Progress<'_>) -> Result<Figures, BenchError> {
        let Servers { prefix, client, broker, .. } = self.servers;
        let ids = load::ids(&self.settings.run, round, "t", self.settings.tasks);
        progress(&format!("round {round}: gleitzeit: submitting {} tasks", ids.len()));
        let submission = load::submit(client.clone(), ids.clone(), self.stop.clone());
        let submitted = self.submitting.spawn(submission).await.unwrap_or(Err(BenchError::Stopped))?;

        progress(&format!("round {round}: gleitzeit: draining"));
        let concurrency = self.settings.concurrency.to_string();
        let arguments = ["worker", "--protocol", load::PROTOCOL, "--concurrency", &concurrency];
        let mut worker = self.program.start(&arguments)?;
        let keys = ids.iter().map(|id| format!("{prefix}:{{{id}}}:result")).collect();
        let mut results = Results::Redis { connection: self.connection.clone(), keys };
        let drain = follow(&mut results, Measured::Child(&mut worker), "gleitzeit").await?;
        results.must_be_completed().await?;

        progress(&format!("round {round}: gleitzeit: {} round trips", self.settings.round_trips));
        let ids = load::ids(&self.settings.run, round, "tr", self.settings.round_trips + load::WARM_UP);
        let times = load::round_trips(client, &ids).await?;
        worker.stop().await?;
        let waiting = broker.depth(&queue()?).await.map_err(BenchError::product)?.ready;
        if waiting > 0 {
            return Err(BenchError::Invalid(format!("the worker did not settle {waiting} tasks")));
        }
        self.forget().await?;
        Ok(figures(&drain, submitted, self.settings.tasks).with_round_trips(times))
    }

    /// Removes what a stopped or failed run has left, and nothing else: queue, tasks, results.
    pub(super) async fn clean_up(&self) -> Result<(), BenchError> {
        self.submitting.close();
        self.submitting.wait().await;
        floor::remove(&self.servers.amqp).await?;
        self.recall().await?;
        self.forget().await
    }

    /// Takes our tasks out of the task queue; what others put there meanwhile goes back.
    async fn recall(&self) -> Result<(), BenchError> {
        let ours = format!("bench-{}-", self.settings.run);
        let mut foreign = Vec::new();
        let prefetch = std::num::NonZeroU16::new(FOREIGN_MAX).unwrap_or(std::num::NonZeroU16::MIN);
        let mut consumer =
            self.servers.broker.consume(&queue()?, prefetch).await.map_err(BenchError::product)?;
        let mut quiets = 0;
        while quiets < QUIETS_MAX {
            let next = match tokio::time::timeout(QUIET, consumer.next()).await {
                Ok(next) => next,
                // A busy broker takes its time, and says what it still has.
                Err(_) if foreign.len() < usize::from(FOREIGN_MAX) && self.is_left().await? => {
                    quiets += 1;
                    continue;
                }
                Err(_) => None,
            };
            let Some(delivery) = next else { break };
            quiets = 0;
            let delivery = delivery.map_err(BenchError::product)?;
            let id = delivery.properties.message_id.as_deref().unwrap_or_default();
            if id.starts_with(&ours) {
                delivery.settle(Settlement::Done).await.map_err(BenchError::product)?;
            } else {
                foreign.push(delivery);
            }
        }
        consumer.cancel().await.map_err(BenchError::product)?;
        for delivery in foreign {
            delivery.settle(Settlement::Release).await.map_err(BenchError::product)?;
        }
        Ok(())
    }

    /// Whether the task queue has messages that nobody was given.
    async fn is_left(&self) -> Result<bool, BenchError> {
        Ok(self.servers.broker.depth(&queue()?).await.map_err(BenchError::product)?.ready > 0)
    }

    /// Deletes every key of this run.
    pub(super) async fn forget(&self) -> Result<(), BenchError> {
        let mut connection = self.connection.clone();
        let pattern = format!("{}:*bench-{}-*", self.servers.prefix, self.settings.run);
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
            let found: Result<(u64, Vec<String>), _> = scan.query_async(&mut connection).await;
            let (next, keys) = found.map_err(BenchError::redis("find its keys"))?;
            if !keys.is_empty() {
                let deleted: Result<(), _> = redis::cmd("DEL").arg(&keys).query_async(&mut connection).await;
                deleted.map_err(BenchError::redis("delete its keys"))?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        self.settings
    }

    pub(super) fn program(&self) -> &Program {
        self.program
    }

    pub(super) fn servers(&self) -> &Servers {
        self.servers
    }

    pub(super) fn client(&self) -> &Client {
        &self.servers.client
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.servers.store
    }

    /// What the floor's queue looks like.
    pub(super) fn like(&self) -> &QueueDeclaration {
        &self.like
    }

    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    /// The arguments of both sides' queues, as people write them.
    pub(super) fn queue_arguments(&self) -> String {
        let text = |(name, value): &(&str, Argument)| match value {
            Argument::Text(text) => format!("{name}={text}"),
            Argument::Number(number) => format!("{name}={number}"),
        };
        self.like.arguments.iter().map(text).collect::<Vec<String>>().join(" ")
    }
}

fn figures(drain: &Drain, submitted: Duration, tasks: usize) -> Figures {
    Figures {
        tasks_per_second: Some(per_second(drain.tasks, drain.time)),
        submitted_per_second: Some(per_second(tasks, submitted)),
        cpu_us_per_task: Some(drain.cpu.as_secs_f64() * 1e6 / drain.tasks.max(1) as f64),
        memory_peak_mib: Some(drain.memory_peak_bytes as f64 / (1024.0 * 1024.0)),
        start_ms: Some(drain.start.as_secs_f64() * 1000.0),
        ..Figures::default()
    }
}

fn address() -> Result<Address, BenchError> {
    let routing = load::PROTOCOL.replace('/', ".");
    Address::parse(&routing).map_err(|error| BenchError::Invalid(error.to_string()))
}

fn queue() -> Result<Queue, BenchError> {
    Ok(Queue::Tasks(address()?))
}

/// What the task queue looks like on this server.
fn declaration(version: &str) -> Result<QueueDeclaration, BenchError> {
    let release = version.rsplit(' ').next().and_then(Release::parse);
    let release =
        release.ok_or_else(|| BenchError::Invalid(format!("{version:?} is no version of a broker")))?;
    let plan = Plan::new(&Topology::new([address()?]), release, &QueueTypes::default());
    let name = queue()?.name();
    let found = plan.queues.into_iter().find(|queue| queue.name == name);
    found.ok_or_else(|| BenchError::Invalid(format!("queue {name} is not in the plan")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_has_the_arguments_of_a_task_queue() {
        let names = |version: &str| {
            let declared = declaration(version).expect("a plan");
            declared.arguments.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        };
        assert!(names("RabbitMQ 3.10.8").contains(&"x-max-priority"));
        assert!(!names("RabbitMQ 4.3.6").contains(&"x-max-priority"));
        assert!(declaration("RabbitMQ unknown").is_err());
    }
}
