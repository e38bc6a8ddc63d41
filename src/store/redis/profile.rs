//! Profiles in Redis: a hash for each slot of five minutes, with a TTL.
//!
//! A field is `SESSION PROTOCOL METHOD`, its value what `wire::profile` writes. All slots have one hash tag, so that
//! whoever reads them all asks once; a worker writes once in some seconds.

use async_trait::async_trait;
use redis::Script;
use std::collections::HashMap;

use super::RedisStore;
use super::steps::millis;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::profile::{KEPT, SLOT, Subject, slots};
use crate::store::{Note, Noted, PROFILES_MAX, Profiles, StoreError, Unreadable};
use crate::wire::profile::{decode, encode};

/// The step, ready to invoke.
#[derive(Debug)]
pub(super) struct Scripts {
    note: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        Scripts { note: Script::new(include_str!("lua/note_profiles.lua")) }
    }
}

#[async_trait]
impl Profiles for RedisStore {
    async fn note_profiles(&self, note: &Note, _now: Timestamp) -> Result<(), StoreError> {
        let Note { session, slot, profiles } = note;
        let mut script = self.profiles.note.key(self.prefix.profiles(*slot));
        script.arg(millis(KEPT + SLOT)).arg(PROFILES_MAX);
        for (Subject { protocol, method }, profile) in profiles {
            script.arg(format!("{session} {protocol} {method}")).arg(encode(profile));
        }
        self.connection.invoke("note_profiles", &script).await.map(drop)
    }

    async fn profiles(&self, since: Timestamp, now: Timestamp) -> Result<Vec<Noted>, StoreError> {
        const STEP: &str = "profiles";
        let slots = slots(since, now);
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for slot in &slots {
            pipeline.cmd("HGETALL").arg(self.prefix.profiles(*slot));
        }
        let answers: Vec<HashMap<String, String>> = self.connection.pipeline(STEP, &pipeline).await?;
        let (mut noted, mut unreadable) = (Vec::new(), Unreadable::default());
        for (slot, fields) in slots.into_iter().zip(answers) {
            for (field, text) in fields {
                match read(slot, &field, &text) {
                    Some(found) => noted.push(found),
                    None => unreadable.found(|| format!("{field:?} of {slot}")),
                }
            }
        }
        unreadable.tell();
        Ok(noted)
    }
}

fn read(slot: Timestamp, field: &str, text: &str) -> Option<Noted> {
    let mut parts = field.splitn(3, ' ');
    let session = Id::parse(parts.next()?).ok()?;
    let subject = Subject { protocol: parts.next()?.to_owned(), method: parts.next()?.to_owned() };
    Some(Noted { session, slot, subject, profile: decode(text)? })
}
