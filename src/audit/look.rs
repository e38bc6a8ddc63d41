//! Looking: at every open root once, and at suspects a second time.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::judge::{Facts, Why, is_old, judge};
use super::{Asked, Depths, FINDINGS_MAX, Finding, PAGE, Parts, Report};
use crate::broker::{BrokerError, Depth};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::protocol::ProtocolId;
use crate::core::state::{TaskState, WorkflowState};
use crate::error::Error;
use crate::store::{OpenRoot, SCHEDULES_MAX, ScheduleState, TaskRecord, WorkflowRecord};
use crate::topology::{Address, Queue};

/// What is accused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A task.
    Task(TaskKey),
    /// A whole workflow.
    Workflow(Id),
    /// A schedule: its name, its armed slot, its generation.
    Schedule(Id, Timestamp, u32),
}

impl Subject {
    /// As programs call it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Subject::Task(_) => "task",
            Subject::Workflow(_) => "workflow",
            Subject::Schedule(..) => "schedule",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Task(key) => key.fmt(f),
            Subject::Workflow(id) | Subject::Schedule(id, ..) => id.fmt(f),
        }
    }
}

/// Accused at the first look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Suspect {
    subject: Subject,
    state: &'static str,
    since: Timestamp,
    pub(super) why: Why,
    /// Where its message should be.
    queue: Queue,
    /// Attempts and session: what a step changes though the state may be the same.
    mark: (u32, Option<Id>),
}

/// How deep the queues are. One that does not exist holds nothing.
pub(super) async fn depths(parts: &Parts) -> Result<Depths, Error> {
    let mut depths = Depths::new();
    for queue in &parts.queues {
        let depth = match parts.broker.depth(queue).await {
            Ok(depth) => Some(depth),
            Err(BrokerError::NoQueue { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        depths.insert(queue.clone(), depth);
    }
    Ok(depths)
}

/// Whoever is accused at the first look; counts everybody.
pub(super) async fn suspects(
    parts: &Parts,
    asked: &Asked,
    report: &mut Report,
) -> Result<Vec<Suspect>, Error> {
    let mut court = Court::new(parts, asked);
    let (mut after, mut seen) = (None, HashSet::new());
    // A page may have what another one had.
    let mut is_meant = |id: &Id| asked.root.as_ref().is_none_or(|only| only == id) && seen.insert(hash(id));
    loop {
        let page = parts.store.open(after.as_deref(), PAGE).await?;
        for (_, state) in page.ended.iter().filter(|(id, _)| is_meant(id)) {
            *report.balance.ended.entry(state).or_default() += 1;
        }
        for root in page.roots {
            if is_meant(id_of(&root)) {
                court.root(root, report).await?;
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if asked.root.is_none() {
        report.balance.schedules = court.schedules(&report.depths).await?;
    }
    tell_apart(report);
    report.has_more = court.has_more;
    Ok(court.suspects)
}

/// Those of whom nothing has changed.
pub(super) async fn still(parts: &Parts, suspects: Vec<Suspect>) -> Result<Vec<Suspect>, Error> {
    let mut still = Vec::new();
    for suspect in suspects {
        let is_same = match &suspect.subject {
            Subject::Task(key) => parts.store.task(key).await?.is_some_and(|task| {
                task.state.name() == suspect.state && (task.attempts, task.session) == suspect.mark
            }),
            Subject::Workflow(id) => parts.store.workflow(id).await?.is_some_and(|workflow| {
                workflow.state.name() == suspect.state
                    && (suspect.why != Why::NothingMoves || !moves(&workflow))
            }),
            Subject::Schedule(name, slot, generation) => {
                let there = parts.store.schedule(name).await?;
                there.is_some_and(|there| there.armed == Some(*slot) && there.generation == *generation)
            }
        };
        if is_same {
            still.push(suspect);
        }
    }
    Ok(still)
}

/// Those whose message could not be found at the second look either.
pub(super) async fn convicted(
    parts: &Parts,
    asked: &Asked,
    depths: [&Depths; 2],
    still: Vec<Suspect>,
) -> Result<Vec<Finding>, Error> {
    let mut court = Court::new(parts, asked);
    let mut findings = Vec::new();
    for suspect in still {
        let Suspect { subject, state, since, why, queue, mark } = suspect;
        if why != Why::NothingMoves && depths.iter().any(|depths| ready(depths, &queue) > 0) {
            continue;
        }
        if let (Why::WorkerDied, Some(session)) = (why, &mark.1)
            && court.lives(session).await?
        {
            continue;
        }
        findings.push(Finding { subject, state, since, why, is_repaired: false });
    }
    Ok(findings)
}

/// The first look.
struct Court<'a> {
    parts: &'a Parts,
    asked: &'a Asked,
    sessions: HashMap<Id, bool>,
    suspects: Vec<Suspect>,
    has_more: bool,
}

impl<'a> Court<'a> {
    fn new(parts: &'a Parts, asked: &'a Asked) -> Court<'a> {
        Court { parts, asked, sessions: HashMap::new(), suspects: Vec::new(), has_more: false }
    }

    async fn root(&mut self, root: OpenRoot, report: &mut Report) -> Result<(), Error> {
        let now = self.parts.clock.now();
        match root {
            OpenRoot::Task { record, created_at } => {
                report.balance.tasks_alone += 1;
                self.task(&record, created_at, report).await
            }
            OpenRoot::Accepted { id, created_at, due } => {
                let state = WorkflowState::Accepted.name();
                count(report, "workflows", state);
                report.balance.workflows_accepted += 1;
                let since = due.unwrap_or(created_at).max(created_at);
                if is_old(since, now, self.asked.older_than) && ready(&report.depths, &Queue::Workflows) == 0
                {
                    self.accuse(Suspect {
                        subject: Subject::Workflow(id),
                        state,
                        since,
                        why: Why::NotTakenIn,
                        queue: Queue::Workflows,
                        mark: (0, None),
                    });
                }
                Ok(())
            }
            OpenRoot::Running(id) => {
                let Some(workflow) = self.parts.store.workflow(&id).await? else { return Ok(()) };
                if workflow.state.is_ended() {
                    *report.balance.ended.entry(workflow.state.name()).or_default() += 1;
                    return Ok(());
                }
                report.balance.workflows += 1;
                self.workflow(&workflow, report).await
            }
        }
    }

    async fn workflow(&mut self, workflow: &WorkflowRecord, report: &mut Report) -> Result<(), Error> {
        // Each of its steps may have released any of its tasks.
        let times = workflow.tasks.iter().flat_map(|task| [task.started_at, task.ended_at]).flatten();
        let since = times.max().unwrap_or(workflow.created_at).max(workflow.created_at);
        for task in workflow.tasks.iter().filter(|task| !task.state.is_ended()) {
            self.task(task, since, report).await?;
        }
        let is_old = is_old(since, self.parts.clock.now(), self.asked.older_than);
        if workflow.state == WorkflowState::Running && is_old && !moves(workflow) {
            self.accuse(Suspect {
                subject: Subject::Workflow(workflow.id.clone()),
                state: workflow.state.name(),
                since,
                why: Why::NothingMoves,
                queue: Queue::Workflows,
                mark: (0, None),
            });
        }
        Ok(())
    }

    async fn task(&mut self, task: &TaskRecord, since: Timestamp, report: &mut Report) -> Result<(), Error> {
        count(report, &task.head.protocol, task.state.name());
        let is_held = match &task.session {
            Some(session) if task.state == TaskState::Running => self.lives(session).await?,
            Some(_) | None => false,
        };
        report.balance.count(task.state, is_held);
        let Some(queue) = queue_of(&task.head.protocol) else { return Ok(()) };
        let ready = ready(&report.depths, &queue);
        let since = task.started_at.map_or(since, |started| started.max(since));
        let facts = Facts { state: task.state, since, due: task.due, is_held, ready };
        if let Some(why) = judge(&facts, self.parts.clock.now(), self.asked.older_than) {
            self.accuse(Suspect {
                subject: Subject::Task(task.head.key.clone()),
                state: task.state.name(),
                since,
                why,
                queue,
                mark: (task.attempts, task.session.clone()),
            });
        }
        Ok(())
    }

    /// Looks at every schedule; how many fire.
    async fn schedules(&mut self, depths: &Depths) -> Result<u64, Error> {
        let (now, mut after, mut active) = (self.parts.clock.now(), None, 0);
        loop {
            let page = self.parts.store.schedules(after.as_ref(), PAGE.min(SCHEDULES_MAX)).await?;
            for schedule in &page {
                let Some(armed) = schedule.armed.filter(|_| schedule.state == ScheduleState::Active) else {
                    continue;
                };
                active += 1;
                let since = armed.max(schedule.changed_at);
                if is_old(since, now, self.asked.older_than) && ready(depths, &Queue::Workflows) == 0 {
                    self.accuse(Suspect {
                        subject: Subject::Schedule(schedule.name.clone(), armed, schedule.generation),
                        state: schedule.state.name(),
                        since,
                        why: Why::NoTick,
                        queue: Queue::Workflows,
                        mark: (0, None),
                    });
                }
            }
            after = page.last().map(|schedule| schedule.name.clone());
            if after.is_none() {
                return Ok(active);
            }
        }
    }

    /// Whether this worker session lives; asked once.
    async fn lives(&mut self, session: &Id) -> Result<bool, Error> {
        if let Some(known) = self.sessions.get(session) {
            return Ok(*known);
        }
        let lives = self.parts.store.alive(session, self.parts.clock.now()).await?;
        self.sessions.insert(session.clone(), lives);
        Ok(lives)
    }

    fn accuse(&mut self, suspect: Suspect) {
        if self.suspects.len() < FINDINGS_MAX {
            self.suspects.push(suspect);
        } else {
            self.has_more = true;
        }
    }
}

/// Whether some task of it has a message, or a worker.
fn moves(workflow: &WorkflowRecord) -> bool {
    workflow.tasks.iter().any(|task| match task.state {
        TaskState::Accepted | TaskState::Queued | TaskState::Delayed | TaskState::Running => true,
        TaskState::Waiting
        | TaskState::Completed
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Expired
        | TaskState::Skipped => false,
    })
}

fn count(report: &mut Report, of: &str, state: &'static str) {
    *report.counts.entry(of.to_owned()).or_default().entry(state).or_default() += 1;
}

/// Tells the queued tasks that are ready from the others, protocol by protocol.
fn tell_apart(report: &mut Report) {
    for (protocol, counts) in &report.counts {
        let Some(queue) = queue_of(protocol) else { continue };
        let ready = report.depths.get(&queue).copied().flatten().map_or(0, |depth| depth.ready);
        let queued = [TaskState::Accepted, TaskState::Queued].map(|state| counts.get(state.name()));
        report.balance.split(queued.into_iter().flatten().sum(), ready);
    }
}

fn hash(id: &Id) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

fn id_of(root: &OpenRoot) -> &Id {
    match root {
        OpenRoot::Task { record, .. } => &record.head.key.root,
        OpenRoot::Accepted { id, .. } | OpenRoot::Running(id) => id,
    }
}

/// The queue of a protocol, if it is one.
pub(super) fn queue_of(protocol: &str) -> Option<Queue> {
    let protocol: ProtocolId = protocol.parse().ok()?;
    Address::parse(&protocol.routing()).ok().map(Queue::Tasks)
}

fn ready(depths: &Depths, queue: &Queue) -> u64 {
    // A protocol that is not configured here: its queue was not looked at, so nobody is accused.
    depths.get(queue).map_or(u64::MAX, |depth| depth.map_or(0, |Depth { ready, .. }| ready))
}
