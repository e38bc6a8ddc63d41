//! Broadcasts: what must reach running tasks at once.
//!
//! A broadcast changes nothing and is believed by nobody: the state is recorded before it is sent. It only says
//! where to look, and the store says whether the lease of what runs here still holds. So one that comes late, or
//! twice, stops nothing that a retry has begun meanwhile; and one that was missed is made up for by a look at
//! everything, as soon as the listener says that it may have missed some.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::patience::{Stop, insist};
use super::running::Entered;
use crate::broker::Heard;
use crate::core::id::{Id, TaskKey};
use crate::core::state::TaskState;
use crate::store::Fence;

/// Tells workers that leases under this root are void.
pub(super) fn cancelled(root: &Id) -> Bytes {
    json!({"type": "cancel", "id": root}).to_string().into()
}

impl Shared {
    /// Does what a broadcast asks for, or makes up for those that were missed.
    pub(super) async fn heard(&self, heard: &Heard) {
        let root = match heard {
            Heard::Gap => None,
            Heard::Broadcast(body) => match root_of(body) {
                Some(root) => Some(root),
                None => {
                    tracing::debug!("a broadcast of an unknown kind is ignored");
                    return;
                }
            },
        };
        for (key, cancel) in self.running.doubt(root.as_ref()) {
            // Stopped while the store is away: whoever runs it stops too.
            if self.look(&key, &cancel).await.is_err() {
                return;
            }
        }
    }

    /// From here on the task runs under a lease. If somebody has asked for a look before there was one to look
    /// at, it is made now.
    pub(super) async fn begin(
        &self,
        entered: &Entered<'_>,
        lease: Fence,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        if entered.took_lease(lease) {
            self.look(entered.key(), cancel).await?;
        }
        Ok(())
    }

    /// Stops what runs here without a lease that holds.
    async fn look(&self, key: &TaskKey, cancel: &CancellationToken) -> Result<(), Stop> {
        let record = insist(&self.abort, "task", || self.parts.store.task(key)).await?;
        // One delivery of a task is dealt with here at a time, so a lease of this session is that one's.
        let holds = record.is_some_and(|task| {
            task.state == TaskState::Running && task.session.as_ref() == Some(&self.session)
        });
        if !holds {
            tracing::info!(task = %key, "its lease is void: cancelling what runs here");
            cancel.cancel();
        }
        Ok(())
    }
}

/// The root that a broadcast is about.
fn root_of(body: &[u8]) -> Option<Id> {
    let message: Value = serde_json::from_slice(body).ok()?;
    let field = |name: &str| message.get(name).and_then(Value::as_str);
    field("type").filter(|kind| *kind == "cancel")?;
    Id::parse(field("id")?).ok()
}
