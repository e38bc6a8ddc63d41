//! Processes as members of a pool: how one is made ready.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::child::Child;
use super::describe::Described;
use super::message;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;
use crate::provider::pool::Maker;
use crate::provider::process::{Confined, group_bytes};

/// The longest secret that is read from a file, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Makes processes of one provider.
#[derive(Debug)]
pub(super) struct Processes {
    pub(super) name: String,
    pub(super) protocol: ProtocolId,
    pub(super) confined: Confined,
    /// Variables and the files that hold their values, read at each start.
    pub(super) secrets: Vec<(String, PathBuf)>,
    pub(super) start_timeout: Duration,
    pub(super) line_bytes_max: usize,
    /// What the last one that started has said of itself.
    pub(super) described: Arc<Mutex<Described>>,
    pub(super) tasks: TaskTracker,
}

impl Processes {
    /// Introduces us to a process that has just begun.
    async fn introduce(&self, child: &Child) -> Result<Described, Failure> {
        let params = message::introduction(&self.name, &self.protocol);
        let answer = timeout(self.start_timeout, child.request(message::INITIALIZE, &params, None)).await;
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(Described::read(&answer)),
            Ok(Err(failure)) => failure,
            Err(_) => {
                let seconds = self.start_timeout.as_secs_f64();
                let message = format!("it did not answer {} within {seconds} s", message::INITIALIZE);
                Failure::new(Code::ProviderTimeout, message)
            }
        };
        let message = format!("provider {} could not start: {}", self.name, failure.message);
        let printed = child.printed();
        let told = Failure { code: Code::ProviderInitializationFailed, message, retryable: true, ..failure };
        Err(if printed.is_empty() { told } else { told.with("stderr", printed) })
    }
}

#[async_trait]
impl Maker for Processes {
    type Member = Child;

    async fn start(&self) -> Result<Child, Failure> {
        let secrets = read_secrets(&self.name, &self.secrets).await?;
        let child = Child::start(&self.name, &self.confined, secrets, self.line_bytes_max, &self.tasks).await;
        let child = child.map_err(|error| {
            let message = format!("provider {} could not start: {error}", self.name);
            Failure::new(Code::ProviderInitializationFailed, message)
        })?;
        let described = self.introduce(&child).await?;
        *self.described.lock().unwrap_or_else(PoisonError::into_inner) = described;
        Ok(child)
    }

    async fn ended(&self, child: &Child) -> String {
        child.ended().await
    }

    fn has_ended(&self, child: &Child) -> bool {
        child.has_ended()
    }

    async fn stop(&self, child: &Child) {
        child.stop().await;
    }

    async fn held(&self, children: &[Arc<Child>]) -> Vec<Option<u64>> {
        let groups: Vec<i32> = children.iter().map(|child| child.group).collect();
        let asked = groups.clone();
        // Reading /proc blocks for some milliseconds.
        let held = self.tasks.spawn_blocking(move || group_bytes(&asked)).await.unwrap_or_default();
        groups.iter().map(|group| held.get(group).copied()).collect()
    }
}

/// The values of variables that are kept in files, as they are now.
///
/// # Errors
/// `FILE_UNREADABLE`.
pub(in crate::provider) async fn read_secrets(
    provider: &str,
    secrets: &[(String, PathBuf)],
) -> Result<Vec<(String, String)>, Failure> {
    let mut read = Vec::new();
    for (name, path) in secrets {
        read.push((name.clone(), read_secret(provider, name, path).await?));
    }
    Ok(read)
}

/// What the file holds, without the end of its last line.
///
/// # Errors
/// `FILE_UNREADABLE`.
pub(in crate::provider) async fn read_secret(
    provider: &str,
    name: &str,
    path: &Path,
) -> Result<String, Failure> {
    let unreadable = |why: String| {
        let message = format!("provider {provider}: {} for {name} {why}", path.display());
        Failure::new(Code::FileUnreadable, message)
    };
    let found = tokio::fs::metadata(path).await.map_err(|error| unreadable(error.to_string()))?;
    // A pipe or a device may have no end.
    if !found.is_file() {
        return Err(unreadable("is no file".to_owned()));
    }
    if found.len() > SECRET_BYTES_MAX {
        return Err(unreadable(format!("has more than {SECRET_BYTES_MAX} bytes")));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(|error| unreadable(error.to_string()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
