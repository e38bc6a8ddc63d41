//! Tasks on their own.

use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gleitzeit::core::task::Spec;
use gleitzeit::wire::task::Task;

use super::{attempts, later, task};
use crate::actor::{ENDLESS, FAILS_UNTIL, LONG, POISON};
use crate::play::Play;

pub(super) fn a_task(play: &mut Play) {
    play.submit(&task("t", "hello"));
    play.work();
}

pub(super) fn a_task_that_is_answered(play: &mut Play) {
    play.send_task(json!({"id": "t", "method": "ping"}).to_string());
    play.send_task(json!({"id": "u", "method": "error", "params": {"message": "as asked"}}).to_string());
    play.work();
}

pub(super) fn a_retry_with_a_delay(play: &mut Play) {
    let Task { spec, .. } = task("t", &format!("{FAILS_UNTIL}3"));
    play.submit(&Task { spec: Spec { retry: Some(attempts(3)), ..spec }, ..task("t", "") });
    play.pass(600);
}

pub(super) fn retries_that_are_used_up(play: &mut Play) {
    let Task { spec, .. } = task("t", &format!("{FAILS_UNTIL}99"));
    play.submit(&Task { spec: Spec { retry: Some(attempts(2)), ..spec }, ..task("t", "") });
    play.pass(600);
}

pub(super) fn a_long_task_under_a_guard(play: &mut Play) {
    play.world.guard_after = Duration::from_millis(1);
    play.submit(&task("t", LONG));
    play.pass(60);
}

pub(super) fn a_poison_task(play: &mut Play) {
    play.submit(&task("t", POISON));
    play.pass(600);
}

pub(super) fn tasks_that_are_not_to_start_yet(play: &mut Play) {
    let Task { spec, .. } = task("t", "in time");
    let due = Some(later(play, 30));
    play.submit(&Task { spec: Spec { not_before: due, ..spec }, ..task("t", "") });
    // A foreign producer leaves the waiting to the worker.
    play.send_task(json!({"id": "u", "method": "ping", "not_before": later(play, 90)}).to_string());
    play.pass(20);
    let calls = play.world.scene.calls.lock().expect("nobody panics with it").len();
    assert_eq!(calls, 0, "it was too early");
    play.pass(120);
}

pub(super) fn a_task_that_is_too_late(play: &mut Play) {
    play.send_task(json!({"id": "t", "method": "ping", "expires_at": later(play, 30)}).to_string());
    play.world.clock.set(later(play, 60));
    play.work();
    let calls = play.world.scene.calls.lock().expect("nobody panics with it").len();
    assert_eq!(calls, 0, "it was too late");
}

pub(super) fn a_drain(play: &mut Play) {
    play.world.scene.is_endless.store(true, Ordering::SeqCst);
    play.send_task(json!({"id": "t", "method": "ping", "params": {"message": ENDLESS}}).to_string());
    // No grace: what runs is given back, uncounted.
    play.run(async |beside| beside.cues.runs.notified().await);
    play.world.scene.is_endless.store(false, Ordering::SeqCst);
    play.pass(60);
}
