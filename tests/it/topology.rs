//! What is exported is what a server takes, and what `check` compares.

use serde_json::{Value, json};

use crate::golden;
use crate::place::Place;
use crate::support::{Embedded, Ran, gleitzeit};

#[test]
fn exported_definitions_are_imported_and_check_finds_nothing() {
    let Some(place) = Place::new() else { return };
    let overview = place.vhost.call("GET", "/api/overview", &Value::Null);
    let version = overview["rabbitmq_version"].as_str().expect("a server has a version").to_owned();
    place.run(&["topology", "apply"]).expect(0);

    let export = place.run(&["topology", "export", "--rabbitmq", &version]).expect(0).json();
    for queue in export["queues"].as_array().expect("queues") {
        place.vhost.delete_queue(queue["name"].as_str().expect("a name"));
    }
    let ran = place.run(&["topology", "check"]).expect(4);
    assert!(ran.stdout.contains("gleitzeit.tasks.python.v1"), "{ran:?}");

    let here = format!("\"vhost\":\"{}\"", place.vhost.name);
    let mut import: Value =
        serde_json::from_str(&export.to_string().replace("\"vhost\":\"/\"", &here)).expect("JSON");
    import["vhosts"] = json!([{"name": place.vhost.name}]);
    place.vhost.call("POST", "/api/definitions", &import);
    place.run(&["topology", "check"]).expect(0);
}

#[test]
fn the_exported_text_is_the_golden_one() {
    for version in ["3.10", "4.3"] {
        let args = ["topology", "export", "--rabbitmq", version];
        let ran = Ran::of(gleitzeit(&args).output().expect("the binary starts")).expect(0);
        golden::check(&format!("definitions/rabbitmq-{version}.json"), &ran.stdout);
    }
}

#[test]
fn the_operator_chooses_the_type_of_one_queue() {
    let place = Embedded::new();
    let file = place.write("c.toml", "[queues.types]\n\"python/v1\" = \"quorum\"\n");
    let ran = place.run(&["topology", "export", "--rabbitmq", "3.10", "--config", &file]).expect(0);
    let kind = |name: &str| {
        let definitions = ran.json();
        let queues = definitions["queues"].as_array().expect("a list");
        let queue = queues.iter().find(|queue| queue["name"] == name).expect("declared");
        queue["arguments"]["x-queue-type"].as_str().expect("text").to_owned()
    };
    assert_eq!(kind("gleitzeit.tasks.python.v1"), "quorum");
    assert_eq!(kind("gleitzeit.tasks.echo.v1"), "classic");

    for (text, part) in [
        ("[queues]\ntype = \"stream\"\n", "must be one of auto, classic, quorum"),
        (
            "[queues.types]\n\"python/v1\" = \"stream\"\n",
            "queues.types.python/v1 must be one of classic, quorum",
        ),
        ("[queues.types]\n\"pyton/v1\" = \"quorum\"\n", "there is no protocol \"pyton/v1\""),
    ] {
        let file = place.write("wrong.toml", text);
        let ran = place.run(&["topology", "export", "--config", &file, "--json"]).expect(2);
        let error = &ran.json()["error"];
        assert_eq!(error["name"], "CONFIGURATION_ERROR");
        assert!(error["message"].as_str().expect("text").contains(part), "{error}");
    }
}

#[test]
fn a_queue_of_a_chosen_type_is_declared_and_found() {
    let Some(place) = Place::new() else { return };
    let file = place.write("c.toml", "[queues.types]\n\"python/v1\" = \"quorum\"\n");
    let ran = place.run(&["topology", "apply", "--config", &file]).expect(0);
    assert_eq!(place.vhost.queue("gleitzeit.tasks.python.v1")["type"], "quorum");
    // From 4.3 on all are quorum queues, with priorities.
    if place.vhost.queue("gleitzeit.tasks.echo.v1")["type"] == "classic" {
        assert!(ran.stderr.contains("ignore priorities"), "{ran:?}");
    }
    place.run(&["topology", "check", "--config", &file]).expect(0);
}
