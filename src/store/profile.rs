//! Profiles of methods that all workers add to. Lines 30 and 31 of the law.
//!
//! 30. `note_profiles` puts a session's profiles of a slot in the place of those that it had noted of the same subjects in
//!     that slot; others stay. So a repeat changes nothing. A slot holds at most [`PROFILES_MAX`] of them: what is new
//!     beyond that is not kept.
//! 31. `profiles` answers what was noted of the slots from the one of `since` on, as long as they are kept
//!     (`core::profile::KEPT`).

use async_trait::async_trait;

use super::StoreError;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::profile::{Profile, Subject};

/// The most profiles of one slot.
pub const PROFILES_MAX: usize = 2_000;

/// What a session has counted in a slot so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// Who.
    pub session: Id,
    /// When the slot began.
    pub slot: Timestamp,
    /// All that it has counted of these in that slot.
    pub profiles: Vec<(Subject, Profile)>,
}

/// A profile that somebody has noted.
#[derive(Debug, Clone, PartialEq)]
pub struct Noted {
    /// Who.
    pub session: Id,
    /// When the slot began.
    pub slot: Timestamp,
    /// Of what.
    pub subject: Subject,
    /// What was counted.
    pub profile: Profile,
}

/// Profiles of methods. Best effort: nothing depends on them.
#[async_trait]
pub trait Profiles: Send + Sync {
    /// Notes what a session has counted; one round trip.
    async fn note_profiles(&self, note: &Note, now: Timestamp) -> Result<(), StoreError>;

    /// What was noted, in no order. To be asked by people.
    async fn profiles(&self, since: Timestamp, now: Timestamp) -> Result<Vec<Noted>, StoreError>;
}
