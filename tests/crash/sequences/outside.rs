//! Cancels, and runs that somebody asks for.

use serde_json::json;
use std::sync::atomic::Ordering;

use gleitzeit::topology::Queue;
use gleitzeit::wire::command::Command;

use super::{flow, step, task};
use crate::actor::{BROKEN, ENDLESS, FAILS_UNTIL};
use crate::play::{Again, Play, id};

pub(super) fn a_cancel_of_what_runs(play: &mut Play) {
    play.world.scene.is_endless.store(true, Ordering::SeqCst);
    play.send_workflow("w", &flow(&[step("a", ENDLESS, &[]), step("b", "never", &["a"])]));
    play.run(async |beside| {
        let cancel = async {
            beside.cues.runs.notified().await;
            beside.command(Command::Cancel { id: id("w"), by: None }.encode()).await;
            // Another worker may have recorded it before it died: the call hears of it all the same.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = cancel => {}
            () = beside.is_quiet("w") => {}
        }
    });
    play.pass(600);
}

pub(super) fn a_cancel_of_what_is_queued_and_waits(play: &mut Play) {
    play.send_task(json!({"id": "t", "method": "ping"}).to_string());
    play.send_workflow("w", &flow(&[step("a", "never", &[]), step("b", "never", &["a"])]));
    play.take(&Queue::Workflows);
    // At once, or there is nothing left to cancel.
    play.asks_again = Again::AtOnce;
    play.cancel("w");
    play.cancel("t");
    play.work();
}

pub(super) fn a_cancel_before_its_task(play: &mut Play) {
    play.cancel("t");
    play.cancel("w");
    play.take(&Queue::Workflows);
    play.submit(&task("t", "never"));
    play.submit_workflow("w", &flow(&[step("a", "never", &[])]));
    play.work();
}

pub(super) fn a_retry_by_hand(play: &mut Play) {
    let mut document =
        flow(&[step("a", "once", &[]), step("b", BROKEN, &["a"]), step("c", "${b.response}", &["b"])]);
    document["timeout"] = 3600.into();
    play.submit_workflow("w", &document);
    play.submit(&task("t", BROKEN));
    play.work();
    play.mend();
    play.retry("w");
    play.retry("t");
    play.pass(10_000);
}

/// A message of the first run waits for an attempt while the second run is open.
pub(super) fn a_message_of_the_run_before(play: &mut Play) {
    let mut failing = step("a", &format!("{FAILS_UNTIL}3"), &[]);
    failing["retry"] = json!({"max_attempts": 4, "base_delay": 60, "backoff": "fixed", "jitter": false});
    play.submit_workflow("w", &flow(&[failing, step("b", "${a.response}", &["a"])]));
    play.work();
    play.cancel("w");
    play.pass(30);
    play.mend();
    play.retry("w");
    play.pass(600);
}
