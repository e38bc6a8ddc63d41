//! `dead replay` and `dead drop`.

use serde_json::{Value, json};
use std::collections::HashMap;

use super::args::{Asked, Change};
use super::list::{code_of, what};
use super::{hold, unknown};
use crate::broker::{BrokerError, Settlement};
use crate::cli::print;
use crate::dead::{self, Group, Keep, Letter, Look, Step};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::topology::Queue;

/// What happened to letters that could not be settled.
const CAME_BACK: &str = "the connection broke; its letters are in the queue again";
/// How many a person is told of by name.
const NAMED_MAX: usize = 1_000;

/// `gleitzeit dead replay`
pub(super) async fn replay(runtime: &Runtime, args: &Change, asked: &Asked, json: bool) -> Result<u8, Error> {
    let mut look = hold(runtime, asked, Keep::Whole).await?;
    let chosen = choose(&mut look, args, asked)?;
    let mut groups = dead::plan(&runtime.broker, &runtime.store, chosen).await?;
    join_companions(&mut groups, &mut look);
    let mut told = Told::default();
    let mut left = Vec::new();
    for group in groups {
        let mut line = Line::of(&group);
        if args.dry_run {
            told.would(&line);
            left.extend(group.companions.into_iter().chain(group.letters));
            continue;
        }
        match dead::replay(&runtime.broker, group).await {
            Ok(stay) => left.extend(stay),
            // What was to be published is; replaying the letters that came back does nothing twice.
            Err(BrokerError::DeliveryLost) => {
                let label = &line.label;
                print::note(&format!("{label}: {CAME_BACK}"));
                if let Kind::Completed = line.kind {
                    line.kind = Kind::Kept(CAME_BACK.to_owned());
                }
            }
            Err(error) => return Err(error.into()),
        }
        told.did(&line);
    }
    let has_more = look.has_more;
    look.release(left).await;
    if runtime.is_embedded() && !args.dry_run {
        // Nobody else may be there to take the commands, so this process does.
        runtime.coordinator().work_off(&Queue::Workflows).await?;
    }
    if json {
        print::json(&json!({
            "dry_run": args.dry_run, "replayed": told.replayed, "completed": told.completed, "kept": told.kept,
            "more": has_more,
        }));
    } else if told.is_empty() {
        print::note("no dead letter is meant by that");
    } else if runtime.is_embedded() && !told.replayed.is_empty() && !args.dry_run {
        print::note("`gleitzeit resume` runs them");
    }
    Ok(u8::from(!told.kept.is_empty() && !args.dry_run))
}

/// `gleitzeit dead drop`
pub(super) async fn drop(runtime: &Runtime, args: &Change, asked: &Asked, json: bool) -> Result<u8, Error> {
    let mut look = hold(runtime, asked, Keep::Facts).await?;
    let chosen = choose(&mut look, args, asked)?;
    let mut dropped = Vec::new();
    let mut left = Vec::new();
    for letter in chosen {
        let row = json!({"letter": letter.name, "id": letter.label(), "name": code_of(&letter)});
        let line = format!("{}  {}  {}", letter.label(), print::printable(&what(&letter)), code_of(&letter));
        if args.dry_run {
            left.push(letter);
        } else {
            letter.settle(Settlement::Done).await?;
        }
        if !json && dropped.len() < NAMED_MAX {
            print::line(&line);
        }
        dropped.push(row);
    }
    let (count, has_more) = (dropped.len(), look.has_more);
    look.release(left).await;
    if json {
        print::json(&json!({"dry_run": args.dry_run, "dropped": dropped, "more": has_more}));
        return Ok(0);
    }
    let done = if args.dry_run { "would be dropped" } else { "dropped" };
    print::note(&match count {
        0 => "no dead letter is meant by that".to_owned(),
        1 => format!("1 letter {done}"),
        _ => format!("{count} letters {done}"),
    });
    Ok(0)
}

/// Gives each group the other letters of its root: they go with it.
fn join_companions(groups: &mut [Group], look: &mut Look) {
    let labels = groups.iter().enumerate().map(|(at, group)| (group.label.clone(), at));
    let places: HashMap<String, usize> = labels.collect();
    let place = |letter: &Letter| letter.root().and_then(|root| places.get(root.as_str())).copied();
    for letter in look.take(|letter| place(letter).is_some()) {
        if let Some(group) = place(&letter).and_then(|at| groups.get_mut(at)) {
            group.companions.push(letter);
        }
    }
}

/// The letters that are meant, the oldest if there are more than the limit.
fn choose(look: &mut Look, args: &Change, asked: &Asked) -> Result<Vec<Letter>, Error> {
    let mut chosen = look.take(|letter| asked.filter.takes(letter));
    unknown(asked, &chosen, look.has_more)?;
    let limit = args.which.limit.map_or(usize::MAX, |limit| limit as usize);
    if chosen.len() > limit {
        look.letters.extend(chosen.split_off(limit));
    }
    Ok(chosen)
}

/// What is told of a group, kept while the group itself is dealt with.
struct Line {
    label: String,
    count: usize,
    kind: Kind,
}

/// What its step comes to.
enum Kind {
    Retried,
    Published,
    Completed,
    Kept(String),
}

impl Line {
    fn of(group: &Group) -> Line {
        let kind = match &group.step {
            Step::Retry(_) => Kind::Retried,
            Step::Publish(_) => Kind::Published,
            Step::Completed => Kind::Completed,
            Step::Keep(reason) => Kind::Kept(reason.clone()),
        };
        Line { label: group.label.clone(), count: group.letters.len() + group.companions.len(), kind }
    }
}

/// What was done, for the end; or would be.
#[derive(Debug, Default)]
struct Told {
    replayed: Vec<Value>,
    completed: Vec<Value>,
    kept: Vec<Value>,
}

impl Told {
    /// Tells what has been done.
    fn did(&mut self, line: &Line) {
        self.tell(line, "");
    }

    /// Tells what would be.
    fn would(&mut self, line: &Line) {
        self.tell(line, "would be ");
    }

    fn tell(&mut self, line: &Line, would: &str) {
        let Line { label, count, kind } = line;
        let letters = if *count == 1 { "1 letter".to_owned() } else { format!("{count} letters") };
        let row = json!({"id": label, "letters": count});
        let (list, row, text) = match kind {
            Kind::Retried => (&mut self.replayed, row, format!("{would}replayed ({letters})")),
            Kind::Published => (&mut self.replayed, row, format!("{would}published again ({letters})")),
            Kind::Completed => {
                (&mut self.completed, row, format!("completed meanwhile: {letters} {would}taken away"))
            }
            Kind::Kept(reason) => {
                let row = json!({"id": label, "letters": count, "reason": reason});
                (&mut self.kept, row, format!("{would}kept: {reason}"))
            }
        };
        list.push(row);
        if list.len() <= NAMED_MAX {
            print::note(&format!("{label}: {text}"));
        }
    }

    fn is_empty(&self) -> bool {
        self.replayed.is_empty() && self.completed.is_empty() && self.kept.is_empty()
    }
}
