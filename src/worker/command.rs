//! Commands: what changes tasks and workflows without being one. A repeat of any changes nothing.

use super::Shared;
use super::patience::{Stop, insist};
use crate::broker::{Outgoing, Properties, Target};
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Cancelled, Retried, Why};
use crate::topology::Queue;
use crate::wire::HEADER_ROOT;
use crate::wire::command::Command;
use crate::wire::control;
use crate::wire::event::Event;
use crate::wire::task::Reply;

impl Shared {
    /// Carries a command out.
    pub(super) async fn command(&self, command: &Command) -> Result<(), Stop> {
        match command {
            Command::Cancel { id, by } => self.end(id, &Why::Request { by: by.clone() }).await,
            Command::Timeout { id, run } => self.end(id, &Why::Timeout { run: *run }).await,
            Command::Retry { id, by: Some(by) } => self.retry(id, by).await,
            Command::Retry { id, by: None } => {
                // Published again under a name of its own, so that a redelivery is known as the same request.
                let command = Command::Retry { id: id.clone(), by: Some(self.parts.clock.new_id()) };
                let headers = [(HEADER_ROOT.to_owned(), id.to_string())].into();
                let properties = Properties { headers, ..Properties::default() };
                let (target, body) = (Target::Queue(Queue::Workflows), command.encode());
                self.publish(vec![Outgoing { target, body, properties, delay: None }]).await
            }
        }
    }

    /// Ends a task or workflow from outside: record, answer who waits, then tell whoever runs a part of it.
    async fn end(&self, id: &Id, why: &Why) -> Result<(), Stop> {
        let cancel = || self.parts.store.cancel(id, why.clone(), self.parts.clock.now());
        let (was_running, reply) = match insist(&self.abort, "cancel", cancel).await? {
            Cancelled::Done { running, reply } => {
                tracing::info!(%id, running = running.len(), ?why, "ended on request or for its time");
                (!running.is_empty(), reply)
            }
            // What ran then is not known any more. Who is told for nothing looks, and goes on.
            Cancelled::Again { reply } => {
                tracing::debug!(%id, ?why, "had ended so before");
                (true, reply)
            }
            // Of the present run there is nothing to tell.
            Cancelled::Earlier => {
                tracing::debug!(%id, ?why, "had ended an earlier run");
                return self.stop_what_runs(id).await;
            }
            Cancelled::Over(state) => {
                tracing::debug!(%id, state, "nothing to end");
                return Ok(());
            }
            Cancelled::Marked => {
                tracing::info!(%id, "cancelled before it was seen; it will be refused when it comes");
                return Ok(());
            }
        };
        let reply = reply.as_deref().and_then(Reply::decode);
        self.answer_again(id, reply.as_ref()).await?;
        self.tell(&self.event_of_end(id, why).await?);
        if !was_running {
            return Ok(());
        }
        self.stop_what_runs(id).await
    }

    /// Tells every worker. Whoever runs a part of it under a lease that holds goes on.
    async fn stop_what_runs(&self, id: &Id) -> Result<(), Stop> {
        let body = control::cancel(id);
        insist(&self.abort, "broadcast", || self.parts.broker.broadcast(body.clone())).await
    }

    async fn event_of_end(&self, id: &Id, why: &Why) -> Result<Event, Stop> {
        let alone = TaskKey::alone(id.clone());
        let task = insist(&self.abort, "task", || self.parts.store.task(&alone)).await?;
        Ok(match (task, why) {
            (Some(_), _) => Event::TaskEnded { key: alone, state: TaskState::Cancelled },
            (None, Why::Request { .. }) => {
                Event::WorkflowEnded { id: id.clone(), state: WorkflowState::Cancelled }
            }
            (None, Why::Timeout { .. }) => {
                Event::WorkflowEnded { id: id.clone(), state: WorkflowState::Failed }
            }
        })
    }

    /// Runs again what did not complete: record, publish what that released and the new run's timeout.
    async fn retry(&self, id: &Id, by: &Id) -> Result<(), Stop> {
        let retry = || self.parts.store.retry(id, by, self.parts.clock.now());
        match insist(&self.abort, "retry", retry).await? {
            Retried::Running { released, run, timeout } => {
                tracing::info!(%id, run, released = released.len(), "runs again");
                self.publish_released(released).await?;
                self.publish_timeout(id, run, timeout).await
            }
            Retried::NotEnded => {
                tracing::warn!(%id, "not retried: it has not ended");
                Ok(())
            }
            Retried::Nothing => {
                tracing::info!(%id, "not retried: all of it completed or was skipped");
                Ok(())
            }
            Retried::NotTakenIn => {
                tracing::warn!(%id, "not retried: it ended before its tasks were taken in; submit it again");
                Ok(())
            }
            Retried::Gone(missing) if missing.is_empty() => {
                tracing::warn!(%id, "not retried: its message is not kept; submit it again");
                Ok(())
            }
            Retried::Gone(missing) => {
                let missing: Vec<&str> = missing.iter().map(Id::as_str).collect();
                tracing::warn!(%id, ?missing, "not retried: results that it needs are not kept any more");
                Ok(())
            }
            Retried::Unknown => {
                tracing::warn!(%id, "not retried: nobody knows this id");
                Ok(())
            }
        }
    }
}
