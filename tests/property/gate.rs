//! Where a worker dies: before or after any call of a port.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio_util::sync::CancellationToken;

/// Counts the points that a worker passes; at the last one it dies: no call is made, and none answers, any more.
#[derive(Debug)]
pub(crate) struct Gate {
    left: AtomicI64,
    died: CancellationToken,
}

impl Gate {
    /// A gate that closes after so many points; `None` for never.
    pub(crate) fn new(points: Option<u32>) -> Arc<Gate> {
        let left = AtomicI64::new(points.map_or(i64::MAX, i64::from));
        Arc::new(Gate { left, died: CancellationToken::new() })
    }

    /// Makes the call, unless the worker dies before it; answers, unless it dies after it.
    pub(crate) async fn through<T>(&self, call: impl Future<Output = T> + Send) -> T {
        self.point().await;
        let answer = call.await;
        self.point().await;
        answer
    }

    /// One point.
    pub(crate) async fn point(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.died.cancel();
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the worker's death.
    pub(crate) async fn death(&self) {
        self.died.cancelled().await;
    }
}
