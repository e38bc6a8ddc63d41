//! Watching: one subscribing connection for everybody who watches through this adapter.
//!
//! ```text
//! watch(root) ──▶ Hub: what is wanted ──▶ supervise: SUBSCRIBE / UNSUBSCRIBE ──▶ Redis
//! stream      ◀── Hub: a bounded buffer per channel ◀── pushes ◀───────────────────┘
//! ```
//! Who follows a root listens to both of its channels, of ends and of what moves; who waits only to the first.
//! The hub holds what is wanted; the supervisor compares it with what the connection is subscribed to, after
//! each change and after each reconnect. So losing the connection, a watcher that comes and one that goes
//! are the same to it. What is published while the connection is broken is lost; therefore every watcher is
//! told [`Change::Resync`] once the subscription stands again, and also when its buffer was too small.
//! The connection is made for the first watcher and given up when nobody watches.

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, PushInfo, PushKind, RedisError};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connection::{CALL_TIMEOUT, Connection, is_login_refused};
use super::keys::Prefix;
use super::link::{RECONNECT_DELAY_MAX, pauses};
use super::outage::Part;
use crate::core::id::Id;
use crate::store::{Change, StoreError};

/// How many changes of one channel may wait for a slow reader; beyond that it is told to look at everything.
const BUFFER: usize = 128;

/// How many channels one command names.
const SUBSCRIBE_BATCH: usize = 1000;

/// How often the connection is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Who watches what, and the task that keeps it so.
#[derive(Debug)]
pub(super) struct Watch {
    hub: Arc<Hub>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop_on_drop: DropGuard,
}

impl Watch {
    pub(super) fn new(connection: Connection, prefix: Prefix) -> Watch {
        let hub = Arc::new(Hub { prefix, channels: Mutex::default(), changed: Notify::new() });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let part = connection.part();
        let supervisor = Supervisor { hub: hub.clone(), connection, part, stop: stop.clone() };
        tasks.spawn(supervisor.run());
        tasks.close();
        Watch { hub, _stop_on_drop: stop.clone().drop_guard(), stop, tasks }
    }

    /// Tells of ends. Returns once the server has confirmed the subscription.
    pub(super) async fn ends(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        self.news(root, News::Ends).await
    }

    /// Tells of ends, and of what moves without an end.
    pub(super) async fn ends_and_moves(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        let both = futures_util::try_join!(self.news(root, News::Ends), self.news(root, News::Moves));
        let (ends, moves) = both?;
        Ok(stream::select(ends, moves).boxed())
    }

    /// Tells that tasks have given more.
    pub(super) async fn output(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        self.news(root, News::Output).await
    }

    async fn news(&self, root: &Id, news: News) -> Result<BoxStream<'static, Change>, StoreError> {
        let unanswered = |reason: String| StoreError::Unanswered { step: "watch", reason };
        if self.stop.is_cancelled() {
            return Err(unanswered("the store is closed".to_owned()));
        }
        let (watcher, changes, mut subscribed) = Hub::add(&self.hub, root, news);
        match tokio::time::timeout(CALL_TIMEOUT, subscribed.wait_for(|is| *is)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(unanswered("the store is closed".to_owned())),
            Err(_) => return Err(unanswered(format!("no subscription within {} s", CALL_TIMEOUT.as_secs()))),
        }
        let next = |(mut changes, watcher): (broadcast::Receiver<Change>, Watcher)| async move {
            match changes.recv().await {
                Ok(change) => Some((change, (changes, watcher))),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Change::Resync, (changes, watcher))),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        };
        Ok(stream::unfold((changes, watcher), next).boxed())
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.hub.channels().clear();
    }
}

/// What is wanted, and where what is told goes.
#[derive(Debug)]
struct Hub {
    prefix: Prefix,
    /// By name.
    channels: Mutex<HashMap<String, Channel>>,
    /// Something is wanted or not wanted any more.
    changed: Notify,
}

/// What is told on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Ends,
    Moves,
    Output,
}

#[derive(Debug)]
struct Channel {
    root: Id,
    news: News,
    watchers: usize,
    changes: broadcast::Sender<Change>,
    subscribed: watch::Sender<bool>,
}

impl Hub {
    fn add(
        hub: &Arc<Hub>,
        root: &Id,
        news: News,
    ) -> (Watcher, broadcast::Receiver<Change>, watch::Receiver<bool>) {
        let name = match news {
            News::Ends => hub.prefix.channel(root),
            News::Moves => hub.prefix.live(root),
            News::Output => hub.prefix.output_channel(root),
        };
        let mut channels = hub.channels();
        let channel = channels.entry(name.clone()).or_insert_with(|| Channel {
            root: root.clone(),
            news,
            watchers: 0,
            changes: broadcast::Sender::new(BUFFER),
            subscribed: watch::Sender::new(false),
        });
        channel.watchers += 1;
        let receivers = (channel.changes.subscribe(), channel.subscribed.subscribe());
        drop(channels);
        hub.changed.notify_one();
        (Watcher { hub: hub.clone(), channel: name }, receivers.0, receivers.1)
    }

    fn remove(&self, name: &str) {
        let mut channels = self.channels();
        if let Some(channel) = channels.get_mut(name) {
            channel.watchers -= 1;
            if channel.watchers == 0 {
                channels.remove(name);
                self.changed.notify_one();
            }
        }
    }

    fn wanted(&self) -> HashSet<String> {
        self.channels().keys().cloned().collect()
    }

    /// These channels are subscribed to on the present connection, just now.
    fn subscribed(&self, names: &[String]) {
        let channels = self.channels();
        for channel in names.iter().filter_map(|name| channels.get(name)) {
            if channel.subscribed.send_replace(true) {
                // It was subscribed to on an earlier connection.
                channel.tell(Change::Resync);
            }
        }
    }

    /// Others watch these channels already. What is not wanted at this moment is not among them: it is about
    /// to be unsubscribed, and whoever wants it again waits for that to be undone.
    fn still_subscribed<'a>(&self, names: impl Iterator<Item = &'a String>) {
        let channels = self.channels();
        for channel in names.filter_map(|name| channels.get(name)) {
            channel.subscribed.send_if_modified(|is| !std::mem::replace(is, true));
        }
    }

    fn told(&self, name: &str, text: &str) {
        let channels = self.channels();
        let Some(channel) = channels.get(name) else { return };
        channel.tell(match channel.news {
            // Whoever follows looks at the whole root; so a later version may tell of more.
            News::Moves | News::Output => Change::Moved,
            News::Ends => match self.prefix.told(&channel.root, text) {
                Some(Some(task)) => Change::Task(task),
                Some(None) => Change::Root,
                // Not ours; looking at everything is always right.
                None => Change::Resync,
            },
        });
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<String, Channel>> {
        // No code that holds the lock can panic half-way.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    fn tell(&self, change: Change) {
        // An error says that every receiver is gone; then the channel is about to be removed.
        let _ = self.changes.send(change);
    }
}

/// Keeps a channel wanted.
#[derive(Debug)]
struct Watcher {
    hub: Arc<Hub>,
    channel: String,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.remove(&self.channel);
    }
}

/// Keeps a subscribing connection while somebody watches.
struct Supervisor {
    hub: Arc<Hub>,
    connection: Connection,
    part: Part,
    stop: CancellationToken,
}

impl Supervisor {
    async fn run(self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.keep_connected()).await;
    }

    async fn keep_connected(&self) {
        let mut delay = pauses();
        loop {
            if self.hub.wanted().is_empty() {
                self.part.forget();
            }
            while self.hub.wanted().is_empty() {
                self.hub.changed.notified().await;
            }
            let connected = &mut || {
                delay = pauses();
                self.part.back();
            };
            match self.serve(connected).await {
                Ok(()) => continue,
                Err(error) if is_login_refused(&error) => self.part.refused(&error.to_string()),
                Err(error) => self.part.lost(&error.to_string()),
            }
            tokio::time::sleep(delay.next().unwrap_or(RECONNECT_DELAY_MAX)).await;
        }
    }

    /// Serves one connection: `Ok` when nobody watches any more, an error when it broke.
    async fn serve(&self, connected: &mut (dyn FnMut() + Send)) -> Result<(), RedisError> {
        let broken = Arc::new(Notify::new());
        let (hub, lost) = (self.hub.clone(), broken.clone());
        let pushed = move |push: PushInfo| {
            match push.kind {
                PushKind::Message => tell(&hub, &push),
                PushKind::Disconnection => lost.notify_one(),
                _ => {}
            }
            Ok::<(), redis::aio::SendError>(())
        };
        let config = AsyncConnectionConfig::new().set_push_sender(pushed);
        let mut connection = self.connection.separate(config).await?;
        connected();
        let mut subscriptions = HashSet::new();
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            subscriptions = self.subscribe(&mut connection, subscriptions).await?;
            tokio::select! {
                () = self.hub.changed.notified() => {}
                () = broken.notified() => return Err(lost_connection()),
                _ = ping.tick() => {
                    if subscriptions.is_empty() && self.hub.wanted().is_empty() {
                        return Ok(());
                    }
                    self.connection.check(&mut connection).await?;
                }
            }
        }
    }

    /// Makes the connection's subscriptions what is wanted. Answers what they are.
    async fn subscribe(
        &self,
        connection: &mut MultiplexedConnection,
        had: HashSet<String>,
    ) -> Result<HashSet<String>, RedisError> {
        let wanted = self.hub.wanted();
        self.hub.still_subscribed(had.intersection(&wanted));
        let new: Vec<String> = wanted.difference(&had).cloned().collect();
        for batch in new.chunks(SUBSCRIBE_BATCH) {
            connection.subscribe(batch).await?;
            self.hub.subscribed(batch);
        }
        let old: Vec<&String> = had.difference(&wanted).collect();
        for batch in old.chunks(SUBSCRIBE_BATCH) {
            connection.unsubscribe(batch).await?;
        }
        Ok(wanted)
    }
}

fn tell(hub: &Hub, push: &PushInfo) {
    let text = |at: usize| push.data.get(at).and_then(|value| String::from_redis_value_ref(value).ok());
    if let (Some(channel), Some(told)) = (text(0), text(1)) {
        hub.told(&channel, &told);
    }
}

fn lost_connection() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the server closed the connection").into()
}
