//! Where a process dies: before or after any call of a port.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio_util::sync::CancellationToken;

/// Before or after the effect of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// Decides at which point a process dies.
pub(crate) trait Fate: fmt::Debug + Send + Sync {
    /// A call begins: its number among those of the same name, from 1.
    fn begins(&self, _call: &'static str) -> u32 {
        1
    }

    /// Whether the process dies here.
    fn falls(&self, call: &'static str, nth: u32, moment: Moment) -> bool;
}

/// What a process's calls go through. Once it has died no call is made, and none answers, any more.
#[derive(Debug)]
pub(crate) struct Gate {
    fate: Arc<dyn Fate>,
    died: CancellationToken,
}

impl Gate {
    /// A gate that closes after so many points; `None` for never.
    pub(crate) fn new(points: Option<u32>) -> Arc<Gate> {
        Gate::of(Arc::new(Countdown(AtomicI64::new(points.map_or(i64::MAX, i64::from)))))
    }

    /// A gate that closes when its fate falls.
    pub(crate) fn of(fate: Arc<dyn Fate>) -> Arc<Gate> {
        Arc::new(Gate { fate, died: CancellationToken::new() })
    }

    /// Makes the call, unless the process dies before it; answers, unless it dies after it.
    pub(crate) async fn through<T>(&self, call: &'static str, effect: impl Future<Output = T> + Send) -> T {
        let nth = self.before(call).await;
        let answer = effect.await;
        self.after(call, nth).await;
        answer
    }

    /// A call whose effect comes from elsewhere: only what is after it is a point.
    pub(crate) async fn came(&self, call: &'static str) {
        let nth = if self.died.is_cancelled() { 0 } else { self.fate.begins(call) };
        self.after(call, nth).await;
    }

    /// The point before a call; the call's number among those of its name.
    pub(crate) async fn before(&self, call: &'static str) -> u32 {
        if self.died.is_cancelled() {
            std::future::pending::<()>().await;
        }
        let nth = self.fate.begins(call);
        self.point(call, nth, Moment::Before).await;
        nth
    }

    /// The point after it.
    pub(crate) async fn after(&self, call: &'static str, nth: u32) {
        self.point(call, nth, Moment::After).await;
    }

    async fn point(&self, call: &'static str, nth: u32, moment: Moment) {
        if self.died.is_cancelled() || self.fate.falls(call, nth, moment) {
            self.died.cancel();
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the process's death.
    pub(crate) async fn death(&self) {
        self.died.cancelled().await;
    }
}

/// Dies at the point after so many.
#[derive(Debug)]
struct Countdown(AtomicI64);

impl Fate for Countdown {
    fn falls(&self, _: &'static str, _: u32, _: Moment) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) <= 0
    }
}
