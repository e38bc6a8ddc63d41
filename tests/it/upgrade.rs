//! Workers of two versions beside each other: what the older one does not understand is kept.

use serde_json::{Value, json};

use crate::place::Place;
use crate::support::until;

/// The level that a wait of a minute enters.
const MINUTE: &str = "gleitzeit.delay.09.51.2s";

#[test]
fn a_message_of_a_newer_version_waits_for_a_newer_worker() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let body = json!({"v": 2, "id": "newer", "protocol": "echo/v1", "method": "ping", "only_in_v2": [1, {"a": 2.5}]});
    place.publish("gleitzeit.tasks", "echo.v1", &body.to_string(), &json!({"priority": 7}));
    until("the message to be parked", || place.vhost.peek(MINUTE).len() == 1);
    let parked = place.vhost.peek(MINUTE).remove(0);
    assert_eq!(parked["payload"].as_str(), Some(body.to_string().as_str()), "byte for byte");
    assert_eq!(parked["properties"]["priority"], 7);
    assert!(parked["routing_key"].as_str().is_some_and(|key| key.ends_with(".tasks.echo.v1")), "{parked}");
    let letters = place.run(&["dead", "list", "--json"]).expect(0).json();
    assert_eq!(letters["total"], 0);
    place.run(&["call", "echo/v1", "ping"]).expect(0);
}

#[test]
fn members_that_no_worker_knows_travel_through_delay_retry_death_and_replay() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let future = json!({"a": [1, 2.5, "x"], "b": null});
    let body = json!({
        "id": "future", "protocol": "echo/v1", "method": "error", "params": {"message": "no"},
        "retry": {"max_attempts": 2, "base_delay": 0.3}, "not_before": "2020-01-01T00:00:00Z", "only_later": future,
    });
    let later = format!("{}1.0.0.tasks.echo.v1", "0.".repeat(25));
    place.publish("gleitzeit.delay.02.400ms", &later, &body.to_string(), &json!({}));
    let letter = |after: &Value| {
        let mut found = Value::Null;
        until("it to die", || {
            let listed = place.run(&["dead", "list", "--json"]).expect(0).json();
            found = listed["letters"][0].clone();
            !found.is_null() && found["died_at"] != after["died_at"]
        });
        let name = found["letter"].as_str().expect("a name").to_owned();
        let shown = place.run(&["dead", "show", &name, "--json"]).expect(0).json();
        assert!(shown.to_string().contains(&format!("\"only_later\":{future}")), "{shown}");
        found
    };
    let first = letter(&Value::Null);
    place.run(&["dead", "replay", "--all"]).expect(0);
    letter(&first);
}
