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
