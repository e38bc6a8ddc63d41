//! Messages typed by hand, as `docs/wire-format.md` describes them, against real servers and a real worker.

use serde_json::{Value, json};

use crate::place::{Place, eventually};
use crate::support::until;

#[test]
fn the_minimal_message_is_executed_and_its_result_read_with_redis_cli() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    // No id, no property: as a person types it into the console.
    let body = r#"{"method": "execute", "params": {"code": "print(6*7)"}}"#;
    place.publish("gleitzeit.tasks", "python.v1", body, &json!({}));
    let id = eventually("the task to be listed as completed", || {
        let listed = place.run(&["list", "--json"]).json();
        let ended = listed.as_array()?.iter().find(|row| row["status"] == "completed")?;
        Some(ended["id"].as_str()?.to_owned())
    });
    let document = place.result(&id);
    assert_eq!(document["result"]["stdout"], "42\n");
    assert_eq!(document["id"], json!(id));
}

#[test]
fn garbage_becomes_a_dead_letter_and_leaves_nothing() {
    let Some((place, mut worker)) = Place::with_worker() else { return };
    // Two bytes that are no text, then `garbage`.
    let message = json!({
        "routing_key": "python.v1", "payload": "/wBnYXJiYWdl", "payload_encoding": "base64", "properties": {},
    });
    let path = format!("/api/exchanges/{}/gleitzeit.tasks/publish", place.vhost.name);
    place.vhost.call("POST", &path, &message);
    let letter = place.dead_letter("gleitzeit.dead.python.v1");
    assert_eq!(letter["failure"]["name"], "PARSE_ERROR");
    assert_eq!(letter["original"]["body_base64"], "/wBnYXJiYWdl");
    assert_eq!(letter["queue"], "gleitzeit.tasks.python.v1");
    // It settles what it has dealt with; what it had not would be in the queue now.
    assert_eq!(worker.drain(), Some(0));
    assert_eq!(place.take("gleitzeit.tasks.python.v1"), None);
}

#[test]
fn everything_wrong_with_a_message_is_told_to_whoever_reads_its_result() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let body = r#"{"id": "wrong", "params": 7, "timeout": -1, "retry": {"max_attempts": 99}}"#;
    place.publish("gleitzeit.tasks", "python.v1", body, &json!({}));
    let error = place.result("wrong")["error"].clone();
    assert_eq!(error["name"], "TASK_VALIDATION_FAILED");
    let violations = error["details"]["violations"].as_array().expect("a list");
    let mut paths: Vec<&str> = violations.iter().filter_map(|violation| violation["path"].as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["method", "params", "retry.max_attempts", "timeout"]);
    assert_eq!(place.dead_letter("gleitzeit.dead.python.v1")["failure"], error);
}

#[test]
fn a_message_with_its_own_ttl_ends_as_expired() {
    let Some((place, mut worker)) = Place::with_worker() else { return };
    worker.kill();
    let properties = json!({"message_id": "late", "expiration": "1"});
    place.publish("gleitzeit.tasks", "echo.v1", r#"{"method": "ping"}"#, &properties);
    let _worker = place.worker(&[]);
    let document = place.result("late");
    assert_eq!(
        (&document["status"], &document["error"]["name"]),
        (&json!("expired"), &json!("TASK_EXPIRED"))
    );
}

#[test]
fn a_reply_goes_to_a_queue_that_its_owner_has_bound() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    place.vhost.declare_queue("answers", &json!({"x-queue-type": "classic"}));
    let path = format!("/api/bindings/{}/e/gleitzeit.replies/q/answers", place.vhost.name);
    place.vhost.call("POST", &path, &json!({"routing_key": "answers"}));
    let properties = json!({"reply_to": "answers", "correlation_id": "question-1"});
    place.publish("gleitzeit.tasks", "echo.v1", r#"{"method": "ping"}"#, &properties);
    let message = eventually("the reply", || place.take("answers"));
    assert_eq!(message["properties"]["correlation_id"], "question-1");
    let document: Value = serde_json::from_str(message["payload"].as_str().expect("text")).expect("JSON");
    assert_eq!(document["result"]["response"], "pong");
}

#[test]
fn a_cancel_that_comes_first_holds() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    place.publish("gleitzeit.workflows", "", r#"{"type": "cancel", "id": "early"}"#, &json!({}));
    // Its mark is there once the command was obeyed.
    let mark = place.key("early", "root");
    until("the cancel", || place.redis_cli(&["EXISTS", &mark]) == "1");
    place.publish("gleitzeit.tasks", "echo.v1", r#"{"id": "early", "method": "ping"}"#, &json!({}));
    assert_eq!(place.result("early")["status"], "cancelled");
}
