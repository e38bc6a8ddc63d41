//! Which of several instances gets a call: pure functions over candidates.
//!
//! What a strategy chooses from is always narrowed first, in this order: those that can do it at all (a weight
//! above zero, what the call requires), the first rank that has any (fallbacks come after all others), the
//! healthy before the degraded. Nobody left is `None`.
//!
//! | strategy            | among those                                                                     |
//! |---------------------|---------------------------------------------------------------------------------|
//! | `round_robin`       | each in turn                                                                    |
//! | `weighted`          | by chance, in proportion to the weights                                         |
//! | `least_connections` | the fewest calls under way for its weight                                       |
//! | `least_latency`     | of two by chance, the one with the least peak EWMA x calls under way; those that have the model in memory before others |
//! | `affinity`          | the same one for the same key (rendezvous hashing); without a key as above      |
//! | `locality`          | those of the wanted region if there are any, else of the least latency          |
//! | `requirements`      | the one that offers least beyond what is required, so that others stay free     |
//! | `adaptive`          | affinity while that instance is not overloaded, then locality, then as `least_latency` |
//!
//! Two by chance: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001). Rendezvous with
//! weights: Thaler and Ravishankar (1998), as -weight / ln(hash). Overloaded: Mirrokni et al., "Consistent Hashing
//! with Bounded Loads" (2016).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::core::task::Spec;

#[cfg(test)]
mod tests;

/// An instance is overloaded with more than so many times its share of the calls under way.
const LOAD_MAX: f64 = 1.25;

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Each in turn.
    RoundRobin,
    /// By chance, in proportion to the weights.
    Weighted,
    /// The fewest calls under way for its weight.
    LeastConnections,
    /// Of two by chance the faster one.
    LeastLatency,
    /// The same one for the same key.
    Affinity,
    /// Those nearby.
    Locality,
    /// The tightest fit.
    Requirements,
    /// Affinity, locality and latency.
    #[default]
    Adaptive,
}

impl Strategy {
    /// Every strategy with its name.
    pub const NAMES: [(&'static str, Strategy); 8] = [
        ("round_robin", Strategy::RoundRobin),
        ("weighted", Strategy::Weighted),
        ("least_connections", Strategy::LeastConnections),
        ("least_latency", Strategy::LeastLatency),
        ("affinity", Strategy::Affinity),
        ("locality", Strategy::Locality),
        ("requirements", Strategy::Requirements),
        ("adaptive", Strategy::Adaptive),
    ];
}

impl FromStr for Strategy {
    type Err = ();
    fn from_str(text: &str) -> Result<Strategy, ()> {
        let found = Strategy::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, strategy)| *strategy).ok_or(())
    }
}

/// What an instance is, by its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traits {
    /// Its share of the calls; 0: it gets none.
    pub weight: u32,
    /// 0 for an instance of the first choice, 1 for the first fallback, and so on.
    pub rank: u32,
    /// Where it is.
    pub region: Option<String>,
    /// Models that it has; empty: any.
    pub models: Vec<String>,
    /// What else it can do.
    pub labels: Vec<String>,
    /// Memory of its graphics processor in MiB.
    pub gpu_memory_mb: Option<u64>,
}

impl Default for Traits {
    fn default() -> Traits {
        Traits {
            weight: 1,
            rank: 0,
            region: None,
            models: Vec::new(),
            labels: Vec::new(),
            gpu_memory_mb: None,
        }
    }
}

/// One instance, as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name, unique.
    pub name: &'a str,
    /// What it is.
    pub traits: &'a Traits,
    /// Calls under way.
    pub running: u32,
    /// How long calls take now; `None` if nothing is known.
    pub latency: Option<Duration>,
    /// Whether others should be preferred.
    pub is_degraded: bool,
    /// Whether it has the wanted model in memory.
    pub is_warm: bool,
}

/// What a call asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Calls with the same key are best made to the same instance.
    pub key: Option<String>,
    /// Where it should run.
    pub region: Option<String>,
    /// The model that it must have.
    pub model: Option<String>,
    /// What else it must be able to do.
    pub labels: Vec<String>,
    /// Memory of the graphics processor that it must have, in MiB.
    pub gpu_memory_mb: Option<u64>,
}

impl Wish {
    /// What a task asks for: its `affinity`, the `model` of its parameters, graphics memory, and from its metadata
    /// `region` (a text) and `requires` (a list of labels).
    #[must_use]
    pub fn of(spec: &Spec, params: &Map<String, Value>) -> Wish {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let labels = spec.metadata.get("requires").and_then(Value::as_array);
        Wish {
            key: spec.affinity.clone(),
            region: text(spec.metadata.get("region")),
            model: text(params.get("model")),
            labels: labels.into_iter().flatten().filter_map(|label| text(Some(label))).collect(),
            gpu_memory_mb: spec.resource_requirements.as_ref().and_then(|needs| needs.gpu_memory_mb),
        }
    }

    /// Whether an instance has what it takes.
    #[must_use]
    pub fn is_met_by(&self, traits: &Traits) -> bool {
        let has_model = |model: &String| traits.models.is_empty() || traits.models.contains(model);
        self.model.as_ref().is_none_or(has_model)
            && self.labels.iter().all(|label| traits.labels.contains(label))
            && self.gpu_memory_mb.is_none_or(|need| traits.gpu_memory_mb.is_some_and(|has| has >= need))
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.model.iter().map(|model| format!("model {model:?}")).collect();
        parts.extend(self.labels.iter().map(|label| format!("label {label:?}")));
        parts.extend(self.gpu_memory_mb.map(|mb| format!("{mb} MiB of graphics memory")));
        f.write_str(&parts.join(", "))
    }
}

/// The index of the candidate that gets the call. `turn` grows by one with each choice; `chance` gives numbers
/// in `[0, 1)`.
#[must_use]
pub fn choose(
    strategy: Strategy,
    candidates: &[Candidate<'_>],
    wish: &Wish,
    turn: usize,
    chance: &mut dyn FnMut() -> f64,
) -> Option<usize> {
    let able = narrowed(candidates, wish);
    if able.len() < 2 {
        return able.first().copied();
    }
    let of = |index: usize| &candidates[index];
    match strategy {
        Strategy::RoundRobin => Some(able[turn % able.len()]),
        Strategy::Weighted => by_weight(candidates, &able, chance()),
        Strategy::LeastConnections => least(&able, turn, |index| load(of(index))),
        Strategy::LeastLatency => faster_of_two(candidates, &warm(candidates, able), chance),
        Strategy::Affinity => match &wish.key {
            Some(key) => by_key(candidates, &able, key),
            None => least(&able, turn, |index| load(of(index))),
        },
        Strategy::Locality => match nearby(candidates, &able, wish) {
            near if !near.is_empty() => least(&near, turn, |index| load(of(index))),
            _ => least(&able, turn, |index| latency(candidates, &able, index)),
        },
        Strategy::Requirements => {
            least(&able, turn, |index| (surplus(of(index).traits, wish), load(of(index))))
        }
        Strategy::Adaptive => {
            let kept = wish.key.as_ref().and_then(|key| by_key(candidates, &able, key));
            if let Some(kept) = kept.filter(|kept| !is_overloaded(candidates, &able, *kept)) {
                return Some(kept);
            }
            let near = nearby(candidates, &able, wish);
            let those = if near.is_empty() { able } else { near };
            faster_of_two(candidates, &warm(candidates, those), chance)
        }
    }
}

/// Those that can do it, of the first rank that has any, the healthy before the degraded.
fn narrowed(candidates: &[Candidate<'_>], wish: &Wish) -> Vec<usize> {
    let is_able = |traits: &Traits| traits.weight > 0 && wish.is_met_by(traits);
    let able = (0..candidates.len()).filter(|index| is_able(candidates[*index].traits));
    let mut able: Vec<usize> = able.collect();
    let place = |index: usize| (candidates[index].traits.rank, candidates[index].is_degraded);
    let first = able.iter().map(|index| place(*index)).min();
    able.retain(|index| Some(place(*index)) == first);
    able
}

/// The first of the least, counted from `turn`, so that equal ones take turns.
fn least<T: PartialOrd>(able: &[usize], turn: usize, of: impl Fn(usize) -> T) -> Option<usize> {
    let start = turn % able.len().max(1);
    let (before, after) = able.split_at(start);
    let in_turn = after.iter().chain(before).copied();
    in_turn.min_by(|a, b| of(*a).partial_cmp(&of(*b)).unwrap_or(Ordering::Equal))
}

fn load(candidate: &Candidate<'_>) -> f64 {
    f64::from(candidate.running) / f64::from(candidate.traits.weight)
}

fn by_weight(candidates: &[Candidate<'_>], able: &[usize], chance: f64) -> Option<usize> {
    let weight = |index: usize| f64::from(candidates[index].traits.weight);
    let all: f64 = able.iter().map(|index| weight(*index)).sum();
    let mut left = chance * all;
    let hit = able.iter().find(|index| {
        left -= weight(**index);
        left < 0.0
    });
    hit.or(able.last()).copied()
}

fn faster_of_two(
    candidates: &[Candidate<'_>],
    able: &[usize],
    chance: &mut dyn FnMut() -> f64,
) -> Option<usize> {
    let mut draw = |count: usize| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is below `count`")]
        let drawn = (chance() * count as f64) as usize;
        drawn.min(count.saturating_sub(1))
    };
    let first = draw(able.len());
    let second = (first + 1 + draw(able.len() - 1)) % able.len();
    let cost = |place: usize| {
        let index = able[place];
        let candidate = &candidates[index];
        let waits = f64::from(candidate.running + 1) / f64::from(candidate.traits.weight);
        latency(candidates, able, index) * waits
    };
    let winner = if able.len() > 1 && cost(second) < cost(first) { second } else { first };
    able.get(winner).copied()
}

/// In seconds; of whom nothing is known as that of the fastest, so that it is tried.
fn latency(candidates: &[Candidate<'_>], able: &[usize], index: usize) -> f64 {
    let known = |index: usize| candidates[index].latency.map(|latency| latency.as_secs_f64());
    let fastest = || able.iter().filter_map(|index| known(*index)).fold(f64::INFINITY, f64::min);
    let seconds = known(index).unwrap_or_else(fastest);
    if seconds.is_finite() { seconds.max(1e-6) } else { 1e-6 }
}

fn by_key(candidates: &[Candidate<'_>], able: &[usize], key: &str) -> Option<usize> {
    let score = |index: usize| {
        let candidate = &candidates[index];
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{key}\0{}", candidate.name).as_bytes());
        let hash = hash.as_u64_pair().0 >> 11;
        // In (0, 1): 53 bits.
        let unit = (hash as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(candidate.traits.weight) / -unit.ln()
    };
    able.iter().copied().max_by(|a, b| score(*a).total_cmp(&score(*b)))
}

fn nearby(candidates: &[Candidate<'_>], able: &[usize], wish: &Wish) -> Vec<usize> {
    let Some(region) = &wish.region else { return Vec::new() };
    let near = |index: &&usize| candidates[**index].traits.region.as_ref() == Some(region);
    able.iter().filter(near).copied().collect()
}

/// Those that need not load the model first, unless each has more calls than its share: then loading it on one
/// more pays.
fn warm(candidates: &[Candidate<'_>], able: Vec<usize>) -> Vec<usize> {
    let is_best = |index: &&usize| candidates[**index].is_warm && !is_overloaded(candidates, &able, **index);
    let warm: Vec<usize> = able.iter().filter(is_best).copied().collect();
    if warm.is_empty() { able } else { warm }
}

/// How much an instance offers beyond what is asked for.
fn surplus(traits: &Traits, wish: &Wish) -> f64 {
    let labels = traits.labels.len().saturating_sub(wish.labels.len()) as f64;
    let gpu = traits.gpu_memory_mb.unwrap_or(0).saturating_sub(wish.gpu_memory_mb.unwrap_or(0)) as f64;
    labels + gpu / 1024.0
}

/// Whether one more call would be more than its share allows.
fn is_overloaded(candidates: &[Candidate<'_>], able: &[usize], index: usize) -> bool {
    let sum = |of: fn(&Candidate<'_>) -> u32| -> f64 {
        able.iter().map(|index| f64::from(of(&candidates[*index]))).sum()
    };
    let share = f64::from(candidates[index].traits.weight) / sum(|one| one.traits.weight);
    let allowed = (LOAD_MAX * share * (sum(|one| one.running) + 1.0)).ceil();
    f64::from(candidates[index].running + 1) > allowed.max(2.0)
}
