//! Dead letters: how they come about, and how they are replayed.

use serde_json::json;

use gleitzeit::broker::Properties;
use gleitzeit::dead::{self, Keep};
use gleitzeit::topology::{Queue, unrouted};

use super::{flow, step, task};
use crate::actor::BROKEN;
use crate::play::{Play, asked, echo};

pub(super) fn garbage(play: &mut Play) {
    play.send_task("{ no JSON");
    play.send_task(json!({"id": "t", "method": "ping", "priority": "whatever"}).to_string());
    play.work();
}

/// It waits for a worker that knows more, and is given up after a day.
pub(super) fn a_task_of_a_newer_version(play: &mut Play) {
    play.send_task(json!({"v": 99, "id": "t", "protocol": "echo/v1", "method": "ping"}).to_string());
    play.pass(150);
    play.world.clock.set(super::later(play, 25 * 60 * 60));
    play.pass(60);
}

pub(super) fn a_refused_workflow(play: &mut Play) {
    play.send_workflow("w", &flow(&[step("a", "never", &["nobody"])]));
    play.work();
}

pub(super) fn a_replay_of_a_task(play: &mut Play) {
    play.submit(&task("t", BROKEN));
    play.work();
    play.mend();
    replay(play);
    play.pass(60);
}

pub(super) fn a_replay_of_a_workflow(play: &mut Play) {
    let tasks = [step("a", BROKEN, &[]), step("b", BROKEN, &[]), step("c", "after", &["a", "b"])];
    play.submit_workflow("w", &flow(&tasks));
    play.work();
    play.mend();
    replay(play);
    play.pass(60);
}

/// What the broker ends by itself comes here; so does what somebody publishes by hand.
pub(super) fn the_dead_inbox(play: &mut Play) {
    let mut tolerated = step("a", "ended from outside", &[]);
    tolerated["critical"] = false.into();
    let document = flow(&[tolerated, step("b", "after", &[])]);
    play.send_workflow("w", &document);
    play.take(&Queue::Workflows);
    let of_workflow = json!({"id": "a", "workflow": "w", "protocol": "echo/v1", "method": "ping"});
    play.send(Queue::Inbox, of_workflow.to_string(), Properties::default());
    let (body, properties) = asked(&document, "v");
    play.send(Queue::Inbox, body, properties);
    let alone = json!({"id": "t", "protocol": "echo/v1", "method": "ping", "reply": {"to": "asker"}});
    play.send(Queue::Inbox, alone.to_string(), Properties::default());
    play.send(Queue::Inbox, "nobody can read this", Properties::default());
    play.take(&Queue::Inbox);
    play.work();
}

/// As `gleitzeit dead replay` does it.
fn replay(play: &mut Play) {
    play.ask(async |person| {
        let look = dead::hold(&person.broker, &[echo(), unrouted()], |_| Keep::Whole).await;
        let mut look = look.expect("the broker answers");
        let chosen = look.take(|_| true);
        let groups = dead::plan(&person.broker, &person.store, chosen).await.expect("the store answers");
        let mut left = Vec::new();
        for group in groups {
            left.extend(dead::replay(&person.broker, group).await.expect("the broker answers"));
        }
        look.release(left).await;
    });
}
