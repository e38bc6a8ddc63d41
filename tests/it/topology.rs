//! What is exported is what a server takes, and what `check` compares.

use serde_json::{Value, json};

use crate::golden;
use crate::place::Place;
use crate::support::{Ran, gleitzeit};

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
