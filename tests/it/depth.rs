//! Back-pressure at submission.

use serde_json::json;

use crate::place::Place;
use crate::support::{Embedded, Ran, until};

fn submit(place: &Place, limit: &str) -> Ran {
    let mut command = place.command(&["call", "echo/v1", "ping", "--no-wait", "--json"]);
    Ran::of(command.env("GLEITZEIT_QUEUES_MAX_DEPTH", limit).output().expect("the binary starts"))
}

#[test]
fn a_submission_to_a_full_queue_is_refused_until_workers_have_caught_up() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    for _ in 0..3 {
        submit(&place, "3").expect(0);
    }
    let refused = submit(&place, "3").expect(4);
    let error = &refused.json()["error"];
    assert_eq!(error["name"], "QUEUE_FULL", "{refused:?}");
    assert_eq!(error["details"], json!({"depth": 3, "max_depth": 3}), "{refused:?}");
    submit(&place, "0").expect(0);
    let _worker = place.worker(&["--protocol", "echo/v1"]);
    until("the queue to have room", || submit(&place, "3").code == 0);
}

#[test]
fn an_embedded_queue_has_its_limit_too() {
    let here = Embedded::new();
    let config = here.write("c.toml", "[queues]\nmax_depth = 1\n[queues.max_depths]\n'echo/v1' = 2\n");
    let submit = || {
        let args = ["call", "echo/v1", "ping", "--no-wait", "--json", "--config", &config];
        here.run(&args)
    };
    submit().expect(0);
    submit().expect(0);
    assert!(submit().expect(4).stdout.contains("QUEUE_FULL"));
    let config = here.write("wrong.toml", "[queues.max_depths]\n'nothing/v1' = 2\n");
    let ran = here.run(&["call", "echo/v1", "ping", "--config", &config]).expect(2);
    assert!(ran.stderr.contains("queues.max_depths: there is no protocol"), "{ran:?}");
}
