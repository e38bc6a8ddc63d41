//! The name of every key and channel.
//!
//! | key | is | public |
//! | --- | --- | --- |
//! | `P:{ID}:result` | the document of a task on its own or of a workflow | yes |
//! | `P:{WORKFLOW}:result:TASK` | the document of a task of a workflow | yes |
//! | `P:done:ID` | the channel on which the keys above are told when they can be read | yes |
//! | `P:live:ID` | the channel on which is told what moves and does not end: a state and what has it | yes |
//! | `P:{ID}:output` | stream: what tasks of a root give while they run, and the ends of their attempts | yes |
//! | `P:output:ID` | the channel on which is told that the stream above has more | yes |
//! | `P:{ID}:root` | hash: a task on its own, a workflow, or the mark of a cancel that came first (`kind`) | no |
//! | `P:{WORKFLOW}:task:TASK` | hash: a task of a workflow | no |
//! | `P:{WORKFLOW}:order` | list: its tasks' ids in the order of the file | no |
//! | `P:{WORKFLOW}:parents` | list: those of its tasks that have planned others | no |
//! | `P:{WORKFLOW}:ready` | sorted set: tasks that wait for their turn, by priority and readiness | no |
//! | `P:{WORKFLOW}:ready:TASK` | sorted set: the same, of the children of a task that bounds them | no |
//! | `P:{WORKFLOW}:turns` | sorted set: tasks whose children may have a turn, by the first of them | no |
//! | `P:{schedules/}:NAME` | hash: a schedule | no |
//! | `P:{schedules/}` | sorted set: the names of all schedules, in the order of bytes | no |
//! | `P:{limit/NAME}:bucket` | hash: how much is left of a limit; with a key `P:{limit/NAME/UUID}:bucket` | no |
//! | `P:{limit/}:secret` | what workers prove to each other with | no |
//! | `P:{workers/}` | hash: what the workers that live say of themselves, by session | no |
//! | `P:{profiles/}:SLOT` | hash: profiles of methods, of five minutes that began at SLOT (milliseconds) | no |
//! | `P:session:ID` | a worker session lives as long as this key | no |
//!
//! Every key of a root has the root's id as hash tag, so that all of it is in one slot. No id contains a
//! brace, so no two names can be the same; none contains a slash, so no root has the tag of the schedules,
//! of a limit or of profiles. A limit's key may be any text, so its bucket is named by the UUIDv5 of it.

use std::fmt;
use uuid::Uuid;

use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};

/// The longest prefix, in bytes.
pub const PREFIX_BYTES_MAX: usize = 64;

/// What every key starts with: `[A-Za-z0-9._:-]{1,64}`.
///
/// The alphabet is small so that a prefix has no hash tag and no pattern in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

/// A text that is not a [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("redis prefix {0:?} is not valid: 1 to 64 letters, digits and . _ : - are allowed")]
pub struct InvalidPrefix(String);

impl Prefix {
    /// Checks `text` against the alphabet and the length.
    ///
    /// # Errors
    /// [`InvalidPrefix`] names the text.
    pub fn parse(text: &str) -> Result<Prefix, InvalidPrefix> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if text.is_empty() || text.len() > PREFIX_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(InvalidPrefix(text.chars().take(PREFIX_BYTES_MAX).collect()));
        }
        Ok(Prefix(text.to_owned()))
    }
}

impl Default for Prefix {
    fn default() -> Prefix {
        Prefix("gleitzeit".to_owned())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Prefix {
    pub(super) fn root(&self, root: &Id) -> String {
        format!("{self}:{{{root}}}:root")
    }

    /// The hash of a task: for a task on its own that is its root.
    pub(super) fn task(&self, key: &TaskKey) -> String {
        match &key.task {
            Some(task) => format!("{self}:{{{}}}:task:{task}", key.root),
            None => self.root(&key.root),
        }
    }

    pub(super) fn result(&self, key: &TaskKey) -> String {
        match &key.task {
            Some(task) => format!("{self}:{{{}}}:result:{task}", key.root),
            None => self.outcome(&key.root),
        }
    }

    pub(super) fn outcome(&self, root: &Id) -> String {
        format!("{self}:{{{root}}}:result")
    }

    pub(super) fn channel(&self, root: &Id) -> String {
        format!("{self}:done:{root}")
    }

    /// Not the channel of ends: who waits for a result is not woken for each task that begins.
    pub(super) fn live(&self, root: &Id) -> String {
        format!("{self}:live:{root}")
    }

    /// The stream of what a root's tasks give.
    pub(super) fn output(&self, root: &Id) -> String {
        format!("{self}:{{{root}}}:output")
    }

    /// Where is told that it has more.
    pub(super) fn output_channel(&self, root: &Id) -> String {
        format!("{self}:output:{root}")
    }

    pub(super) fn session(&self, session: &Id) -> String {
        format!("{self}:session:{session}")
    }

    /// A pattern that fits every session.
    pub(super) fn sessions(&self) -> String {
        format!("{self}:session:*")
    }

    /// What workers say of themselves.
    pub(super) fn workers(&self) -> String {
        format!("{self}:{{workers/}}")
    }

    /// The session that a key is of.
    pub(super) fn id_of_session(&self, key: &str) -> Option<Id> {
        Id::parse(key.strip_prefix(&self.0)?.strip_prefix(":session:")?).ok()
    }

    pub(super) fn schedule(&self, name: &Id) -> String {
        format!("{}:{name}", self.schedules())
    }

    /// The names of all schedules.
    pub(super) fn schedules(&self) -> String {
        format!("{self}:{{schedules/}}")
    }

    /// The bucket of a limit, or of one of its keys.
    pub(super) fn bucket(&self, limit: &str, key: Option<Uuid>) -> String {
        match key {
            Some(key) => format!("{self}:{{limit/{limit}/{key}}}:bucket"),
            None => format!("{self}:{{limit/{limit}}}:bucket"),
        }
    }

    /// What only those know who may read this.
    pub(super) fn secret(&self) -> String {
        format!("{self}:{{limit/}}:secret")
    }

    /// The profiles of a slot.
    pub(super) fn profiles(&self, slot: Timestamp) -> String {
        format!("{self}:{{profiles/}}:{}", slot.as_millis())
    }

    /// A pattern that fits every root's hash; [`Prefix::id_of_root`] tells what else it fits.
    pub(super) fn roots(&self) -> String {
        format!("{self}:{{*}}:root")
    }

    /// The id in the name of a root's hash.
    pub(super) fn id_of_root(&self, key: &str) -> Option<Id> {
        let rest = key.strip_prefix(&self.0)?.strip_prefix(":{")?;
        Id::parse(rest.strip_suffix("}:root")?).ok()
    }

    /// The task that a told key belongs to; the inner `None` is the root itself.
    pub(super) fn told(&self, root: &Id, key: &str) -> Option<Option<Id>> {
        let rest = key.strip_prefix(self.outcome(root).as_str())?;
        if rest.is_empty() {
            return Some(None);
        }
        Some(Some(Id::parse(rest.strip_prefix(':')?).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::parse(text).expect("valid")
    }

    #[test]
    fn the_public_names_are_the_contract() {
        let prefix = Prefix::default();
        assert_eq!(prefix.result(&TaskKey::alone(id("a"))), "gleitzeit:{a}:result");
        assert_eq!(prefix.result(&TaskKey::within(id("w"), id("t"))), "gleitzeit:{w}:result:t");
        assert_eq!(prefix.outcome(&id("w")), "gleitzeit:{w}:result");
        assert_eq!(prefix.channel(&id("w")), "gleitzeit:done:w");
        assert_eq!(prefix.live(&id("w")), "gleitzeit:live:w");
        assert_eq!(prefix.output(&id("w")), "gleitzeit:{w}:output");
        assert_eq!(prefix.output_channel(&id("w")), "gleitzeit:output:w");
    }

    #[test]
    fn names_are_read_back() {
        let prefix = Prefix::default();
        assert_eq!(prefix.id_of_root(&prefix.root(&id("a:b"))), Some(id("a:b")));
        assert_eq!(prefix.id_of_root("gleitzeit:{w}:result:root"), None);
        let told = |key: &str| prefix.told(&id("w"), key);
        assert_eq!(told("gleitzeit:{w}:result"), Some(None));
        assert_eq!(told("gleitzeit:{w}:result:t"), Some(Some(id("t"))));
        assert_eq!(told("gleitzeit:{v}:result"), None);
    }

    #[test]
    fn a_prefix_has_no_tag_and_no_pattern() {
        for bad in ["", "a{", "a}", "a*", "a b", "ä", &"x".repeat(65)] {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
        assert!(Prefix::parse("team-1:prod").is_ok());
    }
}
