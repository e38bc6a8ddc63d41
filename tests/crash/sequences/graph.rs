//! Workflows.

use serde_json::json;

use super::{flow, step};
use crate::actor::FAILS_UNTIL;
use crate::play::Play;

pub(super) fn a_chain(play: &mut Play) {
    let tasks =
        [step("a", "start", &[]), step("b", "${a.response}", &["a"]), step("c", "${b.response}", &["b"])];
    play.submit_workflow("w", &flow(&tasks));
    play.work();
}

pub(super) fn a_fan_in(play: &mut Play) {
    let tasks = [
        step("a", "1", &[]),
        step("b", "2", &[]),
        step("c", "3", &[]),
        step("d", "${a.response}${b.response}${c.response}", &["a", "b", "c"]),
    ];
    let mut document = flow(&tasks);
    document["max_parallel"] = 2.into();
    play.send_workflow("w", &document);
    play.work();
}

pub(super) fn edges_of_all_kinds(play: &mut Play) {
    let on_a = |name: &str, edge: serde_json::Value| {
        let mut told = step(name, "goes on", &[]);
        told["dependencies"] = json!([edge]);
        told
    };
    let mut unwanted = step("g", "not at all", &["h"]);
    unwanted["when"] = "${h.response} == 'no'".into();
    let mut with_default = on_a("d", json!({"task": "a", "default": {"response": "instead"}}));
    with_default["params"]["message"] = "${a.response}".into();
    let mut failing = step("a", &format!("{FAILS_UNTIL}99"), &[]);
    failing["retry"] = json!({"max_attempts": 1});
    let tasks = [
        failing,
        on_a("b", json!({"task": "a", "on_failure": "skip"})),
        on_a("c", json!({"task": "a", "on_failure": "continue"})),
        with_default,
        step("e", "never", &["a"]),
        step("f", "never either", &["e"]),
        step("h", "yes", &[]),
        unwanted,
    ];
    play.send_workflow("w", &flow(&tasks));
    play.work();
}

pub(super) fn items_of_a_list(play: &mut Play) {
    let mut each = step("a", "${item}", &["s"]);
    each["for_each"] = "${s.response}".into();
    each["max_parallel"] = 2.into();
    let mut source = step("s", "", &[]);
    source["params"]["message"] = json!(["x", "y", "z"]);
    play.send_workflow("w", &flow(&[source, each, step("b", "after", &["a"])]));
    play.work();
}

pub(super) fn a_nested_workflow(play: &mut Play) {
    let inner = flow(&[step("i", "inside", &[]), step("j", "${i.response}", &["i"])]);
    let nested = json!({"id": "n", "workflow": inner});
    play.send_workflow("w", &flow(&[nested, step("b", "after", &["n"])]));
    play.work();
}

pub(super) fn a_workflow_that_runs_out_of_time(play: &mut Play) {
    let mut failing = step("b", &format!("{FAILS_UNTIL}99"), &[]);
    failing["retry"] = json!({"max_attempts": 3, "base_delay": 60, "jitter": false});
    let mut document = flow(&[step("a", "in time", &[]), failing, step("c", "never", &["b"])]);
    document["timeout"] = 30.into();
    play.send_workflow("w", &document);
    play.pass(600);
}
