//! A graph that is too large for a picture: one line per layer, or per range of layers.

use super::View;
use super::fold::Graph;
use super::lanes;
use super::text::{self, counted, number};
use crate::core::state::TaskState;

/// How many failed and running tasks are named below the layers.
const NAMED_MAX: usize = 5;

/// The layers, then what failed and what runs. A task is in the layer after the last one that it waits for;
/// what it has planned itself is in its own.
pub(super) fn lines(graph: &Graph<'_>, view: &View) -> Vec<String> {
    let layers = layers(graph);
    let lines_max = view.lines_max.unwrap_or(usize::MAX).saturating_sub(2 * (NAMED_MAX + 1) + 2).max(4);
    let per_line = layers.len().div_ceil(lines_max).max(1);
    let mut lines = Vec::new();
    let digits = layers.len().to_string().len();
    for (index, range) in layers.chunks(per_line).enumerate() {
        let first = index * per_line + 1;
        let name = match range.len() {
            1 => format!("layer {first:<digits$}"),
            more => format!("layers {first} to {}", first + more - 1),
        };
        let tasks: Vec<usize> = range.iter().flatten().copied().collect();
        let mark = text::mark_of_many(graph, &tasks, view);
        let states = counted(graph, &tasks);
        lines.push(format!(
            "{mark} {name:<width$}  {:>8} {states}",
            number(tasks.len()),
            width = 2 * digits + 11
        ));
    }
    let named = |lines: &mut Vec<String>, title: &str, states: &[TaskState]| {
        let all = (0..graph.tasks.len()).filter(|&task| states.contains(&graph.tasks[task].state));
        let all: Vec<usize> = all.collect();
        for &task in all.iter().take(NAMED_MAX) {
            lines.push(format!("  {}", text::task(graph, task, false, view)));
        }
        if all.len() > NAMED_MAX {
            lines.push(format!("  … {} more {title}", number(all.len() - NAMED_MAX)));
        }
    };
    named(&mut lines, "failed", &[TaskState::Failed, TaskState::Expired]);
    named(&mut lines, "running", &[TaskState::Running]);
    lines.push("--all shows every task".to_owned());
    lines
}

fn layers(graph: &Graph<'_>) -> Vec<Vec<usize>> {
    let mut depth = vec![0_usize; graph.tasks.len()];
    let mut layers: Vec<Vec<usize>> = Vec::new();
    for task in lanes::order(&graph.parents) {
        depth[task] = graph.parents[task].iter().map(|&parent| depth[parent] + 1).max().unwrap_or(0);
    }
    let mut open: Vec<(usize, usize)> = graph.top.iter().map(|&task| (task, depth[task])).collect();
    while let Some((task, layer)) = open.pop() {
        if layers.len() <= layer {
            layers.resize(layer + 1, Vec::new());
        }
        layers[layer].push(task);
        open.extend(graph.children[task].iter().map(|&child| (child, layer)));
    }
    layers
}
