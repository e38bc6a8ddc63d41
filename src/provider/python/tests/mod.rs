//! `python/v1` with real interpreters.

mod dialects;
mod ends;
mod results;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Python, Settings};
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::provider::{CallCx, Provider};

/// Any `python3` that the machine has; without packages, as those of a developer's machine take time to load.
fn settings() -> Settings {
    #[allow(clippy::disallowed_methods, reason = "the machine's python3, wherever it is")]
    let search_path = std::env::var_os("PATH").expect("a search path");
    Settings { search_path, site: false, ..Settings::default() }
}

async fn started(settings: Settings) -> Python {
    let python = Python::new(settings);
    python.start().await.expect("a python3 on the search path");
    python
}

fn cx() -> CallCx {
    CallCx {
        key: TaskKey::alone(Id::parse("t").expect("an id")),
        attempt: 1,
        timeout: Duration::from_secs(60),
        cancel: CancellationToken::new(),
        traceparent: None,
        priority: crate::core::priority::Priority::NORMAL,
        output: Default::default(),
    }
}

async fn execute(python: &Python, params: Value) -> Result<Value, Failure> {
    python.call(&cx(), "execute", params).await.map(|answer| answer.result)
}

async fn failure(python: &Python, params: Value) -> Failure {
    let shown = params.to_string();
    execute(python, params).await.expect_err(&shown)
}

fn code(text: &str) -> Value {
    json!({"code": text})
}

/// Waits for what another process does; the bound is only for the case that it never happens.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The process numbers that processes wrote into a file, a line each.
fn pids(file: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
}

/// Whether a process runs; one that is dead and not yet reaped does not.
fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X"))
}
