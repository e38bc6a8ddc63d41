//! `scripts/chaos` itself still runs and finds its ledger exact: a short run, with few faults. And its ledger notices what
//! must not be.

use std::path::Path;
use std::process::Command;

use crate::own::is_full;
use crate::place::say_skipped;

#[test]
fn a_short_run_of_chaos_ends_with_an_exact_ledger() {
    if !is_full() {
        return say_skipped("GLEITZEIT_TEST_FULL=1, by which scripts/chaos is tried");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut chaos = Command::new(root.join("scripts/chaos"));
    // Nothing whose recovery is timed: this program is not optimised.
    let kinds = "--kinds=broker-disconnect,redis-disconnect,redis-forget-scripts,cut-amqp,cut-redis";
    chaos.args([
        "--seed=7",
        "--tasks=300",
        "--faults=4",
        kinds,
        "--program",
        env!("CARGO_BIN_EXE_gleitzeit"),
    ]);
    let ran = chaos.current_dir(root).output().expect("it is a program");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn the_ledger_of_chaos_notices_what_is_lost() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut tests = Command::new("python3");
    tests.args(["-B", "-m", "unittest", "chaoslib.tests"]);
    let ran = tests.current_dir(scripts).output().expect("python3 is a program");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
