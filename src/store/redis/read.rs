//! Reading: records, documents, the list.

use bytes::Bytes;
use redis::Value;
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::RedisStore;
use super::plan::otherwise;
use super::reply::{Reply, corrupt};
use super::steps::{task_state, workflow_state};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::store::{Filter, Otherwise, StoreError, Summary, TaskRecord, WorkflowRecord};
use crate::wire::record::Head;

/// What a task's record is read from; `lua/workflow.lua` asks for the same.
pub(super) const TASK_FIELDS: [&str; 12] = [
    "head",
    "state",
    "attempts",
    "crashes",
    "session",
    "started",
    "ended",
    "due",
    "history",
    "dependencies",
    "parent",
    "tolerated",
];

/// How many keys the server looks at in one step of `list`.
pub(super) const SCAN_COUNT: usize = 1000;

impl RedisStore {
    pub(super) async fn read_task(&self, key: &TaskKey) -> Result<Option<TaskRecord>, StoreError> {
        const STEP: &str = "task";
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.prefix.task(key)).arg("kind").arg(&TASK_FIELDS);
        let mut reply = Reply::new(STEP, self.connection.query(STEP, &cmd).await?)?;
        let kind = reply.optional_text()?;
        if key.task.is_none() && kind.as_deref() != Some("task") {
            return Ok(None);
        }
        task_record(&key.root, reply)
    }

    pub(super) async fn read_workflow(&self, id: &Id) -> Result<Option<WorkflowRecord>, StoreError> {
        const STEP: &str = "workflow";
        let script = self.scripts.workflow.key(self.prefix.root(id));
        let value = self.connection.invoke(STEP, &script).await?;
        if value == Value::Nil {
            return Ok(None);
        }
        let mut reply = Reply::new(STEP, value)?;
        let state = workflow_state(&mut reply)?;
        let name = workflow_name(STEP, &reply.text()?)?;
        let created_at = reply.time()?.ok_or_else(|| reply.corrupt(format!("{id} has no start")))?;
        let ended_at = reply.time()?;
        let mut list = reply.list()?;
        let mut tasks = Vec::new();
        while !list.is_empty() {
            let task = task_record(id, list.list()?)?;
            tasks.push(task.ok_or_else(|| list.corrupt(format!("a task of {id} is gone")))?);
        }
        Ok(Some(WorkflowRecord { id: id.clone(), name, state, created_at, ended_at, tasks }))
    }

    pub(super) async fn read_document(&self, key: String) -> Result<Option<Bytes>, StoreError> {
        let document: Option<Vec<u8>> = self.connection.query("result", redis::cmd("GET").arg(key)).await?;
        Ok(document.map(Bytes::from))
    }

    pub(super) async fn read_documents(
        &self,
        root: &Id,
        tasks: &[Id],
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut cmd = redis::cmd("MGET");
        for task in tasks {
            cmd.arg(self.prefix.result(&TaskKey::within(root.clone(), task.clone())));
        }
        let documents: Vec<Option<Vec<u8>>> = self.connection.query("results", &cmd).await?;
        Ok(documents.into_iter().map(|document| document.map(Bytes::from)).collect())
    }

    /// Walks over every key of the database in small steps, so its time grows with everything that the
    /// server holds (about a second per million keys) while no step holds others up. Memory is bounded
    /// by the filter's limit.
    pub(super) async fn read_list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        const STEP: &str = "list";
        let mut newest: BTreeMap<(Reverse<Timestamp>, Id), Summary> = BTreeMap::new();
        let mut masters = self.connection.masters(STEP).await?.into_iter();
        let Some(mut master) = masters.next() else { return Ok(Vec::new()) };
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(self.prefix.roots()).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (u64, Vec<String>) = self.connection.query_on(STEP, &master, &scan).await?;
            // A scan may give a key twice.
            let ids: HashSet<Id> = keys.iter().filter_map(|key| self.prefix.id_of_root(key)).collect();
            for summary in self.summaries(ids.into_iter().collect()).await? {
                if filter.state.as_ref().is_some_and(|state| *state != summary.state) {
                    continue;
                }
                newest.insert((Reverse(summary.created_at), summary.id.clone()), summary);
                if newest.len() > filter.limit {
                    newest.pop_last();
                }
            }
            cursor = next;
            if next == 0 {
                let Some(another) = masters.next() else { return Ok(newest.into_values().collect()) };
                master = another;
            }
        }
    }

    /// Walks over every key as [`RedisStore::read_list`] does.
    pub(super) async fn read_sessions(&self) -> Result<Vec<Id>, StoreError> {
        const STEP: &str = "sessions";
        // A person waits for it: few round trips, each of some milliseconds of the server's time.
        const COUNT: usize = 10_000;
        let mut sessions = BTreeSet::new();
        for master in self.connection.masters(STEP).await? {
            let mut cursor = 0_u64;
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(self.prefix.sessions()).arg("COUNT").arg(COUNT);
                let (next, keys): (u64, Vec<String>) = self.connection.query_on(STEP, &master, &scan).await?;
                sessions.extend(keys.iter().filter_map(|key| self.prefix.id_of_session(key)));
                cursor = next;
                if next == 0 {
                    break;
                }
            }
        }
        Ok(sessions.into_iter().collect())
    }

    async fn summaries(&self, ids: Vec<Id>) -> Result<Vec<Summary>, StoreError> {
        const STEP: &str = "list";
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for id in &ids {
            pipeline.cmd("HMGET").arg(self.prefix.root(id));
            pipeline.arg(&["kind", "state", "head", "created", "ended"]);
        }
        let answers: Vec<Value> = self.connection.pipeline(STEP, &pipeline).await?;
        let mut summaries = Vec::new();
        for (id, answer) in ids.into_iter().zip(answers) {
            let mut reply = Reply::new(STEP, answer)?;
            let kind = reply.optional_text()?;
            // A mark is not a root yet; and what was found a moment ago may have expired.
            let is_workflow = match kind.as_deref() {
                Some("workflow") => true,
                Some("task") => false,
                Some(_) | None => continue,
            };
            let (state, head) = (reply.text()?, reply.text()?);
            let created_at = reply.time()?.unwrap_or_default();
            let ended_at = reply.time()?;
            let (name, what) = if is_workflow {
                (workflow_name(STEP, &head)?, String::new())
            } else {
                let head = task_head(STEP, &id, &head)?;
                (head.name, format!("{} {}", head.protocol, head.method))
            };
            summaries.push(Summary { id, is_workflow, name, what, state, created_at, ended_at });
        }
        Ok(summaries)
    }
}

/// Reads [`TASK_FIELDS`]; `None` if there is no such task.
pub(super) fn task_record(root: &Id, mut reply: Reply) -> Result<Option<TaskRecord>, StoreError> {
    let Some(head) = reply.optional_text()? else { return Ok(None) };
    let head = task_head("task", root, &head)?;
    let state = task_state(&mut reply)?;
    let (attempts, crashes) = (reply.count()?, reply.count()?);
    let session = reply.optional_text()?;
    let (started, ended_at, due) = (reply.time()?, reply.time()?, reply.time()?);
    let history = reply.optional_text()?.unwrap_or_default();
    let dependencies = reply.optional_text()?.unwrap_or_default();
    let dependencies = dependencies.split_whitespace().map(|edge| {
        dependency(edge).ok_or_else(|| reply.corrupt(format!("{edge:?} where a dependency was expected")))
    });
    let dependencies = dependencies.collect::<Result<Vec<(Id, Otherwise)>, StoreError>>()?;
    let parent = reply.optional_text()?.map(|text| Id::parse(&text)).transpose();
    let tolerated = reply.optional_text()?.is_some();
    // What was true of an earlier state stays in the hash; taking it out would cost a command per step.
    let is_running = state == crate::core::state::TaskState::Running;
    let is_delayed = state == crate::core::state::TaskState::Delayed;
    let session = session.filter(|_| is_running).map(|text| Id::parse(&text)).transpose();
    Ok(Some(TaskRecord {
        head,
        state,
        attempts,
        crashes,
        session: session.map_err(|error| reply.corrupt(error.to_string()))?,
        started_at: started,
        ended_at,
        due: due.filter(|_| is_delayed),
        history: history.lines().map(str::to_owned).collect(),
        dependencies,
        parent: parent.map_err(|error| reply.corrupt(error.to_string()))?,
        tolerated,
    }))
}

/// An edge as `plan::push_tasks` writes it.
fn dependency(edge: &str) -> Option<(Id, Otherwise)> {
    let otherwise = otherwise(edge.chars().next()?)?;
    Some((Id::parse(edge.get(1..)?).ok()?, otherwise))
}

fn task_head(step: &'static str, root: &Id, open: &str) -> Result<Head, StoreError> {
    #[derive(Deserialize)]
    struct Open {
        id: Id,
        workflow_id: Option<Id>,
        name: String,
        protocol: String,
        method: String,
    }
    let Open { id, workflow_id, name, protocol, method } = closed(step, root.as_str(), open)?;
    let key = match workflow_id {
        Some(workflow) => TaskKey::within(workflow, id),
        None => TaskKey::alone(id),
    };
    Ok(Head { key, name, protocol, method })
}

fn workflow_name(step: &'static str, open: &str) -> Result<String, StoreError> {
    #[derive(Deserialize)]
    struct Open {
        name: String,
    }
    let Open { name } = closed(step, "a workflow", open)?;
    Ok(name)
}

/// Reads a head, which is a JSON object without its end.
fn closed<T: for<'de> Deserialize<'de>>(step: &'static str, of: &str, open: &str) -> Result<T, StoreError> {
    let text = format!("{open}}}");
    serde_json::from_str(&text).map_err(|error| corrupt(step, format!("the head of {of}: {error}")))
}
