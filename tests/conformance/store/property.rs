//! Random graphs, ends, crashes, duplicates and orders of delivery, compared step by step with the model.
//!
//! The test is a broker and its workers in small: it holds the messages in flight, in no order, and does to
//! them what an operation says. A worker that crashes leaves its message in flight and its lease behind.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::model::{Answer, Ended, How, Model, sorted};
use super::stand::{Stand, claim, ended, id, names, plan, within};
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Cancelled, Claim, Claimed, Created, End, Finished, Lease};

/// What happens next; numbers choose among what is there.
#[derive(Debug, Clone)]
enum Op {
    /// A message is delivered. With `keep` the settlement is lost, so it comes again.
    Deliver { message: usize, keep: bool },
    /// A message is delivered to somebody who finds the holder of its lease dead.
    TakeOver { message: usize },
    /// A worker ends its attempt. With `crash` it dies before it publishes what it released.
    Finish { lease: usize, crash: bool },
    /// A worker repeats a step that it, or somebody else, has done already.
    Repeat { lease: usize },
    /// A worker drains.
    Abandon { lease: usize },
    /// The workflow's message comes again.
    Create,
    /// Somebody publishes a message that nobody asked for.
    Stray { task: usize, attempt: u32 },
    /// Somebody ends it all.
    Cancel,
}

/// A graph, how its tasks end, and what happens.
#[derive(Debug, Clone)]
struct Scenario {
    dependencies: Vec<Vec<usize>>,
    /// Attempts of each task that are to be repeated.
    retries: Vec<u32>,
    ends: Vec<TaskState>,
    ops: Vec<Op>,
}

fn op() -> impl Strategy<Value = Op> {
    let any = 0..1000_usize;
    let (lost, crash) = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    prop_oneof![
        100 => (any.clone(), lost).prop_map(|(message, keep)| Op::Deliver { message, keep }),
        20 => any.clone().prop_map(|message| Op::TakeOver { message }),
        80 => (any.clone(), crash).prop_map(|(lease, crash)| Op::Finish { lease, crash }),
        20 => any.clone().prop_map(|lease| Op::Repeat { lease }),
        10 => any.clone().prop_map(|lease| Op::Abandon { lease }),
        10 => Just(Op::Create),
        10 => (any, 1..4_u32).prop_map(|(task, attempt)| Op::Stray { task, attempt }),
        // About one scenario in four is cancelled at some point.
        2 => Just(Op::Cancel),
    ]
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (1..8_usize).prop_flat_map(|count| {
        let edges = prop::collection::vec(prop::bool::weighted(0.35), count * count);
        let retries = prop::collection::vec(0..3_u32, count);
        let end = prop_oneof![
            6 => Just(TaskState::Completed),
            1 => Just(TaskState::Failed),
            1 => Just(TaskState::Expired),
        ];
        let ends = prop::collection::vec(end, count);
        let ops = prop::collection::vec(op(), 0..60);
        (edges, retries, ends, ops).prop_map(move |(edges, retries, ends, ops)| {
            let before = |task: usize| (0..task).filter(|other| edges[task * count + other]).collect();
            Scenario { dependencies: (0..count).map(before).collect(), retries, ends, ops }
        })
    })
}

pub(crate) async fn a_random_graph_ends_as_the_model_says(stand: Stand) {
    let config = Config { cases: 100, failure_persistence: None, ..Config::default() };
    let handle = Handle::current();
    let result = tokio::task::block_in_place(|| {
        TestRunner::new(config)
            .run(&scenario(), |scenario| handle.block_on(Play::new(stand.clone(), scenario).all()))
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// One scenario on the stand, beside the model.
struct Play {
    stand: Stand,
    scenario: Scenario,
    workflow: String,
    model: Model,
    /// Messages in flight: task and attempt.
    messages: Vec<(usize, u32)>,
    /// Leases that workers hold, with the model's number.
    leases: Vec<(usize, Lease, u32)>,
    /// Leases that were ended or left behind.
    past: Vec<(usize, Lease, u32)>,
}

impl Play {
    fn new(stand: Stand, scenario: Scenario) -> Play {
        let model = Model::new(&scenario.dependencies);
        let workflow = format!("w-{}", Uuid::now_v7());
        Play { stand, scenario, workflow, model, messages: vec![], leases: vec![], past: vec![] }
    }

    async fn all(mut self) -> Result<(), TestCaseError> {
        self.create().await?;
        for op in self.scenario.ops.clone() {
            self.step(&op).await?;
        }
        self.drain().await?;
        self.check_end().await
    }

    async fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let pick = |number: usize, of: usize| (of > 0).then(|| number % of);
        match *op {
            Op::Deliver { message, keep } => match pick(message, self.messages.len()) {
                Some(at) => self.deliver(at, keep, false).await,
                None => Ok(()),
            },
            Op::TakeOver { message } => match pick(message, self.messages.len()) {
                Some(at) => self.deliver(at, false, true).await,
                None => Ok(()),
            },
            Op::Finish { lease, crash } => match pick(lease, self.leases.len()) {
                Some(at) => self.finish(at, crash).await,
                None => Ok(()),
            },
            Op::Repeat { lease } => match pick(lease, self.past.len()) {
                Some(at) => {
                    let (task, lease, number) = self.past[at].clone();
                    self.end(task, &lease, number, How::Ended(self.scenario.ends[task]), true).await
                }
                None => Ok(()),
            },
            Op::Abandon { lease } => match pick(lease, self.leases.len()) {
                Some(at) => {
                    let (task, lease, number) = self.leases.swap_remove(at);
                    self.past.push((task, lease.clone(), number));
                    self.end(task, &lease, number, How::Abandoned, true).await?;
                    self.messages.push((task, lease.attempt));
                    Ok(())
                }
                None => Ok(()),
            },
            Op::Create => self.create().await,
            Op::Stray { task, attempt } => {
                self.messages.push((task % self.scenario.ends.len(), attempt));
                Ok(())
            }
            Op::Cancel => self.cancel().await,
        }
    }

    async fn create(&mut self) -> Result<(), TestCaseError> {
        let name = |index: &usize| format!("t{index}");
        let named: Vec<(String, Vec<String>)> = (0..self.scenario.ends.len())
            .map(|at| (name(&at), self.scenario.dependencies[at].iter().map(name).collect()))
            .collect();
        let lists: Vec<Vec<&str>> =
            named.iter().map(|(_, list)| list.iter().map(String::as_str).collect()).collect();
        let tasks: Vec<(&str, &[&str])> =
            named.iter().zip(&lists).map(|((name, _), list)| (name.as_str(), list.as_slice())).collect();
        match self.stand.create(&plan(&self.workflow, &tasks)).await {
            Created::Running(released) => {
                prop_assert!(!self.model.state().is_ended());
                prop_assert_eq!(sorted(names(&released)), self.model.unclaimed());
                self.publish(&names(&released));
            }
            Created::Over(state) => prop_assert_eq!(state, self.model.state()),
        }
        Ok(())
    }

    async fn deliver(&mut self, at: usize, keep: bool, take_over: bool) -> Result<(), TestCaseError> {
        let (task, attempt) = self.messages[at];
        let key = within(&self.workflow, &format!("t{task}"));
        let session = format!("s{}", self.past.len() + self.leases.len());
        let mut answer = self.stand.claim(&key, attempt, &session).await;
        let expected = self.model.claim(task, attempt, &session, None);
        prop_assert_eq!(Answer::of(&answer), expected);
        if let (Claimed::Held { fence, .. }, true) = (&answer, take_over) {
            let claim = Claim { over: Some(*fence), ..claim(&key, attempt, &session) };
            answer = self.stand.ask(&claim).await;
            let expected = self.model.claim(task, attempt, &session, self.model.lease(task));
            prop_assert_eq!(Answer::of(&answer), expected);
        }
        match answer {
            Claimed::Run { lease, .. } => {
                let earlier = self.leases.iter().chain(&self.past).filter(|(of, ..)| *of == task);
                for (_, earlier, _) in earlier {
                    prop_assert!(lease.fence > earlier.fence, "{:?} after {:?}", lease, earlier);
                }
                let number = self.model.lease(task).expect("the model gave a lease");
                self.leases.push((task, lease, number));
                // The delivery is held until the attempt ends; a crash gives it back.
                return Ok(());
            }
            Claimed::Held { .. } => return Ok(()),
            Claimed::NotReady => {}
            Claimed::Next { attempt, .. } => self.messages.push((task, attempt)),
            Claimed::Over { released, .. } => self.publish(&names(&released)),
            Claimed::NoWorkflow => prop_assert!(false, "the workflow is known"),
        }
        if !keep {
            self.messages.remove(at);
        }
        Ok(())
    }

    async fn finish(&mut self, at: usize, crash: bool) -> Result<(), TestCaseError> {
        let (task, lease, number) = self.leases.swap_remove(at);
        self.past.push((task, lease.clone(), number));
        let how = if lease.attempt <= self.scenario.retries[task] {
            How::Again
        } else {
            How::Ended(self.scenario.ends[task])
        };
        self.end(task, &lease, number, how, !crash).await?;
        if how == How::Again && !crash {
            self.messages.push((task, lease.attempt + 1));
        }
        Ok(())
    }

    async fn end(
        &mut self,
        task: usize,
        lease: &Lease,
        number: u32,
        how: How,
        publish: bool,
    ) -> Result<(), TestCaseError> {
        let end = match how {
            How::Ended(state) => ended(&lease.key, state, json!(task)),
            How::Again => End::Again { due: self.stand.now(), entry: "{}".to_owned() },
            How::Abandoned => End::Abandoned,
        };
        let finished = self.stand.finish(lease, &end).await;
        let expected = match self.model.finish(task, number, how) {
            Ended::Done { released, failed, workflow } => {
                let refs = |list: &[String]| sorted(list.iter().map(String::as_str).collect());
                Ended::Done { released: refs(&released), failed: refs(&failed), workflow }
            }
            Ended::Lost => Ended::Lost,
        };
        prop_assert_eq!(Ended::of(&finished), expected);
        if let (Finished::Done { released, .. }, true) = (&finished, publish) {
            self.publish(&names(released));
        }
        Ok(())
    }

    async fn cancel(&mut self) -> Result<(), TestCaseError> {
        let root = id(&self.workflow);
        let answer = self.stand.store.cancel(&root, self.stand.now()).await.expect("cancel answers");
        match answer {
            Cancelled::Done { running } => {
                prop_assert!(!self.model.state().is_ended());
                let tasks = self.model.tasks.iter();
                let expected = tasks.filter(|task| task.state == TaskState::Running).count();
                prop_assert_eq!(running.len(), expected);
                self.model.cancel();
            }
            Cancelled::Over(state) => prop_assert_eq!(state, self.model.state().name()),
            Cancelled::Marked => prop_assert!(false, "the workflow is known"),
        }
        Ok(())
    }

    /// Whatever is in flight is delivered until nothing is: every worker ends what it has, dead holders are
    /// taken over.
    async fn drain(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..10_000 {
            if !self.leases.is_empty() {
                self.finish(0, false).await?;
            } else if !self.messages.is_empty() {
                self.deliver(0, false, true).await?;
            } else {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("it never ends"))
    }

    async fn check_end(&self) -> Result<(), TestCaseError> {
        let flow = self.stand.store.workflow(&id(&self.workflow)).await.expect("answers").expect("known");
        prop_assert!(flow.state.is_ended(), "{:?}", flow);
        prop_assert_eq!(flow.state, self.model.state());
        let outcome = super::stand::parse(self.stand.outcome(&self.workflow).await);
        prop_assert_eq!(&outcome["status"], flow.state.name());
        for (at, task) in self.model.tasks.iter().enumerate() {
            prop_assert_eq!(flow.tasks[at].state, task.state);
            prop_assert_eq!(&outcome["tasks"][at]["status"], task.state.name());
            prop_assert!(task.readied <= 1);
            if self.model.is_cancelled {
                continue;
            }
            // Not only as the model did it, but as the graph demands.
            let completed = |at: &usize| self.model.tasks[*at].state == TaskState::Completed;
            let is_ready = task.dependencies.iter().all(completed);
            let demanded = if is_ready { self.scenario.ends[at] } else { TaskState::Failed };
            prop_assert_eq!(task.state, demanded);
        }
        Ok(())
    }

    fn publish(&mut self, names: &[&str]) {
        for name in names {
            let task = name[1..].parse().expect("tasks are named t0, t1 ...");
            self.messages.push((task, 1));
        }
    }
}
