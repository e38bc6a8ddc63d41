//! Broadcasts: what must reach running tasks at once, and orders about providers (`orders`).
//!
//! A cancel that is broadcast changes nothing and is believed by nobody: the state is recorded before it is sent. It only says
//! where to look, and the store says whether the lease of what runs here still holds. So one that comes late, or
//! twice, stops nothing that a retry has begun meanwhile; and one that was missed is made up for by a look at
//! everything, as soon as the listener says that it may have missed some.

use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::patience::{Stop, insist};
use super::running::Entered;
use crate::broker::{Heard, Listener};
use crate::core::id::{Id, TaskKey};
use crate::core::state::TaskState;
use crate::store::Fence;
use crate::wire::control::{self, Control};

impl Shared {
    /// Listens until `stop` fires.
    pub(super) async fn listen(self: Arc<Shared>, mut listener: Box<dyn Listener>, stop: CancellationToken) {
        let listening = async {
            while let Some(heard) = listener.next().await {
                self.heard(&heard).await;
            }
        };
        stop.run_until_cancelled(listening).await;
    }

    /// Does what a broadcast asks for, or makes up for those that were missed. What must not be missed is sent again by
    /// who waits for the answer.
    async fn heard(self: &Arc<Shared>, heard: &Heard) {
        match heard {
            Heard::Gap => self.doubt(None).await,
            Heard::Broadcast(body) => match control::decode(body) {
                Ok(Control::Cancel(root)) => self.doubt(Some(&root)).await,
                Ok(Control::Order(order)) => self.take_order(order),
                Ok(Control::Answer(_)) => {}
                Ok(Control::Unknown) => tracing::debug!("a broadcast of an unknown kind is ignored"),
                Err(refused) => self.refuse_order(*refused),
            },
        }
    }

    /// Looks whether what runs here under this root still may; all of it without a root.
    async fn doubt(&self, root: Option<&Id>) {
        for (key, cancel) in self.running.doubt(root) {
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
