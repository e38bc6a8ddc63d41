//! What a step makes of the tasks that wait: which of them end unrun, which are ready, and whose turn it is.

use std::collections::BTreeMap;

use gleitzeit::core::state::TaskState;
use gleitzeit::store::Otherwise;

use super::{Model, Task};

impl Model {
    /// Decides what becomes of every waiting task until nothing changes, then gives turns.
    pub(super) fn settle(&mut self, chosen: &[String]) -> Result<Vec<(String, TaskState)>, String> {
        let mut ended = Vec::new();
        loop {
            let before = ended.len();
            for at in 0..self.tasks.len() {
                let task = &self.tasks[at];
                let has_begun = task.parent.is_none_or(|parent| self.tasks[parent].is_under_way);
                if task.state != TaskState::Waiting || task.ready.is_some() || !has_begun {
                    continue;
                }
                if self.waits_for_children(at) && !task.is_under_way {
                    // After a retry; before any other child has a place, since turns are given below.
                    let has_place = task.parent.is_none() || self.room(task.parent) > 0;
                    self.tasks[at].is_under_way = has_place;
                    continue;
                }
                match self.verdict(at) {
                    Some(TaskState::Queued) => self.tasks[at].ready = Some(self.step),
                    Some(state) => {
                        self.tasks[at].state = state;
                        ended.push((self.tasks[at].name.clone(), state));
                    }
                    None => {}
                }
            }
            if ended.len() == before {
                break;
            }
        }
        self.give_turns(chosen)?;
        ended.sort();
        Ok(ended)
    }

    /// How the task ends, `Queued` if it is ready, none while it is open.
    fn verdict(&self, at: usize) -> Option<TaskState> {
        let task = &self.tasks[at];
        if !task.children.is_empty() {
            return (!self.waits_for_children(at)).then_some(TaskState::Queued);
        }
        let mut sum = TaskState::Queued;
        for (on, otherwise) in &task.edges {
            let state = self.tasks[*on].state;
            if !state.is_ended() {
                return None;
            }
            let one = verdict(state, *otherwise);
            if sum == TaskState::Queued || one == TaskState::Failed {
                sum = one;
            }
        }
        Some(sum)
    }

    fn waits_for_children(&self, at: usize) -> bool {
        self.tasks[at].children.iter().any(|child| !self.tasks[*child].state.is_ended())
    }

    /// Releases what `chosen` names, if these are whose turn it is: group by group of equal priority that
    /// became ready in the same step, as many as there is room for.
    fn give_turns(&mut self, chosen: &[String]) -> Result<(), String> {
        let mut groups: BTreeMap<(u8, u32), Vec<usize>> = BTreeMap::new();
        for (at, task) in self.tasks.iter().enumerate() {
            if let Some(ready) = task.ready {
                groups.entry((9 - task.priority, ready)).or_default().push(at);
            }
        }
        let mut given = 0;
        for group in groups.into_values() {
            let mut families: BTreeMap<Option<usize>, (usize, Vec<usize>)> = BTreeMap::new();
            for at in group {
                // One that goes on after its children has its place already.
                let task = &self.tasks[at];
                let (size, taken) = families.entry(task.parent.filter(|_| !task.is_under_way)).or_default();
                *size += 1;
                if chosen.contains(&self.tasks[at].name) {
                    taken.push(at);
                }
            }
            let possible: usize =
                families.iter().map(|(parent, (size, _))| self.room(*parent).min(*size)).sum();
            let possible = possible.min(self.room(None));
            let taken: usize = families.values().map(|(_, taken)| taken.len()).sum();
            for (parent, (_, taken)) in families {
                if taken.len() > self.room(parent) {
                    return Err(format!("{chosen:?}: more than the bound of a parent allows"));
                }
                for at in taken {
                    let task = &mut self.tasks[at];
                    (task.state, task.is_under_way) = (TaskState::Queued, true);
                    (task.ready, task.released, task.is_claimed) = (None, Some(self.step), false);
                }
            }
            if taken != possible {
                return Err(format!("{chosen:?}: {taken} of a group of which {possible} have their turn"));
            }
            given += taken;
        }
        match given == chosen.len() {
            true => Ok(()),
            false => Err(format!("{chosen:?}: not all of them were ready")),
        }
    }

    /// How many more of a parent's children may be under way, or of all between release and end.
    fn room(&self, parent: Option<usize>) -> usize {
        let bound = parent.map_or(self.bound, |parent| self.tasks[parent].bound);
        let Some(bound) = bound else { return usize::MAX / 1024 };
        let counts = |task: &Task| match parent {
            None => matches!(task.state, TaskState::Queued | TaskState::Running),
            Some(_) => task.parent == parent && task.is_under_way && !task.state.is_ended(),
        };
        let active = self.tasks.iter().filter(|task| counts(task)).count();
        usize::try_from(bound).expect("small").saturating_sub(active)
    }
}

/// The table of the law; `Queued` stands for satisfied.
pub(crate) fn verdict(end: TaskState, otherwise: Otherwise) -> TaskState {
    match (end, otherwise) {
        (TaskState::Completed, _) | (_, Otherwise::Continue) => TaskState::Queued,
        (TaskState::Skipped, _) | (_, Otherwise::Skip) => TaskState::Skipped,
        (_, Otherwise::Fail) => TaskState::Failed,
    }
}
