//! What other workers have done, and not come to do any more.

use bytes::Bytes;
use serde_json::{Value, json};
use std::time::Duration;

use gleitzeit::broker::Properties;
use gleitzeit::core::clock::Clock;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Claim, Claimed, Edge, End, Lease, Message, Otherwise, Plan, PlannedTask, Store};
use gleitzeit::topology::Queue;
use gleitzeit::wire::record::Head;

use crate::stage::{Stage, alone, claim, echo, id};
use crate::wall_clock::WallClock;

const TTL: Duration = Duration::from_secs(60);

fn head(key: TaskKey) -> Head {
    Head { name: key.id().to_string(), key, protocol: "echo/v1".to_owned(), method: "ping".to_owned() }
}

impl Stage {
    /// So many sessions have died one after the other with a task on its own; the last one still has the lease.
    pub(crate) async fn crashed(&self, task: &str, sessions: u32) {
        let mut over = None;
        for session in 0..sessions {
            let claim = Claim { over, ..claim(head(alone(task)), &format!("dead-{session}")) };
            over = Some(self.leased(&claim).await.fence);
        }
    }

    /// A worker has recorded that a task on its own failed. Its message comes again.
    pub(crate) async fn failed_elsewhere(&self, task: &str) {
        let lease = self.leased(&claim(head(alone(task)), "other")).await;
        let failure = Failure::new(Code::TaskExecutionFailed, "as asked");
        self.finished(&lease, TaskState::Failed, &json!({"status": "failed", "error": failure})).await;
        let headers = [("gleitzeit-held".to_owned(), "1:1".to_owned())].into();
        let properties = Properties { headers, ..Properties::default() };
        let body = json!({"id": task, "method": "ping"}).to_string();
        self.publish_with(Queue::Tasks(echo()), body.into(), properties).await;
    }

    /// A worker has recorded that `first` completed, and so released `second`. The message of `first` comes again.
    pub(crate) async fn ended_elsewhere(&self, root: &str, first: &str, second: &str) {
        let body = |task: &str| json!({"id": task, "workflow": root, "method": "ping"}).to_string();
        let plan = |task: &str, dependencies| PlannedTask {
            head: head(TaskKey::within(id(root), id(task))),
            message: Message { address: echo(), priority: 4, body: body(task).into() },
            dependencies,
            tolerated: false,
        };
        let tasks =
            vec![plan(first, Vec::new()), plan(second, vec![Edge { on: 0, otherwise: Otherwise::Fail }])];
        let refused =
            Plan::refused(id(root), "W".to_owned(), Failure::new(Code::InternalError, "not at all"), TTL);
        let plan = Plan { tasks, refused: None, ..refused };
        self.store.create(&plan, WallClock.now()).await.expect("create answers");
        let lease = self.leased(&claim(plan.tasks[0].head.clone(), "other")).await;
        self.finished(&lease, TaskState::Completed, &json!({"status": "completed", "result": 1})).await;
        self.publish(Queue::Tasks(echo()), body(first).into()).await;
    }

    async fn leased(&self, claim: &Claim) -> Lease {
        let claimed = self.store.claim(claim, WallClock.now()).await.expect("claim answers");
        let Claimed::Run { lease, .. } = claimed else { panic!("{claimed:?}") };
        lease
    }

    async fn finished(&self, lease: &Lease, state: TaskState, document: &Value) {
        let document = Bytes::from(document.to_string());
        let entry = json!({"attempt": 1, "status": state.name()}).to_string();
        let end = End::Ended { state, document, keep: true, ttl: TTL, entry, retry: None };
        self.store.finish(lease, &end, WallClock.now()).await.expect("finish answers");
    }
}
