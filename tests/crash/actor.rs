//! Who runs the calls: `echo/v1`, which plays what the text of a `ping` asks for.

use async_trait::async_trait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::protocol::ProtocolId;
use gleitzeit::provider::echo::Echo;
use gleitzeit::provider::{Answer, CallCx, Provider};

use crate::tally::Tally;

/// Fails as long as the scene is not mended.
pub(crate) const BROKEN: &str = "as long as it is not mended it fails";
/// Runs until a guard stands for its delivery.
pub(crate) const LONG: &str = "it runs until it is guarded";
/// Runs for ever while the scene says so.
pub(crate) const ENDLESS: &str = "while it may not end it runs";
/// Kills its worker.
pub(crate) const POISON: &str = "it kills its worker";
/// Fails before the attempt whose number follows.
pub(crate) const FAILS_UNTIL: &str = "it fails until attempt ";

/// What is the same for all processes of a play.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    pub(crate) is_mended: AtomicBool,
    pub(crate) is_endless: AtomicBool,
    /// How often each task was called.
    pub(crate) calls: Mutex<BTreeMap<String, u32>>,
}

/// What is one process's own.
#[derive(Debug)]
pub(crate) struct Cues {
    /// What processes before it had taken and not settled.
    left: u32,
    /// An endless call runs.
    pub(crate) runs: Notify,
    /// The process is to die.
    pub(crate) poisoned: Notify,
}

impl Cues {
    pub(crate) fn new(tally: &Tally) -> Cues {
        Cues { left: unsettled(tally), runs: Notify::new(), poisoned: Notify::new() }
    }

    /// How many deliveries the process has taken and not settled.
    fn held(&self, tally: &Tally) -> u32 {
        unsettled(tally) - self.left
    }
}

fn unsettled(tally: &Tally) -> u32 {
    tally.done("worker", "Consumer::next") - tally.done("worker", "Receipt::settle")
}

#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) echo: Echo,
    pub(crate) scene: Arc<Scene>,
    pub(crate) cues: Arc<Cues>,
    pub(crate) tally: Arc<Tally>,
}

#[async_trait]
impl Provider for Actor {
    fn name(&self) -> &str {
        "actor"
    }

    fn protocol(&self) -> &ProtocolId {
        self.echo.protocol()
    }

    fn serves(&self, method: &str) -> bool {
        self.echo.serves(method)
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        *self.scene.calls.lock().expect("nobody panics with it").entry(cx.key.to_string()).or_default() += 1;
        let text = params.get("message").and_then(Value::as_str).unwrap_or_default();
        let failed = |text: &str| Err(Failure::new(Code::TaskExecutionFailed, text));
        match text {
            BROKEN if !self.scene.is_mended.load(Ordering::SeqCst) => return failed("it is broken"),
            LONG => self.guarded().await,
            ENDLESS if self.scene.is_endless.load(Ordering::SeqCst) => {
                self.cues.runs.notify_one();
                cx.cancel.cancelled().await;
                return Err(Failure::new(Code::TaskCancelled, "it was told to stop"));
            }
            POISON => {
                self.cues.poisoned.notify_one();
                std::future::pending::<()>().await;
            }
            text => {
                let until: Option<u32> = text.strip_prefix(FAILS_UNTIL).and_then(|text| text.parse().ok());
                if until.is_some_and(|until| cx.attempt < until) {
                    return failed("not yet");
                }
            }
        }
        self.echo.call(cx, method, params).await
    }
}

impl Actor {
    /// One delivery is dealt with at a time, so this call's is settled when as many are as have come.
    async fn guarded(&self) {
        while self.cues.held(&self.tally) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
