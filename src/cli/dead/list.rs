//! `dead list`: one line a letter.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

use super::args::{Asked, List};
use super::hold;
use crate::cli::print;
use crate::dead::{Keep, Letter};
use crate::error::Error;
use crate::runtime::Runtime;

/// How many are listed unless something else is said.
const LISTED: usize = 100;
/// How much of a message a line shows, in characters.
const MESSAGE_CHARACTERS: usize = 120;

/// `gleitzeit dead list`
pub(super) async fn list(runtime: &Runtime, args: &List, asked: &Asked, json: bool) -> Result<u8, Error> {
    let mut look = hold(runtime, asked, Keep::Facts).await?;
    let chosen = look.take(|letter| asked.filter.takes(letter));
    let deaths = deaths(&chosen);
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    for (letter, _) in &deaths {
        *codes.entry(code_of(letter)).or_default() += 1;
    }
    let limit = args.which.limit.map_or(LISTED, |limit| limit as usize);
    let shown = &deaths[deaths.len().saturating_sub(limit)..];
    if json {
        print::json(&json!({
            "letters": shown.iter().map(|(letter, copies)| facts(letter, *copies)).collect::<Vec<Value>>(),
            "total": deaths.len(),
            "codes": codes,
            "more": look.has_more,
        }));
    } else {
        shown.iter().for_each(|(letter, _)| print::line(&line(letter)));
        let counted: Vec<String> = codes.iter().map(|(code, count)| format!("{count} {code}")).collect();
        let left_out = deaths.len() - shown.len();
        match deaths.len() {
            0 => print::note("no dead letters"),
            _ if left_out > 0 => {
                print::note(&format!("{} ({left_out} older ones not shown: --limit)", counted.join(", ")))
            }
            _ => print::note(&counted.join(", ")),
        }
    }
    look.release(chosen).await;
    Ok(0)
}

/// One letter for each death, with the number of its copies, in order.
pub(super) fn deaths(letters: &[Letter]) -> Vec<(&Letter, usize)> {
    let mut found: Vec<(&Letter, usize)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for letter in letters {
        let place = letter.death.as_deref().map(|death| *places.entry(death).or_insert(found.len()));
        match place.and_then(|place| found.get_mut(place)) {
            Some((_, copies)) => *copies += 1,
            None => found.push((letter, 1)),
        }
    }
    found
}

/// What it died of.
pub(super) fn code_of(letter: &Letter) -> &'static str {
    letter.envelope.as_ref().map_or("UNREADABLE", |envelope| envelope.failure.code.name())
}

/// `python/v1:execute`, as far as it is known.
pub(super) fn what(letter: &Letter) -> String {
    let envelope = letter.envelope.as_ref();
    match envelope.map(|envelope| (envelope.protocol.as_deref(), envelope.method.as_deref())) {
        Some((Some(protocol), Some(method))) => format!("{protocol}:{method}"),
        Some((Some(protocol), None)) => protocol.to_owned(),
        Some((None, _)) | None => "-".to_owned(),
    }
}

fn line(letter: &Letter) -> String {
    let message = letter.envelope.as_ref().map_or("no dead letter of ours", |one| &one.failure.message);
    let replays = letter.envelope.as_ref().map_or(0, |envelope| envelope.replays);
    format!(
        "{}  {:<20}  {:<36}  {:<24}  {replays:>2}  {}",
        letter.died_at(),
        print::printable(&what(letter)),
        letter.label(),
        code_of(letter),
        print::brief(&Value::from(message), MESSAGE_CHARACTERS)
    )
}

/// What a list tells of a letter.
pub(super) fn facts(letter: &Letter, copies: usize) -> Value {
    let mut members = Map::new();
    members.insert("letter".to_owned(), json!(letter.name));
    members.insert("copies".to_owned(), json!(copies));
    if let Some(envelope) = &letter.envelope {
        let own = json!({
            "id": envelope.id,
            "workflow": envelope.workflow,
            "protocol": envelope.protocol,
            "method": envelope.method,
            "code": envelope.failure.code.number(),
            "name": envelope.failure.code.name(),
            "message": envelope.failure.message.chars().take(1_000).collect::<String>(),
            "replays": envelope.replays,
            "died_at": envelope.died_at,
            "queue": envelope.queue,
        });
        members.extend(own.as_object().cloned().unwrap_or_default());
    }
    Value::Object(members)
}
