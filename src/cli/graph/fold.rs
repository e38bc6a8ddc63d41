//! What is drawn as one: the tasks of a workflow by who planned them, and those that are alike in one node.

use std::collections::HashMap;

use crate::core::id::Id;
use crate::store::TaskRecord;

/// So many tasks that are alike are folded.
const ALIKE_MIN: usize = 11;

/// The tasks of a workflow with who waits for whom, by position.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    pub(super) tasks: &'a [TaskRecord],
    /// What each waits for.
    pub(super) parents: Vec<Vec<usize>>,
    /// What each has planned.
    pub(super) children: Vec<Vec<usize>>,
    /// The tasks that the workflow itself has.
    pub(super) top: Vec<usize>,
}

/// Tasks that the same task has planned (or the workflow itself), with lines among them.
#[derive(Debug)]
pub(super) struct Block {
    /// Each one task, or several that are alike.
    pub(super) nodes: Vec<Vec<usize>>,
    /// What each node waits for, by its position in `nodes`.
    pub(super) parents: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(tasks: &'a [TaskRecord]) -> Graph<'a> {
        let positions: HashMap<&Id, usize> =
            tasks.iter().enumerate().map(|(position, task)| (task.head.key.id(), position)).collect();
        let mut graph = Graph {
            tasks,
            parents: Vec::with_capacity(tasks.len()),
            children: vec![Vec::new(); tasks.len()],
            top: Vec::new(),
        };
        for (position, task) in tasks.iter().enumerate() {
            let known = task.dependencies.iter().filter_map(|(id, _)| positions.get(id).copied());
            let mut parents: Vec<usize> = known.collect();
            parents.sort_unstable();
            parents.dedup();
            graph.parents.push(parents);
            match task
                .parent
                .as_ref()
                .and_then(|id| positions.get(id))
                .filter(|&&planner| planner != position)
            {
                Some(&planner) => graph.children[planner].push(position),
                None => graph.top.push(position),
            }
        }
        graph
    }

    /// What is drawn side by side of these tasks.
    pub(super) fn block(&self, members: &[usize], fold: bool) -> Block {
        let nodes = if fold { self.fold(members) } else { members.iter().map(|&task| vec![task]).collect() };
        let mut node_of = HashMap::with_capacity(members.len());
        for (node, tasks) in nodes.iter().enumerate() {
            node_of.extend(tasks.iter().map(|&task| (task, node)));
        }
        let parents_of = |tasks: &Vec<usize>| {
            // What is in one node waits for the same.
            let parents = self.parents[tasks[0]].iter().filter_map(|parent| node_of.get(parent).copied());
            let mut parents: Vec<usize> = parents.collect();
            parents.sort_unstable();
            parents.dedup();
            parents
        };
        let parents = nodes.iter().map(parents_of).collect();
        Block { nodes, parents }
    }

    /// The tasks in their order, those that wait for the same and are waited for by the same as one, if they
    /// are many and have planned nothing. Such nodes make no circle: a way from one of them to another would
    /// lead to a task that the first one waits for.
    fn fold(&self, members: &[usize]) -> Vec<Vec<usize>> {
        let mut waiting: HashMap<usize, Vec<usize>> = HashMap::new();
        for &task in members {
            for &parent in &self.parents[task] {
                waiting.entry(parent).or_default().push(task);
            }
        }
        let mut nodes: Vec<Vec<usize>> = Vec::new();
        let mut alike: HashMap<(&[usize], &[usize]), usize> = HashMap::new();
        for &task in members {
            let waits = waiting.get(&task).map_or(&[][..], Vec::as_slice);
            let shape = (self.parents[task].as_slice(), waits);
            match alike.get(&shape) {
                Some(&node) if self.children[task].is_empty() => nodes[node].push(task),
                _ => {
                    if self.children[task].is_empty() {
                        alike.insert(shape, nodes.len());
                    }
                    nodes.push(vec![task]);
                }
            }
        }
        let few = |node: &Vec<usize>| node.len() < ALIKE_MIN;
        let mut shown: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
        for node in nodes {
            match few(&node) {
                true => shown.extend(node.into_iter().map(|task| vec![task])),
                false => shown.push(node),
            }
        }
        shown.sort_unstable_by_key(|node| node[0]);
        shown
    }
}
