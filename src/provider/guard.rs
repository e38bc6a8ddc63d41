//! A guard around a provider is a provider: it ends what takes too long, and survives what panics.
//!
//! ```text
//! call ─▶ permit ─▶ the provider, in a task of its own
//!                      │ deadline or cancellation: the provider's token fires
//!                      ▼ up to `grace`
//!                   its answer (with its partial output), else abandoned: the task is aborted
//! ```

use std::any::Any;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::Instrument;

use super::{Answer, CallCx, Health, PoolStanding, Provider, Stock};
use crate::core::breaker::Ending;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;

/// A deadline for calls without a sensible one; far enough to be none.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// The detail of a failure that no permit came free: how many calls may run at once.
const PERMITS: &str = "permits";

/// How a guard works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a provider may take to come back after its cancel token fired, before it is abandoned.
    pub grace: Duration,
    /// How many calls may run at once; `None`: any number. Waiting for a permit counts towards the time limit.
    pub permits: Option<NonZeroUsize>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { grace: Duration::from_secs(2), permits: None }
    }
}

/// The policies around one provider: time limit, permits, panic.
#[derive(Debug)]
pub struct Guard {
    provider: Arc<dyn Provider>,
    grace: Duration,
    /// And how many there are.
    permits: Option<(Arc<Semaphore>, usize)>,
    calls: TaskTracker,
}

/// Why a call must end.
#[derive(Debug, Clone, Copy)]
enum Cause {
    TimedOut(Duration),
    Cancelled,
}

impl Guard {
    /// Puts a guard around `provider`.
    #[must_use]
    pub fn new(provider: Arc<dyn Provider>, settings: &Settings) -> Guard {
        let permits = settings.permits.map(|count| count.get().min(Semaphore::MAX_PERMITS));
        Guard {
            provider,
            grace: settings.grace,
            permits: permits.map(|count| (Arc::new(Semaphore::new(count)), count)),
            calls: TaskTracker::new(),
        }
    }

    /// Waits for a permit, up to the deadline. A call that fails here surely did not start.
    async fn permit(&self, cx: &CallCx, deadline: Instant) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let Some((permits, count)) = &self.permits else { return Ok(None) };
        let count = *count;
        tokio::select! {
            biased;
            () = cx.cancel.cancelled() => Err(Cause::Cancelled.failure("while it waited for its turn")),
            // The semaphore is never closed.
            permit = Arc::clone(permits).acquire_owned() => Ok(permit.ok()),
            () = sleep_until(deadline) => {
                let name = self.provider.name();
                let message = format!("provider {name} had no room within {} s", cx.timeout.as_secs_f64());
                Err(Failure::new(Code::ProviderOverloaded, message).with(PERMITS, count).not_begun())
            }
        }
    }

    /// Runs the call in a task of its own, so that a panic or a blocked thread stays there.
    fn start_call(
        &self,
        cx: CallCx,
        method: &str,
        params: Value,
    ) -> AbortOnDropHandle<Result<Answer, Failure>> {
        let provider = Arc::clone(&self.provider);
        let method = method.to_owned();
        let call = async move { provider.call(&cx, &method, params).await };
        AbortOnDropHandle::new(self.calls.spawn(call.in_current_span()))
    }

    fn read_end(&self, ended: Result<Result<Answer, Failure>, JoinError>) -> Result<Answer, Failure> {
        let error = match ended {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        let name = self.provider.name();
        match error.try_into_panic() {
            Ok(panic) => {
                let message = format!("provider {name} panicked: {}", panic_text(panic.as_ref()));
                Err(Failure::new(Code::InternalError, message))
            }
            Err(_) => {
                Err(Failure::new(Code::SystemShutdown, format!("provider {name}: the worker is ending")))
            }
        }
    }
}

#[async_trait]
impl Provider for Guard {
    fn name(&self) -> &str {
        self.provider.name()
    }

    fn protocol(&self) -> &ProtocolId {
        self.provider.protocol()
    }

    fn serves(&self, method: &str) -> bool {
        self.provider.serves(method)
    }

    fn passes_on(&self, method: &str, params: &Value) -> Option<(String, Value)> {
        self.provider.passes_on(method, params)
    }

    async fn start(&self) -> Result<(), Failure> {
        self.calls.reopen();
        self.provider.start().await
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let deadline = Instant::now() + cx.timeout.min(FOREVER);
        let _permit = self.permit(cx, deadline).await?;
        let cancel = cx.cancel.child_token();
        // A caller who goes away cancels as well.
        let _cancel_on_drop = cancel.clone().drop_guard();
        let left = deadline.saturating_duration_since(Instant::now());
        let inner = CallCx { cancel: cancel.clone(), timeout: left, ..cx.clone() };
        let mut call = self.start_call(inner, method, params);
        let cause = tokio::select! {
            biased;
            ended = &mut call => return self.read_end(ended),
            () = cx.cancel.cancelled() => Cause::Cancelled,
            () = sleep_until(deadline) => Cause::TimedOut(cx.timeout),
        };
        cancel.cancel();
        match timeout(self.grace, &mut call).await {
            Ok(ended) => self.read_end(ended).map_err(|failure| cause.explain(failure)),
            Err(_) => {
                let name = self.provider.name();
                tracing::warn!(provider = name, %method, "the provider did not obey its cancellation, abandoned");
                Err(cause.failure("and the provider did not stop").with("abandoned", true))
            }
        }
    }

    /// That too many wait here is nothing that the provider does.
    fn tells(&self, failure: &Failure) -> Ending {
        if failure.details.contains_key(PERMITS) { Ending::Untold } else { self.provider.tells(failure) }
    }

    fn stock(&self, model: &str) -> Stock {
        self.provider.stock(model)
    }

    async fn health(&self) -> Health {
        self.provider.health().await
    }

    fn pool(&self) -> Option<PoolStanding> {
        self.provider.pool()
    }

    fn scale(&self, min: u32, max: u32) -> bool {
        self.provider.scale(min, max)
    }

    async fn renew(&self) -> Result<bool, Failure> {
        self.provider.renew().await
    }

    async fn stop(&self) {
        self.provider.stop().await;
        self.calls.close();
        if timeout(self.grace, self.calls.wait()).await.is_err() {
            let (provider, left) = (self.provider.name(), self.calls.len());
            tracing::warn!(provider, left, "calls still run after the provider stopped");
        }
    }
}

impl Cause {
    fn failure(self, how: &str) -> Failure {
        match self {
            Cause::TimedOut(limit) => {
                let message = format!("the task took longer than {} s {how}", limit.as_secs_f64());
                Failure::new(Code::TaskTimeout, message.trim_end()).with("timeout", limit.as_secs_f64())
            }
            Cause::Cancelled => {
                Failure::new(Code::TaskCancelled, format!("the call was cancelled {how}").trim_end())
            }
        }
    }

    /// A provider that was told to stop fails in its own words; what counts is why it was told, and what it
    /// kept in the details. What found no room before its time was over says so itself; what only says that it was told
    /// to stop does not know that it was the deadline.
    fn explain(self, mut failure: Failure) -> Failure {
        let is_told = failure.not_begun && failure.code != Code::TaskCancelled;
        if is_told && matches!(self, Cause::TimedOut(_)) {
            return failure;
        }
        let told = self.failure("");
        failure.details.extend(told.details);
        Failure { code: told.code, message: told.message, retryable: told.retryable, ..failure }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::core::id::{Id, TaskKey};

    /// Behaves as its method says, and counts how many calls run at once.
    #[derive(Debug, Default)]
    struct Scripted {
        running: AtomicUsize,
        running_max: AtomicUsize,
    }

    #[async_trait]
    impl Provider for Arc<Scripted> {
        fn name(&self) -> &str {
            "scripted"
        }
        fn protocol(&self) -> &ProtocolId {
            unreachable!("nobody asks")
        }
        fn serves(&self, _: &str) -> bool {
            true
        }
        async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
            let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.running_max.fetch_max(now, Ordering::SeqCst);
            let _running = Running(self);
            match method {
                "answer" => Ok(params.into()),
                "panic" => panic!("out of cheese"),
                "sleep" => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Ok(params.into())
                }
                "obey" => {
                    cx.cancel.cancelled().await;
                    Err(Failure::new(Code::TaskCancelled, "stopped").with("stdout", "half"))
                }
                "unbegun" => {
                    cx.cancel.cancelled().await;
                    Err(Failure::new(Code::TaskCancelled, "stopped").not_begun())
                }
                "ignore" => std::future::pending().await,
                _ => Err(Failure::new(Code::InvalidParams, "no such method")),
            }
        }
    }

    struct Running<'a>(&'a Scripted);

    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.running.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn guard(permits: usize) -> (Arc<Scripted>, Guard) {
        let inner = Arc::new(Scripted::default());
        let settings = Settings { permits: NonZeroUsize::new(permits), ..Settings::default() };
        (Arc::clone(&inner), Guard::new(Arc::new(inner), &settings))
    }

    fn cx(seconds: u64) -> CallCx {
        CallCx {
            key: TaskKey::alone(Id::parse("t").expect("an id")),
            attempt: 1,
            timeout: Duration::from_secs(seconds),
            cancel: CancellationToken::new(),
            traceparent: None,
            priority: crate::core::priority::Priority::NORMAL,
            output: Default::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_and_failures_pass_through() {
        let (_, guard) = guard(0);
        assert_eq!(guard.call(&cx(5), "answer", 1.into()).await, Ok(Value::from(1).into()));
        let failure = guard.call(&cx(5), "other", 1.into()).await.expect_err("no such method");
        assert_eq!(failure.code, Code::InvalidParams);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure() {
        let (inner, guard) = guard(1);
        for _ in 0..2 {
            let failure = guard.call(&cx(5), "panic", Value::Null).await.expect_err("it panics");
            assert_eq!(failure.code, Code::InternalError);
            assert_eq!(failure.message, "provider scripted panicked: out of cheese");
        }
        assert_eq!(inner.running.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_keeps_what_the_provider_had() {
        let (_, guard) = guard(0);
        let begun = Instant::now();
        let failure = guard.call(&cx(5), "obey", Value::Null).await.expect_err("too slow");
        assert_eq!((failure.code, failure.retryable), (Code::TaskTimeout, true));
        assert_eq!(failure.message, "the task took longer than 5 s");
        assert_eq!(failure.details["stdout"], "half");
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_no_cancellation_even_where_nothing_had_begun() {
        let (_, guard) = guard(0);
        let failure = guard.call(&cx(5), "unbegun", Value::Null).await.expect_err("too slow");
        assert_eq!((failure.code, failure.retryable, failure.not_begun), (Code::TaskTimeout, true, true));
        assert_eq!(failure.message, "the task took longer than 5 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_does_not_stop_is_abandoned() {
        let (inner, guard) = guard(0);
        let begun = Instant::now();
        let failure = guard.call(&cx(5), "ignore", Value::Null).await.expect_err("too slow");
        assert_eq!((failure.code, &failure.details["abandoned"]), (Code::TaskTimeout, &Value::Bool(true)));
        assert_eq!(begun.elapsed().as_secs(), 7);
        guard.stop().await;
        assert_eq!(inner.running.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_call_is_cancelled_and_not_timed_out() {
        let (_, guard) = guard(0);
        for method in ["obey", "ignore"] {
            let cx = cx(5);
            cx.cancel.cancel();
            let failure = guard.call(&cx, method, Value::Null).await.expect_err("cancelled");
            assert_eq!(failure.code, Code::TaskCancelled, "{method}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn permits_bound_what_runs_at_once() {
        let (inner, guard) = guard(2);
        let call = || async { guard.call(&cx(60), "sleep", Value::Null).await };
        let answers = futures_util::future::join_all((0..7).map(|_| call())).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(inner.running_max.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_permit_ends_at_the_deadline() {
        let (_, guard) = guard(1);
        let patient = cx(60);
        let hurried = cx(1);
        let (first, second) = tokio::join!(guard.call(&patient, "obey", Value::Null), async {
            let second = guard.call(&hurried, "answer", Value::Null).await;
            patient.cancel.cancel();
            second
        },);
        assert_eq!(first.expect_err("cancelled").code, Code::TaskCancelled);
        let failure = second.expect_err("no room");
        assert_eq!((failure.code, failure.retryable), (Code::ProviderOverloaded, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_goes_away_leaves_nothing_running() {
        let (inner, guard) = guard(0);
        let cx = cx(60);
        {
            let call = guard.call(&cx, "ignore", Value::Null);
            assert!(timeout(Duration::from_millis(10), call).await.is_err());
        }
        guard.stop().await;
        assert_eq!(inner.running.load(Ordering::SeqCst), 0);
    }
}
