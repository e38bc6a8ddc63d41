//! What a dead letter tells, for every kind of death, read from its queue as any program reads it.

use serde_json::{Map, Value, json};

use crate::place::Place;
use crate::support::until;

/// What one letter must tell.
struct Death {
    /// Its task or workflow; `None` if that could not be read.
    id: Option<&'static str>,
    workflow: Option<&'static str>,
    code: &'static str,
    /// The states of its attempts, oldest first, as its history has them.
    history: &'static [&'static str],
    /// Whether somebody ran the last one.
    has_provider: bool,
    /// What it printed last, and what of that on stderr.
    output: Option<(&'static str, &'static str)>,
    /// The queue that the message died in.
    queue: &'static str,
    /// The message, as it was sent.
    body: Value,
}

const PYTHON: &str = "gleitzeit.tasks.python.v1";
const PRINTS: &str =
    "import sys, time\nprint('looking', flush=True)\nprint('oh no', file=sys.stderr, flush=True)\n";

fn task(id: &str, code: &str, more: &Value) -> Value {
    let mut body = json!({"id": id, "method": "execute", "params": {"code": code}});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// Publishes as a producer of another language does.
fn publish(place: &Place, exchange: &str, key: &str, body: &Value, more: &[(&str, Value)]) {
    let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
    let mut properties = Map::from_iter([
        ("priority".to_owned(), json!(7)),
        ("delivery_mode".to_owned(), json!(2)),
        ("headers".to_owned(), json!({"origin": "shop"})),
    ]);
    for (name, value) in more {
        match *name {
            "expiration" => _ = properties.insert("expiration".to_owned(), value.clone()),
            header => properties["headers"][header] = value.clone(),
        }
    }
    place.publish(exchange, key, &text, &Value::Object(properties));
}

/// Those that the broker ends before there is a worker.
fn ended_by_the_broker(place: &Place) -> Vec<Death> {
    let rejected = task("rejected", "1", &json!({}));
    publish(place, "gleitzeit.tasks", "python.v1", &rejected, &[]);
    let path = format!("/api/queues/{}/{PYTHON}/get", place.vhost.name);
    let how = json!({"count": 1, "ackmode": "reject_requeue_false", "encoding": "auto"});
    assert_eq!(place.vhost.call("POST", &path, &how).as_array().map(Vec::len), Some(1));
    let ttl = task("ttl", "1", &json!({}));
    publish(place, "gleitzeit.tasks", "python.v1", &ttl, &[("expiration", json!("50"))]);
    let nowhere = json!({"id": "nowhere", "protocol": "pyton/v1", "method": "execute", "params": {}});
    publish(place, "gleitzeit.tasks", "pyton.v1", &nowhere, &[]);
    until("the broker to end them", || place.vhost.peek("gleitzeit.dead.inbox").len() == 3);
    let death = |id, code, history, queue, body| Death {
        id: Some(id),
        workflow: None,
        code,
        history,
        has_provider: false,
        output: None,
        queue,
        body,
    };
    vec![
        death("rejected", "WORKER_LOST", &["failed"], PYTHON, rejected),
        death("ttl", "TASK_EXPIRED", &["expired"], PYTHON, ttl),
        death("nowhere", "PROTOCOL_NOT_FOUND", &["failed"], "gleitzeit.dead.inbox", nowhere),
    ]
}

/// Those that ran, and came to nothing.
fn that_ran(place: &Place) -> Vec<Death> {
    let raise = format!("{PRINTS}raise ValueError('no')");
    let failed = task("failed", &raise, &json!({}));
    let retry = json!({"retry": {"max_attempts": 2, "base_delay": 0.1, "jitter": false}});
    let retried = task("retried", &raise, &retry);
    let slow = task("slow", &format!("{PRINTS}time.sleep(60)"), &json!({"timeout": 6}));
    for body in [&failed, &retried, &slow] {
        publish(place, "gleitzeit.tasks", "python.v1", body, &[]);
    }
    let death = |id, code, history, output, body| Death {
        id: Some(id),
        workflow: None,
        code,
        history,
        has_provider: true,
        output: Some(output),
        queue: PYTHON,
        body,
    };
    vec![
        death("failed", "TASK_EXECUTION_FAILED", &["failed"], ("looking\n", "oh no\n"), failed),
        death("retried", "TASK_EXECUTION_FAILED", &["failed", "failed"], ("looking\n", "oh no\n"), retried),
        death("slow", "TASK_TIMEOUT", &["failed"], ("looking\n", "oh no\n"), slow),
    ]
}

/// Those that no provider was asked about.
fn that_never_ran(place: &Place) -> Vec<Death> {
    let garbage = json!("{garbage");
    let odd = task("odd", "1", &json!({"priority": "soonish"}));
    let newer = task("newer", "1", &json!({"v": 9}));
    let late = task("late", "1", &json!({"expires_at": "2020-01-01T00:00:00Z"}));
    let unfit = json!({"id": "unfit", "method": "execute", "params": {"cod": 1}});
    let unknown = json!({"id": "unknown", "method": "exekute", "params": {}});
    let orphan = task("orphan", "1", &json!({"workflow": "nobody"}));
    for body in [&garbage, &odd, &late, &unfit, &unknown, &orphan] {
        publish(place, "gleitzeit.tasks", "python.v1", body, &[]);
    }
    let since = [("gleitzeit-newer-since", json!("2020-01-01T00:00:00.000Z"))];
    publish(place, "gleitzeit.tasks", "python.v1", &newer, &since);
    let refused = json!({"id": "refused", "tasks": [{"id": "a"}]});
    publish(place, "gleitzeit.workflows", "", &refused, &[]);
    let death = |id, code, history, queue, body| Death {
        id,
        workflow: None,
        code,
        history,
        has_provider: false,
        output: None,
        queue,
        body,
    };
    let orphaned = death(Some("orphan"), "WORKFLOW_NOT_FOUND", &[], PYTHON, orphan);
    vec![
        death(None, "PARSE_ERROR", &[], PYTHON, garbage),
        death(Some("odd"), "TASK_VALIDATION_FAILED", &["failed"], PYTHON, odd),
        death(Some("newer"), "PROTOCOL_VERSION_MISMATCH", &["failed"], PYTHON, newer),
        death(Some("late"), "TASK_EXPIRED", &["expired"], PYTHON, late),
        death(Some("unfit"), "INVALID_PARAMS", &["failed"], PYTHON, unfit),
        death(Some("unknown"), "METHOD_NOT_FOUND", &["failed"], PYTHON, unknown),
        Death { workflow: Some("nobody"), ..orphaned },
        death(Some("refused"), "WORKFLOW_VALIDATION_FAILED", &[], "gleitzeit.workflows", refused),
    ]
}

/// A task of a workflow, and a message of a run of it that the store has lost.
fn of_a_workflow(place: &Place) -> Vec<Death> {
    let document = json!({"id": "w", "name": "W", "tasks": [
        {"id": "inside", "method": "python/execute", "params": {"code": format!("{PRINTS}1/0")}}]});
    publish(place, "gleitzeit.workflows", "", &document, &[]);
    until("it to end", || place.run(&["status", "w", "--json"]).stdout.contains("\"failed\""));
    let lost = task("inside", "1", &json!({"workflow": "w"}));
    publish(place, "gleitzeit.tasks", "python.v1", &lost, &[("gleitzeit-run", json!("9"))]);
    let death = |code, history, output: Option<_>, body| Death {
        id: Some("inside"),
        workflow: Some("w"),
        code,
        history,
        has_provider: output.is_some(),
        output,
        queue: PYTHON,
        body,
    };
    vec![
        death("TASK_EXECUTION_FAILED", &["failed"], Some(("looking\n", "oh no\n")), Value::Null),
        death("WORKFLOW_INVALID_STATE", &[], None, lost),
    ]
}

/// One that kills its workers, of which it may kill one.
fn that_killed(place: &Place) -> Vec<Death> {
    let poison = task("poison", &format!("{PRINTS}import os\nos.kill(os.getppid(), 9)"), &json!({}));
    publish(place, "gleitzeit.tasks", "python.v1", &poison, &[]);
    vec![Death {
        id: Some("poison"),
        workflow: None,
        code: "WORKER_LOST",
        history: &["failed", "failed"],
        has_provider: false,
        output: None,
        queue: PYTHON,
        body: poison,
    }]
}

#[test]
fn every_kind_of_death_tells_what_there_is_to_tell_and_nothing_else() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    let mut deaths = ended_by_the_broker(&place);
    let start = || {
        let mut command = place.command(&["worker", "--protocol", "python/v1"]);
        let log = std::fs::File::options().create(true).append(true).open(place.path("worker.log"));
        command.env("GLEITZEIT_WORKER_CRASH_LIMIT", "1").stderr(log.expect("a file of ours"));
        crate::support::Running(command.spawn().expect("the binary starts"))
    };
    let mut killed = start();
    deaths.extend(that_ran(&place));
    deaths.extend(that_never_ran(&place));
    deaths.extend(of_a_workflow(&place));
    let mut found = Vec::new();
    collect(&place, &mut found, deaths.len());
    deaths.extend(that_killed(&place));
    killed.0.wait().expect("its task kills it");
    let _heir = start();
    collect(&place, &mut found, deaths.len());
    for death in &deaths {
        check(death, &found);
    }
}

/// Takes letters from their queues until there are so many.
fn collect(place: &Place, found: &mut Vec<Value>, count: usize) {
    until("the dead letters", || {
        for queue in ["gleitzeit.dead.python.v1", "gleitzeit.dead.unknown.v0"] {
            for message in place.vhost.take(queue) {
                let mut letter: Value =
                    serde_json::from_str(message["payload"].as_str().expect("text")).expect("JSON");
                letter["in"] = json!(queue);
                found.push(letter);
            }
        }
        found.len() >= count
    });
    assert_eq!(found.len(), count, "{found:#?}");
}

#[track_caller]
fn check(death: &Death, letters: &[Value]) {
    let told = |letter: &Value| (letter["id"].clone(), letter["failure"]["name"].clone());
    let found: Vec<&Value> =
        letters.iter().filter(|letter| told(letter) == (json!(death.id), json!(death.code))).collect();
    let all: Vec<_> = letters.iter().map(told).collect();
    let [letter] = found[..] else { panic!("{:?} {}: {all:?}", death.id, death.code) };
    assert!(letter["worker"].as_str().is_some_and(|worker| !worker.is_empty()), "{letter:#}");
    assert!(letter["letter"].is_string() && letter["died_at"].is_string(), "{letter:#}");
    assert_eq!(letter["workflow"].as_str(), death.workflow, "{letter:#}");
    assert_eq!(letter["queue"], death.queue, "{letter:#}");

    let history = letter["history"].as_array().expect("a list");
    let states: Vec<&str> = history.iter().filter_map(|entry| entry["status"].as_str()).collect();
    assert_eq!(states, death.history, "{letter:#}");
    assert_eq!(letter["provider"].is_string(), death.has_provider, "{letter:#}");
    if let Some(last) = history.last() {
        assert_eq!(last["error"]["name"], death.code, "{letter:#}");
        assert_eq!(last["provider_id"], letter["provider"], "{letter:#}");
        assert!(
            history.iter().all(|entry| entry["worker_id"].is_string()) || !death.has_provider,
            "{letter:#}"
        );
    }
    match death.output {
        None => assert_eq!(letter["output"], Value::Null, "{letter:#}"),
        Some((stdout, stderr)) => {
            assert_eq!(letter["output"]["stdout"], stdout, "{letter:#}");
            assert!(
                letter["output"]["stderr"].as_str().is_some_and(|text| text.starts_with(stderr)),
                "{letter:#}"
            );
        }
    }

    let original = &letter["original"];
    match &death.body {
        // Made of the workflow's.
        Value::Null => assert_eq!(original["body"]["id"], json!(death.id), "{letter:#}"),
        Value::String(text) => assert_eq!(original["body_text"], json!(text), "{letter:#}"),
        // Published again by a worker for its next attempt, with its defaults filled in.
        body if death.history.len() > 1 => {
            for member in ["id", "method", "params"] {
                assert_eq!(original["body"][member], body[member], "{letter:#}");
            }
        }
        body => assert_eq!(&original["body"], body, "{letter:#}"),
    }
    if !death.body.is_null() {
        assert_eq!(original["properties"]["headers"]["origin"], "shop", "{letter:#}");
        assert_eq!(original["properties"]["priority"], 7, "{letter:#}");
    }
}
