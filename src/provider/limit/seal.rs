//! Places in line that a parked message takes along, proved: any producer may write a header, so what it says counts only
//! with a proof that nobody can make who cannot read the store. A proof is for one task and for what it says.

use uuid::Uuid;

use super::Limits;
use crate::core::id::{Id, TaskKey};
use crate::store::StoreError;

impl Limits {
    /// What [`Limits::carry`] has told of a task, with its proof.
    ///
    /// # Errors
    /// What the store says.
    pub async fn sealed(&self, told: &str, task: &TaskKey) -> Result<String, StoreError> {
        let known = self.lock().secret.clone();
        let secret = match known {
            Some(secret) => Some(secret),
            None => self.read_secret().await?,
        };
        // Without a store nothing is told.
        Ok(secret.map(|secret| format!("{told}:{}", proof(&secret, told, task))).unwrap_or_default())
    }

    /// Reads what [`Limits::sealed`] made; nothing, if it was not made by somebody who shares the store.
    ///
    /// # Errors
    /// What the store says.
    pub async fn unsealed<'a>(&self, sealed: &'a str, task: &TaskKey) -> Result<&'a str, StoreError> {
        let Some((told, given)) = sealed.rsplit_once(':') else { return Ok("") };
        let is_proved = |secret: &Id| proof(secret, told, task) == given;
        let known = self.lock().secret.clone();
        if known.is_some_and(|secret| is_proved(&secret)) {
            return Ok(told);
        }
        // The store may have lost it and have another one.
        let secret = self.read_secret().await?;
        Ok(if secret.is_some_and(|secret| is_proved(&secret)) { told } else { "" })
    }

    async fn read_secret(&self) -> Result<Option<Id>, StoreError> {
        let Some(shared) = &self.shared else { return Ok(None) };
        let secret = shared.store.secret(&shared.clock.new_id()).await?;
        self.lock().secret = Some(secret.clone());
        Ok(Some(secret))
    }
}

fn proof(secret: &Id, told: &str, task: &TaskKey) -> String {
    // No id has a line break in it. A UUIDv5 is a SHA-1 that is cut, so nobody can go on from it with more text.
    let text = format!("{secret}\n{task}\n{told}");
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string()
}
