//! Which process holds something, and whether it still lives.
//!
//! A pid alone is reused, so a process is known by pid and start time, on one boot of the machine, in one
//! pid namespace. From another namespace (two containers that share the file) nothing can be seen, so there
//! a process counts as dead when it has not said for [`SILENCE_MAX`] that it lives.

use rusqlite::{Connection, OptionalExtension, params};
use std::fs;
use std::time::Duration;

use crate::core::clock::Timestamp;

/// How often a process says that it lives.
pub(crate) const BEAT_EVERY: Duration = Duration::from_secs(5);

/// After how long a silent process of another pid namespace counts as dead.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A process, told apart from every other that had or will have its pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pid: u32,
    started: i64,
    boot: String,
    space: String,
}

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Alive,
    Dead,
    /// It cannot be seen from here.
    Unknown,
}

impl Process {
    /// This process. Without `/proc` its boot is empty, and nobody can judge anybody.
    pub(crate) fn current() -> Process {
        let pid = std::process::id();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let started = start_time(pid);
        Process {
            pid,
            started: started.unwrap_or(0),
            boot: if started.is_some() { boot.trim().to_owned() } else { String::new() },
            space: space.to_string_lossy().into_owned(),
        }
    }

    /// What this process can tell of `other`.
    pub(crate) fn fate_of(&self, other: &Process) -> Fate {
        if self.boot.is_empty() || other.boot.is_empty() {
            return Fate::Unknown;
        }
        if self.boot != other.boot {
            // The file's WAL works on one machine only, so another boot is an earlier one.
            return Fate::Dead;
        }
        if self.space != other.space {
            return Fate::Unknown;
        }
        match start_time(other.pid) {
            Some(started) if started == other.started => Fate::Alive,
            _ => Fate::Dead,
        }
    }
}

/// When the process started, in clock ticks since boot; `None` if it does not run (a zombie does not).
fn start_time(pid: u32) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything, also spaces and parentheses.
    let (_, after_command) = stat.rsplit_once(')')?;
    let mut fields = after_command.split_ascii_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // Field 22 of proc_pid_stat(5); the state is field 3.
    fields.nth(18)?.parse().ok()
}

/// Writes `process` down and gives the id of its row.
pub(crate) fn register(tx: &Connection, process: &Process, now: Timestamp) -> rusqlite::Result<i64> {
    tx.prepare_cached(
        "INSERT INTO processes (pid, started, boot, space, seen_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![process.pid, process.started, process.boot, process.space, now.as_millis()])?;
    Ok(tx.last_insert_rowid())
}

/// Notes that the process of row `id` lives, at most once per [`BEAT_EVERY`].
pub(crate) fn beat(tx: &Connection, id: i64, now: Timestamp) -> rusqlite::Result<()> {
    let late = now.as_millis().saturating_sub(millis(BEAT_EVERY));
    tx.prepare_cached("UPDATE processes SET seen_at = ?2 WHERE id = ?1 AND seen_at <= ?3")?
        .execute(params![id, now.as_millis(), late])?;
    Ok(())
}

/// Removes the row: what it held must have been freed before.
pub(crate) fn forget(tx: &Connection, id: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM processes WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Rows of processes that are dead, as seen by `me`.
pub(crate) fn dead(tx: &Connection, me: &Process, now: Timestamp) -> rusqlite::Result<Vec<i64>> {
    let mut statement = tx.prepare_cached("SELECT pid, started, boot, space, seen_at, id FROM processes")?;
    let mut rows = statement.query([])?;
    let mut dead = Vec::new();
    while let Some(row) = rows.next()? {
        if is_dead(me, row, now)? {
            dead.push(row.get(5)?);
        }
    }
    Ok(dead)
}

/// Whether the process of row `id` is known to be dead. One without a row is.
pub(crate) fn is_known_dead(
    tx: &Connection,
    me: &Process,
    id: i64,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let mut statement =
        tx.prepare_cached("SELECT pid, started, boot, space, seen_at FROM processes WHERE id = ?1")?;
    let found = statement.query_row([id], |row| is_dead(me, row, now)).optional()?;
    Ok(found.unwrap_or(true))
}

fn is_dead(me: &Process, row: &rusqlite::Row<'_>, now: Timestamp) -> rusqlite::Result<bool> {
    let other = Process { pid: row.get(0)?, started: row.get(1)?, boot: row.get(2)?, space: row.get(3)? };
    let seen_at = Timestamp::from_millis(row.get(4)?);
    Ok(match me.fate_of(&other) {
        Fate::Alive => false,
        Fate::Dead => true,
        Fate::Unknown => other != *me && now.since(seen_at) > SILENCE_MAX,
    })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_lives_until_it_is_killed_also_before_it_is_waited_for() {
        let me = Process::current();
        assert_eq!(me.fate_of(&me), Fate::Alive);
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("sleep runs");
        let started = start_time(child.id()).expect("the child runs");
        let other = Process { pid: child.id(), started, ..me.clone() };
        assert_eq!(me.fate_of(&other), Fate::Alive);
        child.kill().expect("it can be killed");
        while start_time(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(me.fate_of(&other), Fate::Dead, "it is a zombie now");
        child.wait().expect("it can be waited for");
        assert_eq!(me.fate_of(&other), Fate::Dead);
    }

    #[test]
    fn a_reused_pid_and_an_earlier_boot_are_dead_and_another_namespace_is_unknown() {
        let me = Process::current();
        let reused = Process { started: me.started + 1, ..me.clone() };
        let earlier = Process { boot: "another".to_owned(), ..me.clone() };
        let elsewhere = Process { space: "pid:[1]".to_owned(), ..me.clone() };
        let fates = [reused, earlier, elsewhere].map(|other| me.fate_of(&other));
        assert_eq!(fates, [Fate::Dead, Fate::Dead, Fate::Unknown]);
    }

    #[test]
    fn across_namespaces_only_silence_tells_of_death() {
        let tx = Connection::open_in_memory().expect("opens");
        tx.execute_batch(include_str!("schema.sql")).expect("makes the tables");
        let me = Process::current();
        let elsewhere = Process { space: "pid:[1]".to_owned(), ..me.clone() };
        let began = Timestamp::from_millis(1_000_000);
        let row = register(&tx, &elsewhere, began).expect("writes");
        register(&tx, &me, began).expect("writes");
        let at = |after: Duration| dead(&tx, &me, began.after(after)).expect("reads");
        assert!(at(SILENCE_MAX).is_empty());
        assert_eq!(at(SILENCE_MAX + Duration::from_secs(1)), [row]);
        beat(&tx, row, began.after(BEAT_EVERY)).expect("writes");
        assert!(at(SILENCE_MAX + Duration::from_secs(1)).is_empty());
        forget(&tx, row).expect("writes");
        assert!(is_known_dead(&tx, &me, row, began).expect("reads"));
    }
}
