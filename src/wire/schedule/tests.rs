use super::*;

fn protocols() -> Protocols {
    Protocols::builtin().expect("built in")
}

fn read(value: &Value) -> Result<Order, Failure> {
    let members = value.as_object().expect("an object").clone();
    let kind = members["type"].as_str().expect("text").to_owned();
    Order::read(&kind, &members, &protocols()).expect("about schedules")
}

fn nightly() -> Value {
    json!({"type": "schedule", "id": "nightly", "generation": 1, "cron": "0 3 * * *", "zone": "Europe/Berlin",
        "catch_up": "all", "grace": 1.5, "overlap": "skip",
        "task": {"protocol": "echo/v1", "method": "echo", "params": {"message": 1.50}, "priority": 7}})
}

#[test]
fn orders_read_back_what_they_wrote() {
    let workflow =
        json!({"name": "W", "tasks": [{"id": "a", "method": "echo/echo", "params": {"message": 1}}]});
    for value in [
        nightly(),
        json!({"type": "schedule", "id": "w", "cron": "@hourly", "zone": "UTC", "catch_up": "latest", "grace": 60,
            "overlap": "allow", "workflow": workflow}),
        json!({"type": "schedule:pause", "id": "n", "generation": 2}),
        json!({"type": "schedule:resume", "id": "n"}),
        json!({"type": "schedule:remove", "id": "n", "generation": 4}),
        json!({"type": "tick", "id": "n", "slot": "2026-01-02T03:04:05.000Z", "generation": 1}),
    ] {
        let order = read(&value).expect("valid");
        let written: Value = serde_json::from_slice(&order.encode()).expect("JSON");
        assert_eq!(read(&written), Ok(order));
        assert_eq!(written.as_object().map(Map::len), value.as_object().map(Map::len), "{written}");
    }
}

#[test]
fn a_definition_reads_back_from_the_store() {
    let Ok(Order::Set { definition, .. }) = read(&nightly()) else { panic!("a definition") };
    assert_eq!(Definition::decode(&definition.encode()), Ok(*definition));
}

#[test]
fn a_definition_that_means_more_than_is_known_here_is_not_read() {
    let Ok(Order::Set { definition, .. }) = read(&nightly()) else { panic!("a definition") };
    let with = |key: &str, value: Value| {
        let mut members = definition.members();
        members.insert(key.to_owned(), value);
        Definition::decode(Value::Object(members).to_string().as_bytes())
    };
    assert!(with("v", json!(1)).is_ok());
    assert_eq!(with("v", json!(2)).map_err(|failure| failure.code), Err(Code::ProtocolVersionMismatch));
    for (key, value) in [("jitter", json!(5)), ("zone", json!("Mars/Olympus")), ("catch_up", json!("some"))] {
        let failure = with(key, value).expect_err("unread");
        assert!(failure.message.contains(key), "{failure}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let failure =
        read(&json!({"type": "schedule", "id": "a b", "generation": 0, "cron": "61 * * * *", "zone": "Mars",
        "catch_up": "some", "grace": -1, "overlap": "maybe", "jitter": 5,
        "task": {"id": "x", "protocol": "echo/v1", "method": "shout", "params": {}}}))
        .expect_err("refused");
    let violations = failure.details["violations"].as_array().expect("a list").clone();
    let mut paths: Vec<&str> = violations.iter().filter_map(|v| v["path"].as_str()).collect();
    paths.sort_unstable();
    let expected = ["catch_up", "cron", "generation", "grace", "id", "jitter", "overlap", "task.id"];
    assert!(expected.iter().all(|path| paths.contains(path)), "{paths:?}");
    assert!(
        paths.contains(&"zone") && paths.iter().any(|path| path.starts_with("task.") && *path != "task.id")
    );
    for missing in [
        json!({"type": "tick", "id": "n", "generation": 1}),
        json!({"type": "tick", "id": "n", "slot": "2026-01-02T03:04:05Z"}),
        json!({"type": "schedule", "id": "n", "cron": "* * * * *"}),
        json!({"type": "schedule:pause"}),
    ] {
        assert!(read(&missing).is_err(), "{missing}");
    }
}

#[test]
fn a_run_has_the_id_of_its_slot() {
    let Ok(Order::Set { name, definition, .. }) = read(&nightly()) else { panic!("a definition") };
    let slot: Timestamp = "2026-01-02T02:00:00Z".parse().expect("a time");
    let id = Definition::run_id(&name, slot);
    assert_eq!(id, Definition::run_id(&name, slot));
    assert_ne!(id, Definition::run_id(&name, slot.after(Duration::from_secs(1))));
    let run = definition.run(&name, &id, Some(slot));
    let body: Value = serde_json::from_slice(&run.body).expect("JSON");
    assert_eq!((&body["id"], &body["priority"], run.priority), (&json!(id), &json!(7), Some(7)));
    assert_eq!(body["metadata"], json!({"schedule": "nightly", "slot": "2026-01-02T02:00:00.000Z"}));
    assert_eq!(run.protocol.map(|protocol| protocol.to_string()).as_deref(), Some("echo/v1"));
}
