//! Schedules.

use gleitzeit::wire::schedule::{Change, Definition, Order};

use crate::play::{Play, id};

/// A slot is fired at its time, another one after everybody was away.
pub(super) fn ticks_of_a_schedule(play: &mut Play) {
    set(play);
    // A slot whose worker dies fires some seconds later.
    play.pass(90);
    play.world.clock.set(super::later(play, 120));
    play.pass(60);
    change(play, Change::Remove, 2);
    play.pass(300);
}

pub(super) fn a_pause_and_a_resumption(play: &mut Play) {
    set(play);
    play.pass(90);
    change(play, Change::Pause, 2);
    play.pass(120);
    change(play, Change::Resume, 3);
    play.pass(120);
    change(play, Change::Remove, 4);
    play.pass(300);
}

/// A task every minute, and all that were missed.
fn set(play: &mut Play) {
    let members = serde_json::json!({"cron": "* * * * *", "catch_up": "all",
        "task": {"protocol": "echo/v1", "method": "echo", "params": {"message": 1}}});
    let members = members.as_object().expect("an object");
    let definition = Definition::new(members, &play.world.protocols).expect("valid");
    let order = Order::Set { name: id("s"), generation: Some(1), definition: Box::new(definition) };
    play.ask(async |person| person.client.order(&order).await.expect("it is taken"));
}

fn change(play: &mut Play, change: Change, generation: u32) {
    let order = Order::Change { name: id("s"), generation: Some(generation), change };
    play.ask(async |person| person.client.order(&order).await.expect("it is taken"));
    play.work();
}
