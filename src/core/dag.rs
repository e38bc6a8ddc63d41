//! The graph of a workflow: which task waits for which.
//!
//! Tasks are named by their position in the file. A [`Dag`] exists only without cycles, so whoever has one
//! need not ask again. Memory grows with tasks plus edges, never with their square.

use std::fmt;

/// A graph without cycles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dag {
    /// For each task the tasks that it waits for, sorted, without repeats.
    parents: Vec<Vec<usize>>,
    /// Every task after all its parents; among tasks that are ready at once, in the order of the file.
    order: Vec<usize>,
}

/// A circle of tasks, each waiting for the next: the first one is also the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle(pub Vec<usize>);

impl Dag {
    /// Builds the graph from each task's dependencies. Repeats count once.
    ///
    /// # Errors
    /// [`Cycle`] if tasks wait for each other in a circle, or one for itself.
    ///
    /// # Panics
    /// If a dependency is no position in `parents`; whoever maps names to positions rules that out.
    pub fn new(mut parents: Vec<Vec<usize>>) -> Result<Dag, Cycle> {
        for list in &mut parents {
            list.sort_unstable();
            list.dedup();
        }
        let children = children(&parents);
        let mut open_parents: Vec<usize> = parents.iter().map(Vec::len).collect();
        let mut order: Vec<usize> = (0..parents.len()).filter(|&task| open_parents[task] == 0).collect();
        let mut next = 0;
        while next < order.len() {
            for &child in &children[order[next]] {
                open_parents[child] -= 1;
                if open_parents[child] == 0 {
                    order.push(child);
                }
            }
            next += 1;
        }
        if order.len() < parents.len() {
            return Err(find_cycle(&parents, &open_parents));
        }
        Ok(Dag { parents, order })
    }

    /// How many tasks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there is no task.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// The tasks that `task` waits for, sorted, without repeats.
    #[must_use]
    pub fn parents(&self, task: usize) -> &[usize] {
        &self.parents[task]
    }

    /// Every task, each after all that it waits for.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// For each pair `(task, other)`: whether `task` waits for `other`, directly or through others.
    ///
    /// Pairs that the direct parents answer cost a look-up. The rest is answered for 64 different `other`s at a
    /// time, in one walk over the graph, so that ten thousand references to far ancestors stay cheap.
    #[must_use]
    pub fn waits_for(&self, pairs: &[(usize, usize)]) -> Vec<bool> {
        let mut answers: Vec<bool> =
            pairs.iter().map(|(task, other)| self.parents[*task].binary_search(other).is_ok()).collect();
        let mut open: Vec<usize> = (0..pairs.len()).filter(|&index| !answers[index]).collect();
        open.sort_unstable_by_key(|&index| pairs[index].1);

        let mut rest = open.as_slice();
        while !rest.is_empty() {
            let (batch, bits) = take_batch(rest, pairs);
            let reached = self.reached(&bits);
            for &index in batch {
                let (task, other) = pairs[index];
                let bit = bits.binary_search(&other).map_or(0, |position| 1_u64 << position);
                answers[index] = reached[task] & bit != 0;
            }
            rest = &rest[batch.len()..];
        }
        answers
    }

    /// For each task which of at most 64 `others` it waits for, as bits.
    fn reached(&self, others: &[usize]) -> Vec<u64> {
        let mut own = vec![0_u64; self.len()];
        for (position, &other) in others.iter().enumerate() {
            own[other] = 1 << position;
        }
        let mut reached = vec![0_u64; self.len()];
        for &task in &self.order {
            for &parent in &self.parents[task] {
                reached[task] |= reached[parent] | own[parent];
            }
        }
        reached
    }
}

/// The first pairs of `open` (sorted by their second part) that have at most 64 different second parts, and
/// these parts.
fn take_batch<'a>(open: &'a [usize], pairs: &[(usize, usize)]) -> (&'a [usize], Vec<usize>) {
    let mut others: Vec<usize> = Vec::new();
    for (count, &index) in open.iter().enumerate() {
        let other = pairs[index].1;
        if others.last() == Some(&other) {
            continue;
        }
        if others.len() == 64 {
            return (&open[..count], others);
        }
        others.push(other);
    }
    (open, others)
}

fn children(parents: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); parents.len()];
    for (task, list) in parents.iter().enumerate() {
        for &parent in list {
            children[parent].push(task);
        }
    }
    children
}

/// Follows open parents from the first task that has one until a task comes a second time. What is open has
/// an open parent, otherwise it would have been ordered, so the walk ends only on a cycle.
fn find_cycle(parents: &[Vec<usize>], open_parents: &[usize]) -> Cycle {
    let is_open = |task: usize| open_parents[task] > 0;
    let mut seen_at: Vec<Option<usize>> = vec![None; parents.len()];
    let mut walk: Vec<usize> = Vec::new();
    let mut current = (0..parents.len()).find(|&task| is_open(task));
    while let Some(task) = current {
        if let Some(start) = seen_at[task] {
            let mut circle = walk.split_off(start);
            let first = (0..circle.len()).min_by_key(|&at| circle[at]).unwrap_or(0);
            circle.rotate_left(first);
            circle.push(circle[0]);
            return Cycle(circle);
        }
        seen_at[task] = Some(walk.len());
        walk.push(task);
        current = parents[task].iter().copied().find(|&parent| is_open(parent));
    }
    Cycle(walk)
}

impl Cycle {
    /// The circle in words: `a -> b -> a`, shortened in the middle when it is long.
    #[must_use]
    pub fn named<'a>(&self, name: impl Fn(usize) -> &'a str) -> String {
        const SHOWN_MAX: usize = 20;
        let names: Vec<&str> = self.0.iter().map(|&task| name(task)).collect();
        if names.len() <= SHOWN_MAX {
            return names.join(" -> ");
        }
        let (head, tail) = (&names[..SHOWN_MAX / 2], &names[names.len() - SHOWN_MAX / 2..]);
        let left_out = names.len() - SHOWN_MAX;
        format!("{} -> ... ({left_out} more) ... -> {}", head.join(" -> "), tail.join(" -> "))
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let positions: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&positions.join(" -> "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_cycle_is_found_and_named() {
        let check = |parents: &[&[usize]], expected: &str| {
            let parents = parents.iter().map(|list| list.to_vec()).collect();
            let names = ["a", "b", "c", "d"];
            let found = Dag::new(parents).map_err(|cycle| cycle.named(|task| names[task]));
            assert_eq!(found.expect_err("a cycle"), expected);
        };
        check(&[&[0]], "a -> a");
        check(&[&[1], &[0]], "a -> b -> a");
        check(&[&[1], &[2], &[3], &[1]], "b -> c -> d -> b");
        check(&[&[], &[0, 3], &[1], &[2]], "b -> d -> c -> b");
    }

    #[test]
    fn a_long_cycle_is_named_in_bounded_space() {
        let parents = (0..10_000).map(|task| vec![(task + 1) % 10_000]).collect();
        let cycle = Dag::new(parents).expect_err("a cycle");
        assert_eq!(cycle.0.len(), 10_001);
        assert!(cycle.named(|_| "t").len() < 150);
    }

    #[test]
    fn tasks_that_are_ready_together_keep_the_order_of_the_file() {
        let dag = Dag::new(vec![vec![], vec![2], vec![], vec![0, 2, 2]]).expect("no cycle");
        assert_eq!(dag.order(), [0, 2, 1, 3]);
        assert_eq!(dag.parents(3), [0, 2]);
    }

    #[test]
    fn far_ancestors_of_a_long_chain_are_found() {
        const LENGTH: usize = 20_000;
        let parents = (0..LENGTH).map(|task| if task == 0 { vec![] } else { vec![task - 1] }).collect();
        let dag = Dag::new(parents).expect("no cycle");
        let down: Vec<(usize, usize)> = (0..LENGTH).map(|task| (task, task / 2)).collect();
        let up: Vec<(usize, usize)> = (0..LENGTH).map(|task| (task / 2, task)).collect();
        assert!(dag.waits_for(&down)[1..].iter().all(|&yes| yes));
        assert!(dag.waits_for(&up).iter().all(|&yes| !yes));
    }

    fn ancestors(parents: &[Vec<usize>], task: usize) -> HashSet<usize> {
        let mut found = HashSet::new();
        let mut open = parents[task].clone();
        while let Some(next) = open.pop() {
            if found.insert(next) {
                open.extend(&parents[next]);
            }
        }
        found
    }

    prop_compose! {
        fn any_graph()(size in 1..90_usize)(
            parents in prop::collection::vec(prop::collection::vec(0..size, 0..3), size..=size)
        ) -> Vec<Vec<usize>> { parents }
    }

    proptest! {
        #[test]
        fn a_graph_is_ordered_or_has_a_cycle(parents in any_graph()) {
            match Dag::new(parents.clone()) {
                Ok(dag) => {
                    let mut done = HashSet::new();
                    for &task in dag.order() {
                        prop_assert!(parents[task].iter().all(|parent| done.contains(parent)));
                        prop_assert!(done.insert(task));
                    }
                    prop_assert_eq!(done.len(), parents.len());
                }
                Err(Cycle(tasks)) => {
                    prop_assert!(tasks.len() > 1 && tasks.first() == tasks.last());
                    for pair in tasks.windows(2) {
                        prop_assert!(parents[pair[0]].contains(&pair[1]));
                    }
                }
            }
        }

        #[test]
        fn waiting_is_transitive(mut parents in any_graph()) {
            for (task, list) in parents.iter_mut().enumerate() {
                list.retain(|&parent| parent < task);
            }
            let dag = Dag::new(parents.clone()).expect("edges point backwards");
            let size = parents.len();
            let pairs: Vec<(usize, usize)> =
                (0..size).flat_map(|task| (0..size).map(move |other| (task, other))).collect();
            let answers = dag.waits_for(&pairs);
            for (&(task, other), answer) in pairs.iter().zip(answers) {
                prop_assert_eq!(answer, ancestors(&parents, task).contains(&other));
            }
        }
    }
}
