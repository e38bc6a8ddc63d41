//! Profiles of methods that all workers add to. Lines 30 and 31 of the law.
//!
//! 30. `note_profiles` puts a session's profiles of a slot in the place of those that it had noted of the same subjects in
//!     that slot; others stay. So a repeat changes nothing. A slot holds at most [`PROFILES_MAX`] of them: what is new
//!     beyond that is not kept.
//! 31. `profiles` answers what was noted of the slots from the one of `since` on, as long as they are kept
//!     (`core::profile::KEPT`). What cannot be read as a profile is left out, and that is said once for each answer.

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

/// What an answer leaves out because it cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Unreadable {
    count: u64,
    /// The first of it.
    what: String,
}

impl Unreadable {
    pub(crate) fn found(&mut self, what: impl FnOnce() -> String) {
        if self.count == 0 {
            self.what = what();
        }
        self.count += 1;
    }

    pub(crate) fn tell(&self) {
        if self.count > 0 {
            tracing::warn!(
                count = self.count,
                first = self.what,
                "the store holds what is no profile; it is left out"
            );
        }
    }
}
