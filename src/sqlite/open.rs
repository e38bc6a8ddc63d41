//! Opening the file: folder, rights, whose file it is, pragmas, migrations.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::{Durability, Error, Location};

/// How long a writer waits for its turn among processes.
pub(super) const BUSY_MAX: Duration = Duration::from_secs(10);

/// How often it tries. SQLite's own waits grow to 100 ms and so nearly always miss the short gaps that a
/// process which writes all the time leaves.
const BUSY_EVERY: Duration = Duration::from_millis(1);

/// "Gltz": marks our files in their header.
const APPLICATION_ID: i64 = 0x476C_747A;

/// One script per version; a file of version n has had the first n.
const MIGRATIONS: [&str; 8] = [
    include_str!("schema.sql"),
    include_str!("schedules.sql"),
    include_str!("repeats.sql"),
    include_str!("limits.sql"),
    include_str!("shut.sql"),
    include_str!("output.sql"),
    include_str!("about.sql"),
    include_str!("profiles.sql"),
];

/// More than our distinct statements, so that each is prepared once.
const STATEMENTS_MAX: usize = 256;

/// Opens the file and makes it ours.
pub(super) fn open(location: &Location, durability: Durability) -> Result<Connection, Error> {
    let unusable = |reason: String| Error::File { path: location.to_string(), reason };
    // Without SQLITE_OPEN_URI: a path is a path, whatever it looks like.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = match location {
        Location::Memory => Connection::open_in_memory(),
        Location::File(path) => {
            make(path).map_err(|error| unusable(error.to_string()))?;
            Connection::open_with_flags(path, flags)
        }
    };
    let mut connection = opened.map_err(|error| unusable(error.to_string()))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Else SQLite plans a statement anew for each value that is bound to it, which costs more than running it.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(|error| unusable(error.to_string()))?;
    prepare(&mut connection, location, durability).map_err(|problem| match problem {
        Problem::Sqlite(error) => unusable(describe(&error)),
        Problem::Ours(reason) => unusable(reason),
    })?;
    Ok(connection)
}

/// Makes the folder and an empty file, both for this user only: they will hold results.
fn make(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(())
}

enum Problem {
    Sqlite(rusqlite::Error),
    Ours(String),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Problem {
        Problem::Sqlite(error)
    }
}

fn describe(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "it is not a SQLite file; name another with --state".to_owned(),
        Some(ErrorCode::DatabaseCorrupt) => format!("it is damaged ({error}); restore it or name another"),
        Some(ErrorCode::DatabaseBusy) => "another process keeps it locked".to_owned(),
        _ => error.to_string(),
    }
}

fn prepare(connection: &mut Connection, location: &Location, durability: Durability) -> Result<(), Problem> {
    let attempts_max = i32::try_from(BUSY_MAX.as_millis() / BUSY_EVERY.as_millis()).unwrap_or(i32::MAX);
    connection.busy_handler(Some(move |attempts: i32| {
        std::thread::sleep(BUSY_EVERY);
        attempts < attempts_max
    }))?;
    // Before anything is written: a file of somebody else must stay as it is.
    check_whose(connection)?;
    if *location != Location::Memory {
        let mode: String = switch_to_wal(connection)?;
        if mode != "wal" {
            return Err(Problem::Ours(
                "its file system cannot share memory (WAL); use a local disk".to_owned(),
            ));
        }
    }
    let synchronous = match durability {
        Durability::Process => "NORMAL",
        Durability::Power => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Kibibytes.
    connection.pragma_update(None, "cache_size", -32_768)?;
    // Pages of 4 KiB. Checkpoints are what waits for the disk; fewer of them write hot pages less often.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 4_000, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 64 * 1024 * 1024, |_| Ok(()))?;
    migrate(connection)
}

/// Another process that opens the same new file holds a lock for which SQLite does not call the busy handler.
fn switch_to_wal(connection: &Connection) -> rusqlite::Result<String> {
    let mut tries_left = BUSY_MAX.as_millis() / BUSY_EVERY.as_millis();
    loop {
        let outcome = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        let busy =
            matches!(&outcome, Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy));
        if !busy || tries_left == 0 {
            return outcome;
        }
        tries_left -= 1;
        std::thread::sleep(BUSY_EVERY);
    }
}

/// [`version_of`] on one snapshot: another process may be making the file at this moment.
fn check_whose(connection: &mut Connection) -> Result<usize, Problem> {
    let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    version_of(&snapshot)
}

/// The file's version, 0 for an empty one; refuses a file that is not ours or too new.
fn version_of(connection: &Connection) -> Result<usize, Problem> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        let reason = "it is a SQLite file of another program; name another with --state";
        return Err(Problem::Ours(reason.to_owned()));
    }
    match usize::try_from(version) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(Problem::Ours(format!(
            "it has version {version}, written by a newer gleitzeit; this one knows up to {}",
            MIGRATIONS.len()
        ))),
    }
}

/// Brings the file to the present version in one transaction.
fn migrate(connection: &mut Connection) -> Result<(), Problem> {
    if check_whose(connection)? == MIGRATIONS.len() {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again, now that nobody else can change it.
    let version = version_of(&tx)?;
    for script in MIGRATIONS.iter().skip(version) {
        tx.execute_batch(script)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    tx.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    fn reason(path: &Path) -> String {
        match open(&Location::File(path.to_owned()), Durability::Process) {
            Err(Error::File { reason, .. }) => reason,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn a_new_file_and_its_folder_are_for_this_user_only_and_open_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/state.db");
        for _ in 0..2 {
            open(&Location::File(path.clone()), Durability::Power).expect("it opens");
        }
        let mode = |path: &Path| path.metadata().expect("it exists").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.path().join("new"))), (0o600, 0o700));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = folder.path().join("notes.txt");
        std::fs::write(&text, "x".repeat(5000)).expect("writes");
        assert!(reason(&text).contains("not a SQLite file"));
        assert_eq!(std::fs::read(&text).expect("reads").len(), 5000);

        let other = folder.path().join("other.db");
        let connection = Connection::open(&other).expect("opens");
        connection.execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1").expect("writes");
        drop(connection);
        assert!(reason(&other).contains("another program"));

        let newer = folder.path().join("newer.db");
        let connection = open(&Location::File(newer.clone()), Durability::Process).expect("opens");
        connection.pragma_update(None, "user_version", 99).expect("writes");
        drop(connection);
        assert!(reason(&newer).contains("version 99"));
    }

    /// Every table of the file with its columns and rows, as text.
    fn dump(connection: &Connection) -> BTreeMap<String, Vec<BTreeMap<String, String>>> {
        let names: Vec<String> = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .and_then(|mut tables| tables.query_map([], |row| row.get(0))?.collect())
            .expect("reads");
        let rows = |name: &String| -> Vec<BTreeMap<String, String>> {
            let mut all = connection.prepare(&format!("SELECT * FROM {name}")).expect("reads");
            let columns: Vec<String> = all.column_names().map(str::to_owned).collect();
            let row = |row: &rusqlite::Row<'_>| {
                let text = |at: usize| row.get_ref(at).map(|value| format!("{value:?}"));
                columns.iter().enumerate().map(|(at, name)| Ok((name.clone(), text(at)?))).collect()
            };
            all.query_map([], row).expect("reads").collect::<rusqlite::Result<_>>().expect("reads")
        };
        names.iter().map(|name| (name.clone(), rows(name))).collect()
    }

    /// Two rows in every table, with something in each column.
    fn fill(connection: &Connection) {
        for name in dump(connection).keys() {
            let columns: Vec<(String, String)> = connection
                .prepare("SELECT name, type FROM pragma_table_info(?1)")
                .and_then(|mut columns| {
                    columns.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
                })
                .expect("reads");
            for number in 1..=2 {
                let value = |(column, kind): &(String, String)| match kind.as_str() {
                    // Of a limit whose key was written in another way then nothing is kept, on purpose.
                    _ if (name.as_str(), column.as_str()) == ("limits", "key") => "''".to_owned(),
                    "INTEGER" => number.to_string(),
                    "REAL" => format!("{number}.5"),
                    "BLOB" => format!("x'00ff0{number}'"),
                    _ => format!("'{column} {number}'"),
                };
                let values: Vec<String> = columns.iter().map(value).collect();
                let insert = format!("INSERT INTO {name} VALUES ({})", values.join(", "));
                connection.execute_batch(&insert).unwrap_or_else(|error| panic!("{insert}: {error}"));
            }
        }
    }

    #[test]
    fn a_file_of_any_older_version_keeps_all_that_is_in_it() {
        for version in 1..MIGRATIONS.len() {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("state.db");
            let older = Connection::open(&path).expect("opens");
            MIGRATIONS[..version].iter().for_each(|script| older.execute_batch(script).expect("valid"));
            fill(&older);
            older.pragma_update(None, "application_id", APPLICATION_ID).expect("writes");
            older.pragma_update(None, "user_version", version as i64).expect("writes");
            let before = dump(&older);
            drop(older);
            let present = open(&Location::File(path), Durability::Process).expect("it opens");
            let after = dump(&present);
            for (table, rows) in before {
                let kept: Vec<BTreeMap<String, String>> = after[&table]
                    .iter()
                    .zip(&rows)
                    .map(|(kept, row)| {
                        let known = kept.iter().filter(|(column, _)| row.contains_key(*column));
                        known.map(|(column, value)| (column.clone(), value.clone())).collect()
                    })
                    .collect();
                assert_eq!(kept, rows, "{table} of version {version}");
                assert_eq!(after[&table].len(), rows.len(), "{table} of version {version}");
            }
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_and_a_path_that_is_a_folder_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("writes");
        reason(&file.join("state.db"));
        reason(folder.path());
    }

    #[test]
    fn many_threads_make_the_same_file_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::File(folder.path().join("state.db"));
        std::thread::scope(|scope| {
            let opens: Vec<_> =
                (0..8).map(|_| scope.spawn(|| open(&location, Durability::Process).map(drop))).collect();
            for outcome in opens {
                outcome.join().expect("no panic").expect("it opens");
            }
        });
    }
}
