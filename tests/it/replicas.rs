//! A Redis with a replica, or without the one that is asked for.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::place::{Place, eventually};
use crate::support::{Running, until};

#[test]
fn a_message_is_settled_when_the_replicas_have_its_end() {
    let Some(place) = Place::new() else { return };
    let (_primary, port) = redis(&place, &[]);
    let url = format!("redis://127.0.0.1:{port}/0");
    let command = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("GLEITZEIT_REDIS_URL", &url).env("GLEITZEIT_REDIS_WAIT_REPLICAS", "1");
        command
    };
    let mut worker = command(&["worker", "--protocol", "echo/v1"]);
    let said = place.path("said");
    let log = std::fs::File::create(&said).expect("a file of ours");
    let mut worker = Running(worker.stderr(log).spawn().expect("the binary starts"));
    let call = command(&["call", "echo/v1", "ping", "--id", "t"]).output().expect("the binary starts");
    assert!(call.status.success(), "the end is recorded: {call:?}");

    until("the worker to miss a replica", || {
        std::fs::read_to_string(&said).is_ok_and(|said| said.contains("0 of 1 replicas"))
    });
    let queue = "gleitzeit.tasks.echo.v1";
    let held = || place.vhost.queue(queue)["messages_unacknowledged"] == json!(1);
    until("the message to be seen as held", held);
    let (_replica, _) = redis(&place, &["--replicaof", "127.0.0.1", &port.to_string()]);
    until("the message to be settled", || place.vhost.queue(queue)["messages"] == json!(0));
    assert_eq!(worker.drain(), Some(0));
}

#[test]
fn a_claim_that_a_failover_lost_is_made_again() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let flow = "name: Two\ntasks:\n- {id: a, protocol: echo/v1, method: delay, params: {seconds: 10}}\n\
                - {id: b, protocol: echo/v1, method: ping, dependencies: [a]}\n";
    let file = place.write("two.yaml", flow);
    let id = place.run(&["submit", &file]).expect(0).stdout.trim().to_owned();
    place
        .run(&["call", "echo/v1", "delay", "--params", r#"{"seconds": 10}"#, "--no-wait", "--id", "alone"])
        .expect(0);
    let (task, alone) = (place.key(&id, "task:a"), place.key("alone", "root"));
    for key in [&task, &alone] {
        until("it to run", || place.redis_cli(&["HGET", key, "state"]) == "running");
    }
    // As a replica has it that took over before the claim reached it.
    place.redis_cli(&["HSET", &task, "state", "queued", "attempts", "0", "fence", "0"]);
    place.redis_cli(&["DEL", &alone]);
    assert_eq!(place.result("alone")["status"], "completed");
    assert_eq!(place.result(&id)["status"], "completed");
}

/// A server of its own on a free port.
fn redis(place: &Place, more: &[&str]) -> (Running, u16) {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("bound").port()
    };
    let port_text = port.to_string();
    let folder = place.path(&port_text);
    std::fs::create_dir(&folder).expect("a folder of its own");
    let mut command = Command::new("redis-server");
    command.args(["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--repl-diskless-sync-delay", "0", "--dir"]).arg(folder).args(more);
    let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("redis-server is there");
    let server = Running(server);
    let ping = || {
        let output = Command::new("redis-cli").args(["-p", &port_text, "ping"]).output().ok()?;
        (output.stdout == b"PONG\n").then_some(())
    };
    eventually("the server to answer", ping);
    (server, port)
}
