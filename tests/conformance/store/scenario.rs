//! What the property test of the store draws: a graph, how its tasks end, and what happens.

use proptest::prelude::*;

use super::model::Spec;
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Otherwise, Why};

/// What happens next; numbers choose among what is there.
#[derive(Debug, Clone)]
pub(crate) enum Op {
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
    /// A message of a later run than the store knows of.
    Lost { task: usize },
    /// Somebody, or its time, ends it all.
    Cancel { why: Why },
    /// Somebody asks for a retry. With `crash` nobody publishes what it released, before it is asked again.
    Retry { by: u8, crash: bool },
}

/// A graph, how its tasks end, and what happens; then how often it is tried again.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) top: Level,
    pub(crate) ops: Vec<Op>,
    pub(crate) retries: u32,
}

/// Tasks that may wait for each other.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    pub(crate) nodes: Vec<Node>,
    pub(crate) bound: Option<u32>,
}

/// A task.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Earlier tasks of the same level.
    pub(crate) edges: Vec<(usize, Otherwise)>,
    pub(crate) tolerated: bool,
    pub(crate) priority: u8,
    /// Attempts that are to be repeated.
    pub(crate) attempts: u32,
    /// How it ends in the first run, in the second, and later.
    ends: [TaskState; 3],
    /// What it plans.
    pub(crate) expansion: Option<Box<Level>>,
}

impl Node {
    pub(crate) fn end(&self, run: u32) -> TaskState {
        let run = usize::try_from(run).expect("small");
        self.ends[run.min(3) - 1]
    }

    pub(crate) fn name(parent: &str, at: usize) -> String {
        if parent.is_empty() { format!("t{at}") } else { format!("{parent}.{at}") }
    }

    pub(crate) fn specs(nodes: &[Node], parent: &str) -> Vec<Spec> {
        let spec = |(at, node): (usize, &Node)| Spec {
            name: Node::name(parent, at),
            edges: node.edges.clone(),
            tolerated: node.tolerated,
            priority: node.priority,
        };
        nodes.iter().enumerate().map(spec).collect()
    }
}

impl Level {
    /// The task of this name: `t3.1.0` is the first that the second that `t3` plans plans.
    pub(crate) fn find(&self, name: &str) -> &Node {
        let mut places = name[1..].split('.').map(|place| place.parse::<usize>().expect("a number"));
        let first = places.next().expect("a name has a place");
        places.fold(&self.nodes[first], |node, at| {
            &node.expansion.as_deref().expect("it has planned this").nodes[at]
        })
    }
}

/// How likely it is that a task plans others, that it waits for an earlier one, and that a level is bounded.
#[derive(Debug, Clone, Copy)]
struct Shape {
    expands: f64,
    waits: f64,
    is_bounded: f64,
}

fn op() -> impl Strategy<Value = Op> {
    let any = 0..1000_usize;
    let (lost, crash) = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let why = prop_oneof![
        Just(Why::Request { by: None }),
        (0..3_u8).prop_map(|number| Why::Request { by: Some(super::stand::id(&format!("c{number}"))) }),
        (1..4_u32).prop_map(|run| Why::Timeout { run }),
    ];
    prop_oneof![
        100 => (any.clone(), lost).prop_map(|(message, keep)| Op::Deliver { message, keep }),
        20 => any.clone().prop_map(|message| Op::TakeOver { message }),
        80 => (any.clone(), crash).prop_map(|(lease, crash)| Op::Finish { lease, crash }),
        20 => any.clone().prop_map(|lease| Op::Repeat { lease }),
        10 => any.clone().prop_map(|lease| Op::Abandon { lease }),
        10 => Just(Op::Create),
        10 => (any.clone(), 1..4_u32).prop_map(|(task, attempt)| Op::Stray { task, attempt }),
        2 => any.prop_map(|task| Op::Lost { task }),
        // About one scenario in four is cancelled at some point.
        2 => why.prop_map(|why| Op::Cancel { why }),
        6 => (0..3_u8, crash).prop_map(|(by, crash)| Op::Retry { by, crash }),
    ]
}

fn node(depth: u32, shape: Shape) -> BoxedStrategy<Node> {
    let end = prop_oneof![
        6 => Just(TaskState::Completed),
        2 => Just(TaskState::Failed),
        1 => Just(TaskState::Expired),
        1 => Just(TaskState::Skipped),
    ];
    let later = prop_oneof![4 => Just(TaskState::Completed), 1 => Just(TaskState::Failed)];
    let ends = (end, later.clone(), later).prop_map(|(first, second, third)| [first, second, third]);
    let attempts = prop_oneof![3 => Just(0), 1 => 1..3_u32];
    let priority = prop_oneof![3 => Just(4_u8), 1 => 0..10_u8];
    let expansion = match depth {
        0 => Just(None).boxed(),
        _ => prop::option::weighted(shape.expands, level(depth - 1, 5, shape).prop_map(Box::new)).boxed(),
    };
    (ends, attempts, priority, prop::bool::weighted(0.2), expansion)
        .prop_map(|(ends, attempts, priority, tolerated, expansion)| Node {
            edges: Vec::new(),
            tolerated,
            priority,
            attempts,
            ends,
            expansion,
        })
        .boxed()
}

fn level(depth: u32, most: usize, shape: Shape) -> BoxedStrategy<Level> {
    let nodes = prop::collection::vec(node(depth, shape), 1..most);
    let way = prop_oneof![Just(Otherwise::Fail), Just(Otherwise::Skip), Just(Otherwise::Continue)];
    let edges = prop::collection::vec(prop::option::weighted(shape.waits, way), most * most);
    let bound = prop::option::weighted(shape.is_bounded, 1..4_u32);
    (nodes, edges, bound)
        .prop_map(move |(mut nodes, edges, bound)| {
            for (at, node) in nodes.iter_mut().enumerate() {
                let chosen = |on: usize| edges[at * most + on].map(|otherwise| (on, otherwise));
                node.edges = (0..at).filter_map(chosen).collect();
            }
            Level { nodes, bound }
        })
        .boxed()
}

pub(crate) fn scenario() -> impl Strategy<Value = Scenario> {
    scenario_of(Shape { expands: 0.25, waits: 0.35, is_bounded: 0.4 })
}

/// Almost every level is bounded, most tasks plan others, and few wait for each other.
pub(crate) fn bounds_within_bounds() -> impl Strategy<Value = Scenario> {
    scenario_of(Shape { expands: 0.7, waits: 0.1, is_bounded: 0.95 })
}

fn scenario_of(shape: Shape) -> impl Strategy<Value = Scenario> {
    (level(2, 8, shape), prop::collection::vec(op(), 0..80), 0..3_u32)
        .prop_map(|(top, ops, retries)| Scenario { top, ops, retries })
}
