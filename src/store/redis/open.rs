//! What has not ended, found by walking over the keys.

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;
use std::collections::HashSet;

use super::RedisStore;
use super::connection::Master;
use super::read::{SCAN_COUNT, TASK_FIELDS, task_record};
use super::reply::{Reply, corrupt};
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Message, OpenPage, OpenRoot, OpenWork, Released, StoreError};
use crate::topology::Address;

/// A message as `lua/accept.lua` keeps it.
pub(super) fn kept(message: &Message) -> Vec<u8> {
    let mut text = format!("{} {} ", message.priority, message.address).into_bytes();
    text.extend_from_slice(&message.body);
    text
}

/// Reads what [`kept`] wrote.
fn unkept(kept: &Bytes) -> Option<Message> {
    let mut parts = kept.splitn(3, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let priority = text()?.parse().ok()?;
    let address = Address::parse(text()?).ok()?;
    Some(Message { address, priority, body: kept.slice_ref(parts.next()?) })
}

#[async_trait]
impl OpenWork for RedisStore {
    async fn open(&self, after: Option<&str>, limit: usize) -> Result<OpenPage, StoreError> {
        const STEP: &str = "open";
        let masters = self.connection.masters(STEP).await?;
        let (cursor, at) = place(after, &masters)?;
        let Some(master) = masters.get(at) else { return Ok(OpenPage::default()) };
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(self.prefix.roots());
        scan.arg("COUNT").arg(limit.clamp(1, SCAN_COUNT));
        let (cursor, keys): (String, Vec<String>) = self.connection.query_on(STEP, master, &scan).await?;
        let next = match (cursor.as_str(), masters.get(at + 1)) {
            ("0", None) => None,
            ("0", Some(another)) => Some(format!("0@{another}")),
            (cursor, _) => Some(format!("{cursor}@{master}")),
        };
        let ids: HashSet<Id> = keys.iter().filter_map(|key| self.prefix.id_of_root(key)).collect();
        let ids: Vec<Id> = ids.into_iter().collect();
        let (mut roots, mut ended) = (Vec::new(), Vec::new());
        if !ids.is_empty() {
            let mut pipeline = redis::pipe();
            for id in &ids {
                pipeline.cmd("HMGET").arg(self.prefix.root(id));
                pipeline.arg(&["kind", "state", "created", "due"]).arg(&TASK_FIELDS);
            }
            let answers: Vec<Value> = self.connection.pipeline(STEP, &pipeline).await?;
            for (id, answer) in ids.into_iter().zip(answers) {
                match root(id, Reply::new(STEP, answer)?)? {
                    Some(Root::Open(open)) => roots.push(open),
                    Some(Root::Ended(id, state)) => ended.push((id, state)),
                    None => {}
                }
            }
        }
        Ok(OpenPage { roots, ended, next })
    }

    async fn messages(&self, keys: &[TaskKey]) -> Result<Vec<Option<Released>>, StoreError> {
        const STEP: &str = "messages";
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("HGET").arg(self.prefix.root(&key.root)).arg("run");
            pipeline.cmd("HMGET").arg(self.prefix.task(key));
            pipeline.arg(&["state", "sent", "address", "priority", "body"]);
        }
        let answers: Vec<Value> = self.connection.pipeline(STEP, &pipeline).await?;
        let mut found = Vec::with_capacity(keys.len());
        for (key, answer) in keys.iter().zip(answers.chunks_exact(2)) {
            let mut run = Reply::new(STEP, Value::Array(vec![answer[0].clone()]))?;
            let run = run.count()?.max(1);
            found.push(message(key, run, Reply::new(STEP, answer[1].clone())?)?);
        }
        Ok(found)
    }
}

/// Where a page begins: the cursor, and which of the masters it is of. Each walks over what it has itself, and knows
/// nothing of another one's cursor.
fn place<'a>(after: Option<&'a str>, masters: &[Master]) -> Result<(&'a str, usize), StoreError> {
    let Some((cursor, name)) = after.and_then(|after| after.split_once('@')) else { return Ok(("0", 0)) };
    match masters.iter().position(|master| master.to_string() == name) {
        Some(at) => Ok((cursor, at)),
        None => Err(StoreError::Unanswered {
            step: "open",
            reason: format!("{name} is no master of the cluster any more; begin again"),
        }),
    }
}

/// What a root is at.
enum Root {
    Open(OpenRoot),
    Ended(Id, &'static str),
}

/// `None` for a mark, and for what has gone since it was found.
fn root(id: Id, mut reply: Reply) -> Result<Option<Root>, StoreError> {
    let (kind, state) = (reply.optional_text()?, reply.optional_text()?.unwrap_or_default());
    let (created_at, due) = (reply.time()?.unwrap_or_default(), reply.time()?);
    match kind.as_deref() {
        Some("task") => Ok(task_record(&id, reply)?.map(|record| match record.state.is_ended() {
            true => Root::Ended(id, record.state.name()),
            false => Root::Open(OpenRoot::Task { record: Box::new(record), created_at }),
        })),
        Some("workflow") => match WorkflowState::parse(&state) {
            Some(WorkflowState::Accepted) => Ok(Some(Root::Open(OpenRoot::Accepted { id, created_at, due }))),
            Some(WorkflowState::Running) => Ok(Some(Root::Open(OpenRoot::Running(id)))),
            Some(
                ended @ (WorkflowState::Completed
                | WorkflowState::Failed
                | WorkflowState::Cancelled
                | WorkflowState::Expired),
            ) => Ok(Some(Root::Ended(id, ended.name()))),
            None => Err(reply.corrupt(format!("{state:?} is no state of workflow {id}"))),
        },
        Some(_) | None => Ok(None),
    }
}

/// A task of a workflow has its message from the start; one on its own after a retry, or what its client kept.
fn message(key: &TaskKey, run: u32, mut reply: Reply) -> Result<Option<Released>, StoreError> {
    let state = reply.optional_text()?.and_then(|state| TaskState::parse(&state));
    if !state.is_some_and(|state| !state.is_ended() && state != TaskState::Waiting) {
        return Ok(None);
    }
    let sent = reply.bytes()?;
    let planned = (reply.optional_text()?, reply.optional_text()?, reply.bytes()?);
    let message = match (sent, planned) {
        (_, (Some(address), Some(priority), Some(body))) => {
            let address = Address::parse(&address).map_err(|error| corrupt("messages", error.to_string()))?;
            let priority = priority
                .parse()
                .map_err(|_| corrupt("messages", format!("{priority:?} is no priority of {key}")))?;
            Some(Message { address, priority, body })
        }
        (Some(sent), _) => unkept(&sent),
        (None, _) => None,
    };
    Ok(message.map(|message| Released { key: key.clone(), message, run }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_message_reads_back_what_was_sent() {
        let address = Address::parse("echo.v1").expect("valid");
        let message = Message { address, priority: 7, body: Bytes::from_static(b"{\"a\": 1 }  ") };
        assert_eq!(unkept(&Bytes::from(kept(&message))), Some(message));
        assert_eq!(unkept(&Bytes::from_static(b"7 echo.v1")), None);
    }
}
