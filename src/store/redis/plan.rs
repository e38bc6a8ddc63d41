//! Taking a workflow in, and how tasks are told to a script (`plant` in `lua/graph.lua`).

use redis::ScriptInvocation;
use serde_json::json;
use std::time::Duration;

use super::RedisStore;
use super::reply::{Reply, corrupt};
use super::steps::{clash, millis, moved, released, tombstone_ttl, workflow_state};
use crate::core::clock::Timestamp;
use crate::core::id::TaskKey;
use crate::core::state::WorkflowState;
use crate::store::{Created, Otherwise, Plan, PlannedTask, StoreError};
use crate::wire::record;

impl RedisStore {
    pub(super) async fn create_step(&self, plan: &Plan, now: Timestamp) -> Result<Created, StoreError> {
        const STEP: &str = "create";
        let mut script = self.scripts.create.key(self.prefix.root(&plan.id));
        script
            .arg(now.to_string())
            .arg(record::workflow_open(&plan.id, &plan.name))
            .arg(millis(plan.result_ttl))
            .arg(millis(tombstone_ttl(plan.result_ttl)))
            .arg(self.prefix.channel(&plan.id))
            .arg(plan.refused.as_ref().map(|failure| json!(failure).to_string()).unwrap_or_default())
            .arg(plan.max_parallel.map(|tasks| tasks.to_string()).unwrap_or_default())
            .arg(plan.timeout.map(|timeout| nanos(timeout).to_string()).unwrap_or_default())
            .arg(plan.reply.as_ref().map(|reply| format!("={reply}")).unwrap_or_default())
            .arg(plan.digest.as_deref().unwrap_or_default())
            .arg(plan.tasks.len());
        push_tasks(STEP, &mut script, &plan.tasks)?;
        let root = TaskKey::alone(plan.id.clone());
        script.arg(self.prefix.live(&plan.id)).arg(moved(WorkflowState::Running.name(), &root));
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "running" => {
                let (ready, differs) = (reply.list()?, reply.flag()?);
                let (run, nanos) = (reply.parsed()?, reply.text()?);
                let released = released(&plan.id, run, ready)?;
                let nanos = Some(nanos).filter(|nanos| !nanos.is_empty()).map(|nanos| nanos.parse());
                let nanos: Option<u64> =
                    nanos.transpose().map_err(|_| reply.corrupt(format!("the timeout of {}", plan.id)))?;
                let timeout = nanos.map(|nanos| (run, Duration::from_nanos(nanos)));
                Ok(Created { state: WorkflowState::Running, released, differs, timeout })
            }
            "over" => {
                let state = workflow_state(&mut reply)?;
                Ok(Created { state, released: Vec::new(), differs: reply.flag()?, timeout: None })
            }
            "clash" => Err(clash(STEP, &plan.id, "a task on its own")),
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }
}

/// At most some 500 years.
fn nanos(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)
}

/// Nine values for each task, in the order of the list.
pub(super) fn push_tasks(
    step: &'static str,
    script: &mut ScriptInvocation,
    tasks: &[PlannedTask],
) -> Result<(), StoreError> {
    let mut dependents = vec![String::new(); tasks.len()];
    let mut dependencies = dependents.clone();
    for (index, task) in tasks.iter().enumerate() {
        for edge in &task.dependencies {
            let on = tasks.get(edge.on);
            let on = on.ok_or_else(|| corrupt(step, format!("task {index} depends on task {}", edge.on)))?;
            add_edge(&mut dependencies[index], edge.otherwise, on);
            add_edge(&mut dependents[edge.on], edge.otherwise, task);
        }
    }
    for (index, task) in tasks.iter().enumerate() {
        script
            .arg(task.head.key.id().as_str())
            .arg(task.head.open())
            .arg(task.message.address.as_str())
            .arg(task.message.priority)
            .arg(&task.message.body[..])
            .arg(task.dependencies.len())
            .arg(&dependencies[index])
            .arg(&dependents[index])
            .arg(if task.tolerated { "1" } else { "" });
    }
    Ok(())
}

fn add_edge(edges: &mut String, otherwise: Otherwise, task: &PlannedTask) {
    if !edges.is_empty() {
        edges.push(' ');
    }
    edges.push(sign(otherwise));
    edges.push_str(task.head.key.id().as_str());
}

/// How an edge is written before the id of the task at its other end. No id begins so.
const fn sign(otherwise: Otherwise) -> char {
    match otherwise {
        Otherwise::Fail => '!',
        Otherwise::Skip => '~',
        Otherwise::Continue => '+',
    }
}

/// Reads what [`sign`] wrote.
pub(super) fn otherwise(sign: char) -> Option<Otherwise> {
    [Otherwise::Fail, Otherwise::Skip, Otherwise::Continue].into_iter().find(|one| self::sign(*one) == sign)
}
