//! What a message carries when it has been through the delays of the broker: what its sender gave it, and of the
//! broker's own only what its last hop wrote. RabbitMQ 3.10 drops a message without a word that comes to a queue again
//! with the history of its first pass.

use serde_json::{Value, json};

use crate::place::{Place, eventually};
use crate::support::until;

/// Where a wait of 12.8 s is spent, all of it: long enough that a slow machine looks into it in time.
const LONGEST: &str = "gleitzeit.delay.07.12.8s";

/// The names of the headers that brokers write. A quorum queue counts in what it hands out; none before that.
fn of_the_broker(message: &Value) -> Vec<&str> {
    let headers = message["properties"]["headers"].as_object().expect("headers");
    let written = headers.iter().filter(|(name, value)| name.starts_with("x-") && **value != json!(0));
    written.map(|(name, _)| name.as_str()).collect()
}

/// Priority, headers and body are those of its sender, but for the attempt.
#[track_caller]
fn is_as_it_was_sent(message: &Value, id: &str) {
    let properties = &message["properties"];
    assert_eq!(properties["priority"], json!(7), "{message}");
    let headers = &properties["headers"];
    assert_eq!(
        (&headers["origin"], &headers["tenant"], &headers["vip"]),
        (&json!("shop"), &json!(42), &json!(true))
    );
    let body: Value = serde_json::from_str(message["payload"].as_str().expect("text")).expect("JSON");
    assert_eq!((&body["id"], &body["attempt"]), (&json!(id), &json!(4)), "{body}");
    assert_eq!(body["metadata"], json!({"order": "17"}), "{body}");
}

#[test]
fn a_task_that_has_been_delayed_twice_carries_nothing_that_the_broker_wrote() {
    let Some((place, mut worker)) = Place::with_worker() else { return };
    // 3.2 s, 6.4 s and 12.8 s: one delay queue for each.
    let retry = json!({"max_attempts": 5, "backoff": "exponential", "base_delay": 3.2, "jitter": false});
    for id in ["a", "b"] {
        let params = json!({"code": "1/0"});
        let body = json!({"id": id, "method": "execute", "params": params, "retry": retry, "metadata": {"order": "17"}});
        let properties = json!({"priority": 7, "headers": {"origin": "shop", "tenant": 42, "vip": true, "CC": ["nobody"]}, "delivery_mode": 2});
        place.publish("gleitzeit.tasks", "python.v1", &body.to_string(), &properties);
    }
    let is_delayed = |id: &str| {
        let task = place.run(&["status", id, "--json"]).json();
        (&task["status"], &task["attempts"]) == (&json!("delayed"), &json!(3))
    };
    until("the third failure of both", || ["a", "b"].into_iter().all(is_delayed));
    assert_eq!(worker.drain(), Some(0));

    // As we have published it: no broker has moved it yet.
    let published = eventually("one of them", || place.take(LONGEST));
    let id = if published["payload"].as_str().is_some_and(|text| text.contains(r#""id":"a""#)) {
        "a"
    } else {
        "b"
    };
    assert_eq!(of_the_broker(&published), Vec::<&str>::new(), "{published}");
    is_as_it_was_sent(&published, id);

    // As it arrives: its last pass is told, and none before.
    let arrived = eventually("the other one", || place.take("gleitzeit.tasks.python.v1"));
    is_as_it_was_sent(&arrived, if id == "a" { "b" } else { "a" });
    let headers = &arrived["properties"]["headers"];
    let deaths = headers["x-death"].as_array().expect("the last pass");
    assert_eq!(deaths.len(), 1, "{arrived}");
    assert_eq!((&deaths[0]["queue"], &deaths[0]["count"]), (&json!(LONGEST), &json!(1)), "{arrived}");
    assert_eq!(headers["x-first-death-queue"], json!(LONGEST), "{arrived}");
    let written = of_the_broker(&arrived);
    assert!(written.iter().all(|name| !name.ends_with("-count")), "{arrived}");
}
