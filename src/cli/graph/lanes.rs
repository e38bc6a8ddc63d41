//! Where the lines of a graph go: one row per node, one lane per result that is still waited for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// More lanes side by side are no picture any more.
const LANES_MAX: usize = 24;

/// Where a node's mark belongs in [`Row::cells`].
pub(super) const NODE: char = '\0';

/// A row of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The node on this row; none on a row that only makes a line longer.
    pub(super) node: Option<usize>,
    /// Box drawing with [`NODE`] in the node's place; an even number of characters.
    pub(super) cells: String,
    /// The lanes that go on below this row, as cells.
    pub(super) below: String,
}

/// The nodes in an order in which each comes after its parents; the earlier one first where there is a choice.
/// Nodes in a circle are missing.
pub(super) fn order(parents: &[Vec<usize>]) -> Vec<usize> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); parents.len()];
    for (node, list) in parents.iter().enumerate() {
        for &parent in list {
            children[parent].push(node);
        }
    }
    let mut open: Vec<usize> = parents.iter().map(Vec::len).collect();
    let ready = (0..parents.len()).filter(|&node| open[node] == 0).map(Reverse);
    let mut ready: BinaryHeap<Reverse<usize>> = ready.collect();
    let mut order = Vec::with_capacity(parents.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for &child in &children[node] {
            open[child] -= 1;
            if open[child] == 0 {
                ready.push(Reverse(child));
            }
        }
    }
    order
}

/// Draws the graph in which each node has these parents, each once. `None` if it would be too wide.
pub(super) fn rows(parents: &[Vec<usize>]) -> Option<Vec<Row>> {
    let order = order(parents);
    if order.len() < parents.len() {
        return None;
    }
    let mut waited_for = vec![0_usize; parents.len()];
    for &parent in parents.iter().flatten() {
        waited_for[parent] += 1;
    }
    let mut picture = Picture { lanes: Vec::new(), waited_for, above: None };
    let mut rows = Vec::with_capacity(order.len());
    for node in order {
        picture.add(node, &parents[node], &mut rows);
        if picture.lanes.len() > LANES_MAX {
            return None;
        }
    }
    Some(rows)
}

struct Picture {
    /// Whose result each lane carries.
    lanes: Vec<Option<usize>>,
    /// How many nodes that are not drawn yet wait for each node.
    waited_for: Vec<usize>,
    /// The column of the mark in the row above.
    above: Option<usize>,
}

impl Picture {
    fn add(&mut self, node: usize, parents: &[usize], rows: &mut Vec<Row>) {
        let taken: Vec<usize> = (0..self.lanes.len())
            .filter(|&column| self.lanes[column].is_some_and(|lane| parents.contains(&lane)))
            .collect();
        for &parent in parents {
            self.waited_for[parent] -= 1;
        }
        let ends = |picture: &Picture, column: usize| {
            picture.lanes[column].is_some_and(|lane| picture.waited_for[lane] == 0)
        };
        let ending = taken.iter().copied().find(|&column| ends(self, column));
        let column = ending.unwrap_or_else(|| self.free(taken.first().map_or(0, |first| first + 1)));
        if ending.is_some() && self.above == Some(column) {
            // The mark above would touch this one, which is how tasks look that have nothing to do with each other.
            let cells = self.passing();
            rows.push(Row { node: None, below: cells.clone(), cells });
        }
        let cells = self.cells(column, &taken);
        for &taken in &taken {
            if ends(self, taken) {
                self.lanes[taken] = None;
            }
        }
        if self.lanes.len() <= column {
            self.lanes.resize(column + 1, None);
        }
        self.lanes[column] = (self.waited_for[node] > 0).then_some(node);
        while self.lanes.last() == Some(&None) {
            self.lanes.pop();
        }
        self.above = Some(column);
        rows.push(Row { node: Some(node), cells, below: self.passing() });
    }

    fn free(&self, from: usize) -> usize {
        (from..self.lanes.len())
            .find(|&column| self.lanes[column].is_none())
            .unwrap_or(self.lanes.len().max(from))
    }

    /// The lanes, with nothing beside them.
    fn passing(&self) -> String {
        self.lanes.iter().map(|lane| if lane.is_some() { "│ " } else { "  " }).collect()
    }

    /// The row of a node in `column` that takes from the lanes in `taken`.
    fn cells(&self, column: usize, taken: &[usize]) -> String {
        let first = taken.first().copied().unwrap_or(column).min(column);
        let last = taken.last().copied().unwrap_or(column).max(column);
        let mut cells = String::new();
        for at in 0..self.lanes.len().max(column + 1) {
            let lane = self.lanes.get(at).copied().flatten();
            let between = first < at && at < last;
            cells.push(match lane {
                _ if at == column => NODE,
                Some(lane) if taken.contains(&at) => {
                    corner(self.waited_for[lane] == 0, at == first, at == last)
                }
                Some(_) => '│',
                None if between => '─',
                None => ' ',
            });
            cells.push(if first <= at && at < last { '─' } else { ' ' });
        }
        cells
    }
}

/// How a lane is taken from: one that ends here or goes on, at the left end of the line, its right end or within.
fn corner(ends: bool, is_first: bool, is_last: bool) -> char {
    match (ends, is_first, is_last) {
        (true, true, _) => '╰',
        (true, false, true) => '╯',
        (true, false, false) => '┴',
        (false, true, _) => '├',
        (false, false, true) => '┤',
        (false, false, false) => '┼',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(parents: &[&[usize]]) -> String {
        let parents: Vec<Vec<usize>> = parents.iter().map(|list| list.to_vec()).collect();
        let rows = rows(&parents).expect("not too wide");
        let lines = rows.iter().map(|row| {
            let mark = row.node.map_or(String::new(), |node| node.to_string());
            row.cells.replace(NODE, &mark).trim_end().to_owned()
        });
        lines.collect::<Vec<String>>().join("\n")
    }

    #[test]
    fn tasks_that_have_nothing_to_do_with_each_other_have_no_lines() {
        assert_eq!(picture(&[&[], &[], &[]]), "0\n1\n2");
    }

    #[test]
    fn a_chain_is_a_line() {
        assert_eq!(picture(&[&[], &[0], &[1]]), "0\n│\n1\n│\n2");
    }

    #[test]
    fn a_fan_out_and_its_fan_in_keep_their_lanes() {
        assert_eq!(picture(&[&[], &[0], &[0], &[0], &[1, 2, 3]]), "0\n├─1\n├─│─2\n3 │ │\n│ │ │\n4─┴─╯");
    }

    #[test]
    fn a_line_over_a_lane_that_it_does_not_take_from_crosses_it() {
        assert_eq!(picture(&[&[], &[], &[0], &[1], &[0]]), "0\n│ 1\n├─│─2\n│ 3\n4");
    }

    #[test]
    fn a_task_comes_after_what_it_waits_for_whatever_the_order_of_the_file() {
        assert_eq!(order(&[vec![2], vec![], vec![1]]), [1, 2, 0]);
    }

    #[test]
    fn what_is_too_wide_is_no_picture() {
        let mut parents: Vec<Vec<usize>> = vec![Vec::new(); 50];
        parents.push((0..50).collect());
        assert_eq!(rows(&parents), None);
    }

    #[test]
    fn a_circle_is_no_picture() {
        assert_eq!(rows(&[vec![1], vec![0]]), None);
    }
}
