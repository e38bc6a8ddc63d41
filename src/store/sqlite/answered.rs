//! Cancels that were answered: what a repeat of one is known by.

use rusqlite::{Connection, params};

use crate::core::id::Id;
use crate::store::REQUESTS_MAX;

/// Before the name of a request that found its root ended otherwise. No id begins with it.
const OTHERWISE: char = '!';
/// Between the name of a request and the run that it found. In no id either.
const OF_RUN: char = '@';

/// Where the requests for one root are remembered.
#[derive(Clone, Copy)]
pub(super) enum Record<'a> {
    /// A task on its own.
    Task(i64),
    Workflow(&'a Id),
    /// Of a root that nobody has seen.
    Mark(&'a Id),
}

/// How a request finds its root.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) is_cancelled: bool,
    pub(super) has_ended: bool,
    pub(super) run: u32,
}

/// How a request was answered before.
#[derive(Clone, Copy)]
pub(super) enum Answered {
    /// It has ended the present run, or found it cancelled.
    Present,
    /// The same of an earlier run.
    Earlier,
    /// It had ended otherwise.
    Otherwise,
}

/// Remembers that the request is answered. If it was before, it has nothing to end any more.
pub(super) fn answered(
    tx: &Connection,
    record: Record<'_>,
    by: Option<&Id>,
    found: Found,
) -> rusqlite::Result<Option<Answered>> {
    let Some(by) = by else { return Ok(None) };
    let known = read(tx, record)?;
    let mut requests: Vec<&str> = known.split_ascii_whitespace().collect();
    let is_it = |(name, _): &(&str, &str)| name.trim_start_matches(OTHERWISE) == by.as_str();
    if let Some((name, run)) = requests.iter().filter_map(|request| request.split_once(OF_RUN)).find(is_it) {
        return Ok(Some(match (name.starts_with(OTHERWISE), run == found.run.to_string()) {
            (true, _) => Answered::Otherwise,
            (false, true) => Answered::Present,
            (false, false) => Answered::Earlier,
        }));
    }
    let sign = if found.has_ended && !found.is_cancelled { OTHERWISE.to_string() } else { String::new() };
    let request = format!("{sign}{by}{OF_RUN}{}", found.run);
    requests.push(&request);
    let surplus = requests.len().saturating_sub(REQUESTS_MAX);
    write(tx, record, &requests.split_off(surplus).join(" "))?;
    Ok(None)
}

fn read(tx: &Connection, record: Record<'_>) -> rusqlite::Result<String> {
    let requests: Option<String> = match record {
        Record::Task(n) => {
            tx.prepare_cached("SELECT cancels FROM tasks WHERE n = ?1")?.query_row([n], |row| row.get(0))?
        }
        Record::Workflow(id) => tx
            .prepare_cached("SELECT cancels FROM workflows WHERE id = ?1")?
            .query_row([id.as_str()], |row| row.get(0))?,
        Record::Mark(root) => tx
            .prepare_cached("SELECT cancels FROM marks WHERE root = ?1")?
            .query_row([root.as_str()], |row| row.get(0))?,
    };
    Ok(requests.unwrap_or_default())
}

fn write(tx: &Connection, record: Record<'_>, requests: &str) -> rusqlite::Result<()> {
    match record {
        Record::Task(n) => {
            tx.prepare_cached("UPDATE tasks SET cancels = ?2 WHERE n = ?1")?.execute(params![n, requests])?
        }
        Record::Workflow(id) => tx
            .prepare_cached("UPDATE workflows SET cancels = ?2 WHERE id = ?1")?
            .execute(params![id.as_str(), requests])?,
        Record::Mark(root) => tx
            .prepare_cached("UPDATE marks SET cancels = ?2 WHERE root = ?1")?
            .execute(params![root.as_str(), requests])?,
    };
    Ok(())
}

/// Takes the mark of a root away; what it has remembered goes into the root's record. Whether there was one.
pub(super) fn take_mark(tx: &Connection, root: &Id, record: Record<'_>) -> rusqlite::Result<bool> {
    if !super::rows::is_marked(tx, root)? {
        return Ok(false);
    }
    let requests = read(tx, Record::Mark(root))?;
    if !requests.is_empty() {
        write(tx, record, &requests)?;
    }
    tx.prepare_cached("DELETE FROM marks WHERE root = ?1")?.execute([root.as_str()])?;
    Ok(true)
}
