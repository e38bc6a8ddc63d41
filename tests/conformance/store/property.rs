//! Random graphs, ends, crashes, duplicates and orders of delivery, compared step by step with the model.
//!
//! The test is a broker and its workers in small: it holds the messages in flight, in no order, and does to
//! them what an operation says. A worker that crashes leaves its message in flight and its lease behind.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::answers::{Again, Answer, Ended};
use super::model::{How, Model, verdict};
use super::scenario::{Node, Op, Scenario, bounds_within_bounds, scenario};
use super::stand::{Stand, bounded, claim, ended, id, owned, planned, within};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{
    Cancelled, Claim, Claimed, End, Finished, Lease, Plan, PlannedTask, Released, Retried, Why,
};

/// How many scenarios, if the environment does not ask for more.
const CASES: u32 = 100;
/// The same of larger ones.
const CASES_OF_BOUNDS: u32 = 25;

pub(crate) async fn a_random_graph_ends_as_the_model_says(stand: Stand) {
    play(stand, scenario(), CASES);
}

/// A task of a bounded workflow plans bounded children that plan bounded children, all at once and again after
/// retries: as long as one is open, one can go on.
pub(crate) async fn bounds_within_bounds_never_stand_still(stand: Stand) {
    play(stand, bounds_within_bounds(), CASES_OF_BOUNDS);
}

fn play(stand: Stand, scenarios: impl Strategy<Value = Scenario>, cases: u32) {
    let asked = super::backends::environment("GLEITZEIT_PROPERTY_CASES");
    let cases = asked.map_or(cases, |cases| cases.parse().expect("GLEITZEIT_PROPERTY_CASES is a number"));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let handle = Handle::current();
    let result = tokio::task::block_in_place(|| {
        TestRunner::new(config)
            .run(&scenarios, |scenario| handle.block_on(Play::start(stand.clone(), scenario)))
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// A lease that a worker holds, or held.
#[derive(Debug, Clone)]
struct Held {
    /// The model's task and its number of the lease.
    task: usize,
    number: u32,
    lease: Lease,
    has_children: bool,
}

/// One scenario on the stand, beside the model.
struct Play {
    stand: Stand,
    scenario: Scenario,
    workflow: String,
    model: Model,
    /// Messages in flight: task, run and attempt.
    messages: Vec<(String, (u32, u32))>,
    leases: Vec<Held>,
    /// Leases that were ended or left behind.
    past: Vec<Held>,
    /// Commands in flight: a retry whose answer was not published.
    commands: Vec<String>,
    is_cancelled: bool,
}

impl Play {
    async fn start(stand: Stand, scenario: Scenario) -> Result<(), TestCaseError> {
        let workflow = format!("w-{}", Uuid::now_v7());
        let created = stand.create(&plan(&workflow, &scenario)).await;
        let chosen = owned(&created.released);
        let model = Model::new(&Node::specs(&scenario.top.nodes, ""), scenario.top.bound, &chosen);
        let model = model.map_err(TestCaseError::fail)?;
        prop_assert_eq!(created.state, WorkflowState::Running);
        let mut play = Play {
            stand,
            scenario,
            workflow,
            model,
            messages: vec![],
            leases: vec![],
            past: vec![],
            commands: vec![],
            is_cancelled: false,
        };
        play.publish(&chosen);
        play.all().await
    }

    async fn all(mut self) -> Result<(), TestCaseError> {
        for op in self.scenario.ops.clone() {
            self.step(&op).await?;
        }
        self.drain().await?;
        self.check_end().await?;
        for round in 0..self.scenario.retries {
            self.retry(&format!("last-{round}"), round % 2 == 0).await?;
            self.drain().await?;
            self.check_end().await?;
        }
        Ok(())
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
                    let held = self.past[at].clone();
                    let how = self.how(&held);
                    self.end(&held, &how, true).await
                }
                None => Ok(()),
            },
            Op::Abandon { lease } => match pick(lease, self.leases.len()) {
                Some(at) => {
                    let held = self.leases.swap_remove(at);
                    self.past.push(held.clone());
                    self.messages
                        .push((held.lease.key.id().to_string(), (held.lease.run, held.lease.attempt)));
                    self.end(&held, &How::Abandoned, true).await
                }
                None => Ok(()),
            },
            Op::Create => self.create().await,
            Op::Stray { task, attempt } => {
                let name = self.model.tasks[task % self.model.tasks.len()].name.clone();
                let run = if attempt % 2 == 0 { 1 } else { self.model.run };
                self.messages.push((name, (run, attempt)));
                Ok(())
            }
            Op::Lost { task } => {
                let name = self.model.tasks[task % self.model.tasks.len()].name.clone();
                self.messages.push((name, (self.model.run + 1, 1)));
                Ok(())
            }
            Op::Cancel { ref why } => self.cancel(why).await,
            Op::Retry { by, crash } => self.retry(&format!("r{by}"), crash).await,
        }
    }

    async fn create(&mut self) -> Result<(), TestCaseError> {
        let created = self.stand.create(&plan(&self.workflow, &self.scenario)).await;
        prop_assert_eq!(created.state, self.model.state());
        let ready = if created.state.is_ended() { Vec::new() } else { self.model.unclaimed() };
        prop_assert_eq!(self.model.without_abandoned(owned(&created.released)), ready);
        self.check_run(&created.released)?;
        self.publish(&owned(&created.released));
        Ok(())
    }

    async fn deliver(&mut self, at: usize, keep: bool, take_over: bool) -> Result<(), TestCaseError> {
        let (name, of) = self.messages[at].clone();
        let key = within(&self.workflow, &name);
        let session = format!("s{}", self.past.len() + self.leases.len());
        let claim = Claim { run: Some(of.0), ..claim(&key, of.1, &session) };
        let mut answer = self.stand.ask(&claim).await;
        let Some(task) = self.model.find(&name) else {
            // A child of a parent that was reset.
            let present = self.model.run;
            let expected = match of.0 {
                run if run > present => Answer::LostRun { present },
                _ => Answer::Over { state: TaskState::Cancelled, released: vec![] },
            };
            prop_assert_eq!(Answer::of(&answer, &self.model), expected, "{} is gone", name);
            self.messages.remove(at);
            return Ok(());
        };
        let expected = self.model.claim(task, of, &session, None);
        prop_assert_eq!(Answer::of(&answer, &self.model), expected, "claim of {}", name);
        if let (Claimed::Held { fence, .. }, true) = (&answer, take_over) {
            answer = self.stand.ask(&Claim { over: Some(*fence), ..claim }).await;
            let expected = self.model.claim(task, of, &session, self.model.lease(task));
            prop_assert_eq!(Answer::of(&answer, &self.model), expected, "take-over of {}", name);
        }
        match answer {
            Claimed::Run { lease, children, .. } => {
                for earlier in self.leases.iter().chain(&self.past) {
                    let is_same = earlier.lease.key == lease.key;
                    prop_assert!(
                        !is_same || lease.fence > earlier.lease.fence,
                        "{lease:?} after {earlier:?}"
                    );
                }
                prop_assert_eq!(lease.run, self.model.run);
                let number = self.model.lease(task).expect("the model gave a lease");
                self.leases.push(Held { task, number, lease, has_children: !children.is_empty() });
                // The delivery is held until the attempt ends; a crash gives it back.
                return Ok(());
            }
            Claimed::Held { .. } => return Ok(()),
            Claimed::Next { attempt, .. } => self.messages.push((name, (of.0, attempt))),
            // Settled; of a lost run a dead letter tells.
            Claimed::Superseded | Claimed::LostRun { .. } => {}
            Claimed::NotReady { released } | Claimed::Over { released, .. } => {
                self.check_run(&released)?;
                self.publish(&owned(&released))
            }
            Claimed::NoWorkflow => prop_assert!(false, "{answer:?}"),
        }
        if !keep {
            self.messages.remove(at);
        }
        Ok(())
    }

    async fn finish(&mut self, at: usize, crash: bool) -> Result<(), TestCaseError> {
        let held = self.leases.swap_remove(at);
        self.past.push(held.clone());
        let how = self.how(&held);
        self.end(&held, &how, !crash).await?;
        if matches!(how, How::Again) && !crash {
            self.messages.push((held.lease.key.id().to_string(), (held.lease.run, held.lease.attempt + 1)));
        }
        Ok(())
    }

    /// What the scenario says of this attempt.
    fn how(&self, held: &Held) -> How {
        let name = held.lease.key.id().as_str();
        let node = self.scenario.top.find(name);
        match &node.expansion {
            _ if held.lease.attempt <= node.attempts => How::Again,
            Some(level) if !held.has_children => {
                How::Expanded { children: Node::specs(&level.nodes, name), bound: level.bound }
            }
            _ => How::Ended(node.end(self.model.run)),
        }
    }

    async fn end(&mut self, held: &Held, how: &How, publish: bool) -> Result<(), TestCaseError> {
        let lease = &held.lease;
        let end = match how {
            How::Ended(state) => ended(&lease.key, *state, json!(1)),
            How::Expanded { bound, .. } => {
                let level = self.scenario.top.find(lease.key.id().as_str()).expansion.as_deref();
                let nodes = &level.expect("it expands").nodes;
                let tasks = tasks(&self.workflow, nodes, lease.key.id().as_str());
                End::Expanded { tasks, max_parallel: bound.and_then(std::num::NonZeroU32::new) }
            }
            How::Again => End::Again { due: self.stand.now(), entry: "{}".to_owned() },
            How::Abandoned => End::Abandoned,
        };
        let finished = self.stand.finish(lease, &end).await;
        let chosen = match &finished {
            Finished::Done { released, .. } => {
                self.check_run(released)?;
                owned(released)
            }
            Finished::Lost => vec![],
        };
        let expected = self.model.finish(held.task, held.number, how, &chosen);
        let expected =
            expected.map_err(|reason| TestCaseError::fail(format!("{lease:?} {how:?}: {reason}")))?;
        prop_assert_eq!(Ended::of(&finished, &self.model), expected, "{:?} {:?}", lease, how);
        if publish {
            self.publish(&chosen);
        }
        Ok(())
    }

    async fn cancel(&mut self, why: &Why) -> Result<(), TestCaseError> {
        let running = self.model.tasks.iter().filter(|task| task.state == TaskState::Running).count();
        let ended_so = self.model.ended_so(why);
        let is_done = self.model.cancel(why);
        self.is_cancelled |= is_done;
        match self.stand.cancel(&self.workflow, why.clone()).await {
            Cancelled::Done { running: told, .. } => {
                prop_assert!(is_done);
                prop_assert_eq!(told.len(), running);
            }
            Cancelled::Again { .. } => prop_assert!(!is_done && ended_so == Some(self.model.run)),
            Cancelled::Earlier => prop_assert!(!is_done && ended_so.is_some_and(|run| run < self.model.run)),
            Cancelled::Over(state) => {
                prop_assert!(!is_done && ended_so.is_none());
                prop_assert_eq!(state, self.model.state().name());
            }
            Cancelled::Marked => prop_assert!(false, "the workflow is known"),
        }
        Ok(())
    }

    async fn retry(&mut self, by: &str, crash: bool) -> Result<(), TestCaseError> {
        let answer = self.stand.retry(&self.workflow, by).await;
        if self.model.state() == WorkflowState::Completed && matches!(answer, Retried::Gone(_)) {
            // What it tolerated may run again only while the store has kept the messages.
            return Ok(());
        }
        let chosen = match &answer {
            Retried::Running { released, .. } => owned(released),
            _ => vec![],
        };
        let expected = self.model.retry(by, &chosen);
        let expected = expected.map_err(|reason| TestCaseError::fail(format!("retry by {by}: {reason}")))?;
        let answered = match &answer {
            Retried::Running { released, run, .. } => {
                Again::Running { released: self.model.without_abandoned(owned(released)), run: *run }
            }
            Retried::NotEnded => Again::NotEnded,
            Retried::Nothing => Again::Nothing,
            Retried::Gone(_) | Retried::NotTakenIn | Retried::Unknown => {
                return Err(TestCaseError::fail(format!("{answer:?} instead of {expected:?}")));
            }
        };
        prop_assert_eq!(answered, expected, "retry by {}", by);
        if let Retried::Running { released, .. } = &answer {
            self.check_run(released)?;
        }
        if crash {
            self.commands.push(by.to_owned());
        } else {
            self.publish(&chosen);
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
            } else if let Some(by) = self.commands.pop() {
                self.retry(&by, false).await?;
            } else {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("it never ends"))
    }

    async fn check_end(&self) -> Result<(), TestCaseError> {
        let flow = self.stand.workflow(&self.workflow).await;
        prop_assert!(flow.state.is_ended(), "{:?}", flow);
        prop_assert_eq!(flow.state, self.model.state());
        let outcome = super::stand::parse(self.stand.outcome(&self.workflow).await);
        prop_assert_eq!(&outcome["status"], flow.state.name());
        let mut own = 0;
        let order = self.model.order();
        prop_assert_eq!(order.len(), flow.tasks.len());
        for (at, record) in order.iter().zip(&flow.tasks) {
            let task = &self.model.tasks[*at];
            prop_assert_eq!(record.head.key.id().as_str(), &task.name);
            prop_assert_eq!(record.state, task.state, "{}", task.name);
            let parent = task.parent.map(|parent| id(&self.model.tasks[parent].name));
            prop_assert_eq!(&record.parent, &parent);
            let result = self.stand.result(&record.head.key).await;
            prop_assert_eq!(&super::stand::parse(result)["status"], task.state.name());
            if parent.is_none() {
                prop_assert_eq!(&outcome["tasks"][own]["id"], &task.name);
                prop_assert_eq!(&outcome["tasks"][own]["status"], task.state.name());
                own += 1;
            }
        }
        prop_assert_eq!(outcome["tasks"].as_array().map(Vec::len), Some(own));
        self.check_demanded()
    }

    /// Not only as the model did it, but as the graph demands.
    fn check_demanded(&self) -> Result<(), TestCaseError> {
        if self.is_cancelled || self.model.run > 1 {
            return Ok(());
        }
        let mut demanded: Vec<TaskState> = Vec::new();
        for (at, node) in self.scenario.top.nodes.iter().enumerate() {
            let verdicts = node.edges.iter().map(|(on, otherwise)| verdict(demanded[*on], *otherwise));
            let verdicts: Vec<TaskState> = verdicts.collect();
            let unrun = [TaskState::Failed, TaskState::Skipped];
            let unrun = unrun.into_iter().find(|state| verdicts.contains(state));
            demanded.push(unrun.unwrap_or(node.end(1)));
            prop_assert_eq!(self.model.tasks[at].state, demanded[at]);
        }
        Ok(())
    }

    fn publish(&mut self, names: &[String]) {
        for name in names {
            // A parent that goes on does so in the attempt that it was in.
            let attempt = self.past.iter().rev().find(|held| held.lease.key.id().as_str() == name);
            let goes_on = self.model.find(name).is_some_and(|at| !self.model.tasks[at].children.is_empty());
            let attempt = attempt.filter(|_| goes_on).map_or(1, |held| held.lease.attempt);
            self.messages.push((name.clone(), (self.model.run, attempt)));
        }
    }

    /// What is released is of the present run.
    fn check_run(&self, released: &[Released]) -> Result<(), TestCaseError> {
        for one in released {
            prop_assert_eq!(one.run, self.model.run, "{:?}", one);
        }
        Ok(())
    }
}

fn plan(workflow: &str, scenario: &Scenario) -> Plan {
    let plan = Plan { tasks: tasks(workflow, &scenario.top.nodes, ""), ..super::stand::plan(workflow, &[]) };
    bounded(plan, scenario.top.bound.unwrap_or(0))
}

fn tasks(workflow: &str, nodes: &[Node], parent: &str) -> Vec<PlannedTask> {
    let labels: Vec<String> = (0..nodes.len()).map(|at| Node::name(parent, at)).collect();
    let list: Vec<(&str, Vec<_>)> = labels
        .iter()
        .zip(nodes)
        .map(|(label, node)| {
            (label.as_str(), node.edges.iter().map(|(on, way)| (labels[*on].as_str(), *way)).collect())
        })
        .collect();
    let list: Vec<(&str, &[_])> = list.iter().map(|(label, edges)| (*label, edges.as_slice())).collect();
    let mut tasks = planned(workflow, &list);
    for (task, node) in tasks.iter_mut().zip(nodes) {
        task.tolerated = node.tolerated;
        task.message.priority = node.priority;
    }
    tasks
}
