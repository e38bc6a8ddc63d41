//! Schedules: asked for by message, as everything that changes state; a worker carries it out.

use super::{Client, to_workflows};
use crate::broker::Outgoing;
use crate::core::code::Code;
use crate::core::id::Id;
use crate::core::workflow::WORKFLOW_BYTES_MAX;
use crate::error::Error;
use crate::store::Accepted;
use crate::wire::schedule::{Definition, Order};

impl Client {
    /// Asks for a change of a schedule. Once this returns, it is kept until a worker has carried it out.
    ///
    /// # Errors
    /// Refuses a definition that is too large; otherwise what the broker says.
    pub async fn order(&self, order: &Order) -> Result<(), Error> {
        let body = order.encode();
        if body.len() > WORKFLOW_BYTES_MAX {
            return Err(super::too_large(Code::WorkflowTooLarge, "schedule", body.len(), WORKFLOW_BYTES_MAX));
        }
        self.broker.publish(vec![to_workflows(order.name(), body)]).await?;
        Ok(())
    }

    /// Runs what the schedule runs once, now, outside its slots. Answers the run's id.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn run_scheduled(&self, name: &Id, definition: &Definition) -> Result<Id, Error> {
        let id = self.clock.new_id();
        let run = definition.run(name, &id, None);
        let accepted = Accepted::of_run(definition, &id, &run);
        let message = Outgoing::of_run(run, &id)
            .map_err(|error| Error::new(Code::ProtocolNotFound, error.to_string()))?;
        self.broker.publish(vec![message]).await?;
        self.note(accepted).await;
        Ok(id)
    }
}
