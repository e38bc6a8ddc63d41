//! Publishing with confirms.
//!
//! A lane is a task with one confirm channel. It takes every publish that waits for it as one group,
//! writes all of it, awaits all of its confirms, answers, and takes the next group. So groups grow with
//! the load, and a lone publish waits for nobody.
//!
//! Groups are not only for speed. An unroutable message comes back and is confirmed all the same, and the
//! server does not say which confirm belongs to the return: lapin hands it to whichever confirm comes next.
//! With the whole group at hand, and nothing else on the channel, returns are matched by exchange and
//! routing key, which is what made them unroutable. A few lanes keep groups from waiting for each other.
//!
//! Replies have a lane of their own: they go where we may lack a permission, and the server answers that
//! by closing the channel with everything unconfirmed on it.

use backon::BackoffBuilder;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{BLOCKED, Link, PAUSE_MAX, backoff};
use super::failure::{ACCESS_REFUSED, NOT_FOUND, reply_code, within, words};
use super::message::Frame;
use super::settings::Settings;
use crate::broker::BrokerError;

/// Lanes for messages that must arrive.
const LANES: usize = 4;

/// Publishes that may wait for one lane; more wait in their callers.
const WAITING_MAX: usize = 256;

/// Bytes that one group may have in flight, beyond its first message.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Writes messages and returns when the server has confirmed them.
#[derive(Debug)]
pub(super) struct Publisher {
    lanes: Vec<Lane>,
    replies: Lane,
    timeout: Duration,
}

#[derive(Debug)]
struct Lane {
    requests: mpsc::Sender<Request>,
    /// Publishes that wait for this lane or are in its group.
    load: AtomicUsize,
}

/// One call of `publish`.
#[derive(Debug)]
struct Request {
    frames: Vec<Frame>,
    /// Past this, nothing of it is written any more.
    deadline: Instant,
    answer: oneshot::Sender<Result<(), BrokerError>>,
}

impl Publisher {
    /// Starts the lanes on `tasks`; they end when `closed` fires and what they hold is answered.
    pub(super) fn start(
        link: &Arc<Link>,
        settings: &Settings,
        tasks: &TaskTracker,
        closed: &CancellationToken,
    ) -> Publisher {
        let lane = |purpose| {
            let (requests, waiting) = mpsc::channel(WAITING_MAX);
            let writer = Writer {
                link: Arc::clone(link),
                purpose,
                waiting,
                open: None,
                window: settings.confirm_window.max(1),
                timeout: settings.publish_timeout,
                reply_timeout: settings.reply_timeout,
                closed: closed.clone(),
            };
            tasks.spawn(writer.run());
            Lane { requests, load: AtomicUsize::new(0) }
        };
        Publisher {
            lanes: (0..LANES).map(|_| lane(Purpose::Messages)).collect(),
            replies: lane(Purpose::Replies),
            timeout: settings.publish_timeout,
        }
    }

    /// Returns once every frame is confirmed. The first error of any frame is the error.
    pub(super) async fn publish(&self, frames: Vec<Frame>) -> Result<(), BrokerError> {
        // An idle lane first, and the first of those: its channel is open.
        let lane = self.lanes.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed));
        lane.expect("there is always a lane").publish(frames, self.timeout).await
    }

    /// Like [`Publisher::publish`], but a reply that nobody can get is no error.
    pub(super) async fn reply(&self, frames: Vec<Frame>) -> Result<(), BrokerError> {
        self.replies.publish(frames, self.timeout).await
    }
}

impl Lane {
    async fn publish(&self, frames: Vec<Frame>, timeout: Duration) -> Result<(), BrokerError> {
        if frames.is_empty() {
            return Ok(());
        }
        let _load = Load::on(&self.load);
        let (answer, answered) = oneshot::channel();
        let request = Request { frames, deadline: Instant::now() + timeout, answer };
        match self.requests.send_timeout(request, timeout).await {
            Ok(()) => answered.await.unwrap_or(Err(BrokerError::Closed)),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(BrokerError::Closed),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(BrokerError::Unconfirmed {
                what: "a message".to_owned(),
                reason: "too many publishes wait before it; nothing of it was sent".to_owned(),
            }),
        }
    }
}

/// Counts one publish while it lives.
struct Load<'a>(&'a AtomicUsize);

impl Load<'_> {
    fn on(load: &AtomicUsize) -> Load<'_> {
        load.fetch_add(1, Ordering::Relaxed);
        Load(load)
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Messages,
    Replies,
}

/// A lane's task.
#[derive(Debug)]
struct Writer {
    link: Arc<Link>,
    purpose: Purpose,
    waiting: mpsc::Receiver<Request>,
    open: Option<Open>,
    window: usize,
    timeout: Duration,
    reply_timeout: Duration,
    closed: CancellationToken,
}

/// A channel in confirm mode, and the connection that it lives on.
#[derive(Debug)]
struct Open {
    connection: Arc<Connection>,
    channel: Channel,
}

/// What became of one frame.
#[derive(Debug)]
enum Outcome {
    /// Confirmed, which says nothing about whether a queue took it.
    Confirmed,
    Refused,
    Failed(lapin::Error),
    /// No confirm in time.
    Pending,
}

/// A message that no queue took.
#[derive(Debug)]
struct Returned {
    exchange: String,
    routing_key: String,
    reason: String,
}

impl Writer {
    async fn run(mut self) {
        let closed = self.closed.clone();
        loop {
            let first = tokio::select! {
                biased;
                () = closed.cancelled(), if !self.waiting.is_closed() => {
                    self.waiting.close();
                    continue;
                }
                first = self.waiting.recv() => first,
            };
            let Some(first) = first else { break };
            let group = self.gather(first);
            self.serve(group).await;
        }
        if let Some(open) = self.open.take() {
            let ended = within(Duration::from_secs(1), open.channel.close(200, "closed".into())).await;
            tracing::trace!(?ended, "publishing channel closed");
        }
    }

    /// Everything that waits, up to the window.
    fn gather(&mut self, first: Request) -> Vec<Request> {
        let mut frames = first.frames.len();
        let mut group = vec![first];
        while frames < self.window
            && let Ok(request) = self.waiting.try_recv()
        {
            frames += request.frames.len();
            group.push(request);
        }
        group
    }

    async fn serve(&mut self, group: Vec<Request>) {
        let now = Instant::now();
        let (group, late): (Vec<Request>, Vec<Request>) =
            group.into_iter().partition(|request| request.deadline > now);
        for request in late {
            answer(request, Err(self.unconfirmed("the server took nothing in time; nothing of it was sent")));
        }
        let Some(deadline) = group.iter().map(|request| request.deadline).max() else { return };
        if let Err(error) = self.ensure_open(deadline).await {
            for request in group {
                answer(request, Err(error.clone()));
            }
            return;
        }
        let errors = self.write(&group).await;
        for (request, error) in group.into_iter().zip(errors) {
            answer(request, error.map_or(Ok(()), Err));
        }
    }

    /// Tries until `deadline`: nothing is written yet, so trying again repeats nothing.
    async fn ensure_open(&mut self, deadline: Instant) -> Result<(), BrokerError> {
        let usable = |open: &Open| open.connection.status().connected() && open.channel.status().connected();
        if self.open.as_ref().is_some_and(usable) {
            return Ok(());
        }
        self.open = None;
        let mut waits = backoff().build();
        loop {
            let error = match tokio::time::timeout_at(deadline, self.open_channel()).await {
                Ok(Ok(open)) => {
                    self.open = Some(open);
                    return Ok(());
                }
                Ok(Err(error)) => error,
                Err(_) if self.link.blocked() => return Err(self.unconfirmed(BLOCKED)),
                Err(_) => return Err(self.unconfirmed("no connection in time; nothing of it was sent")),
            };
            let wait = waits.next().unwrap_or(PAUSE_MAX);
            if !error.is_transient() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.closed.cancelled() => return Err(BrokerError::Closed),
            }
        }
    }

    async fn open_channel(&self) -> Result<Open, BrokerError> {
        let (connection, channel) = self.link.channel().await?;
        match within(self.reply_timeout, channel.confirm_select(ConfirmSelectOptions::default())).await {
            Ok(()) => Ok(Open { connection, channel }),
            Err(failure) => Err(BrokerError::Unreachable { url: self.link.shown(), reason: failure.words() }),
        }
    }

    /// Writes a group, a window at a time; the first error of each request.
    async fn write(&mut self, group: &[Request]) -> Vec<Option<BrokerError>> {
        let mut errors: Vec<Option<BrokerError>> = vec![None; group.len()];
        let all: Vec<(usize, &Frame)> = group
            .iter()
            .enumerate()
            .flat_map(|(index, request)| request.frames.iter().map(move |frame| (index, frame)))
            .collect();
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let (window, later) = rest.split_at(window_length(rest, self.window));
            rest = later;
            let frames: Vec<(usize, &Frame)> =
                window.iter().filter(|(request, _)| errors[*request].is_none()).copied().collect();
            let Some(open) = &self.open else {
                // The channel broke in an earlier window.
                for (request, _) in frames {
                    errors[request]
                        .get_or_insert_with(|| self.unconfirmed("the connection broke in the middle of it"));
                }
                continue;
            };
            let (outcomes, returned) = exchange(&open.channel, &frames, self.timeout).await;
            let broken = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed(_)));
            let silent = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Pending));
            let blocked = open.connection.status().blocked();
            for ((request, frame), outcome) in frames.into_iter().zip(outcomes) {
                if let Err(error) = self.judge(frame, outcome, &returned, broken, blocked) {
                    errors[request].get_or_insert(error);
                }
            }
            if silent && !broken && !blocked {
                tracing::warn!(lane = ?self.purpose, "confirms do not come; going on with another channel");
            }
            if broken || silent {
                // Late confirms must not meet later messages: what this channel still owes is given up.
                self.open = None;
            }
        }
        errors
    }

    /// The error of one frame, if any.
    fn judge(
        &self,
        frame: &Frame,
        outcome: Outcome,
        returned: &[Returned],
        broken: bool,
        blocked: bool,
    ) -> Result<(), BrokerError> {
        let target = || frame.routing_key.to_string();
        let same = |found: &&Returned| {
            found.exchange == frame.exchange.as_str() && found.routing_key == frame.routing_key.as_str()
        };
        let verdict = match outcome {
            Outcome::Confirmed if !frame.mandatory => Ok(()),
            Outcome::Confirmed => match returned.iter().find(same) {
                Some(found) => {
                    Err(BrokerError::Unroutable { target: target(), reason: found.reason.clone() })
                }
                // Its return may be among what the broken channel did not deliver.
                None if broken => {
                    Err(self.unconfirmed("the connection broke before all of it was confirmed"))
                }
                None => Ok(()),
            },
            Outcome::Refused => Err(BrokerError::Rejected {
                target: target(),
                reason: "the queue is full or cannot store it now".to_owned(),
            }),
            Outcome::Pending if blocked => Err(self.unconfirmed(BLOCKED)),
            Outcome::Pending => {
                Err(self.unconfirmed(&format!("no confirm within {} s", self.timeout.as_secs_f32())))
            }
            Outcome::Failed(error) => Err(self.broken(frame, &error)),
        };
        match verdict {
            Err(BrokerError::AccessRefused { reason, .. } | BrokerError::Unroutable { reason, .. })
                if self.purpose == Purpose::Replies =>
            {
                tracing::warn!(reply_to = target(), reason, "reply dropped");
                Ok(())
            }
            verdict => verdict,
        }
    }

    /// The channel broke. The server names the exchange that it broke for; the other messages are innocent.
    fn broken(&self, frame: &Frame, error: &lapin::Error) -> BrokerError {
        let reason = words(error);
        let exchange =
            if frame.exchange.as_str().is_empty() { "amq.default" } else { frame.exchange.as_str() };
        let is_culprit = reason.contains(&format!("exchange '{exchange}'"));
        match reply_code(error) {
            Some(ACCESS_REFUSED) if is_culprit => BrokerError::AccessRefused {
                what: format!("publishing to {exchange}"),
                reason: format!("{reason}; grant the user write permission on it"),
            },
            Some(NOT_FOUND) if is_culprit => BrokerError::Unroutable {
                target: frame.routing_key.to_string(),
                reason: format!("{reason}; `gleitzeit topology apply` creates it"),
            },
            Some(_) | None => self.unconfirmed(&reason),
        }
    }

    fn unconfirmed(&self, reason: &str) -> BrokerError {
        let what = match self.purpose {
            Purpose::Messages => "a message",
            Purpose::Replies => "a reply",
        };
        BrokerError::Unconfirmed { what: what.to_owned(), reason: reason.to_owned() }
    }
}

fn answer(request: Request, result: Result<(), BrokerError>) {
    // Whoever asked may have gone; then nobody needs the answer.
    let _ = request.answer.send(result);
}

/// How many of `frames` may be in flight together.
fn window_length(frames: &[(usize, &Frame)], window: usize) -> usize {
    let mut bytes = 0;
    let fits = |(_, frame): &&(usize, &Frame)| {
        bytes += frame.body.len();
        bytes <= GROUP_BYTES_MAX
    };
    frames.iter().take(window).take_while(fits).count().max(1)
}

/// Writes `frames` in order and waits for what the server says of each.
async fn exchange(
    channel: &Channel,
    frames: &[(usize, &Frame)],
    timeout: Duration,
) -> (Vec<Outcome>, Vec<Returned>) {
    let mut outcomes: Vec<Outcome> = frames.iter().map(|_| Outcome::Pending).collect();
    let mut returned = Vec::new();
    // Polled first in the order of insertion, and a frame is queued for writing at its first poll.
    let mut answers: FuturesUnordered<_> = frames
        .iter()
        .enumerate()
        .map(|(index, (_, frame))| async move { (index, write_one(channel, frame).await) })
        .collect();
    let deadline = Instant::now() + timeout;
    while let Ok(Some((index, answer))) = tokio::time::timeout_at(deadline, answers.next()).await {
        outcomes[index] = match answer {
            Ok(Confirmation::Ack(back)) => {
                returned.extend(back.map(returned_message));
                Outcome::Confirmed
            }
            Ok(Confirmation::Nack(back)) => {
                returned.extend(back.map(returned_message));
                Outcome::Refused
            }
            // Only on a channel without confirms, which ours never is: no promise can be made.
            Ok(Confirmation::NotRequested) => Outcome::Pending,
            Err(error) => Outcome::Failed(error),
        };
    }
    (outcomes, returned)
}

#[allow(clippy::disallowed_methods, reason = "this is the publish that all others go through")]
async fn write_one(channel: &Channel, frame: &Frame) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: frame.mandatory, immediate: false };
    let (exchange, routing_key) = (frame.exchange.clone(), frame.routing_key.clone());
    let properties = frame.properties.clone();
    channel.basic_publish(exchange, routing_key, options, &frame.body, properties).await?.await
}

fn returned_message(message: lapin::message::BasicReturnMessage) -> Returned {
    Returned {
        exchange: message.delivery.exchange.to_string(),
        routing_key: message.delivery.routing_key.to_string(),
        reason: format!("{} {}", message.reply_code, message.reply_text),
    }
}

/// Sends without a confirm on a channel of its own, and closes it in order: an error of the server comes
/// before its answer to that.
#[allow(clippy::disallowed_methods, reason = "for replies and broadcasts, whose receiver may be gone")]
pub(super) async fn send_unconfirmed(
    link: &Link,
    frame: &Frame,
    what: &str,
    timeout: Duration,
) -> Result<(), BrokerError> {
    let (connection, channel) = link.channel().await?;
    let options = BasicPublishOptions::default();
    let (exchange, routing_key) = (frame.exchange.clone(), frame.routing_key.clone());
    let properties = frame.properties.clone();
    let sent = async {
        channel.basic_publish(exchange, routing_key, options, &frame.body, properties).await?;
        channel.close(200, "sent".into()).await
    };
    within(timeout, sent).await.map_err(|failure| {
        if connection.status().blocked() {
            return BrokerError::Unconfirmed { what: what.to_owned(), reason: BLOCKED.to_owned() };
        }
        failure.of(what, "grant the user write permission on it")
    })
}
