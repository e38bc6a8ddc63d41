//! Outages of real servers, and what people are told of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::own::{Own, is_full};
use crate::place::Place;
use crate::support::{Ran, Running, until};

const AGAIN: &str = "connected to the broker again";
const LOST: &str = "connection to the broker lost";

fn count(place: &Place, line: &str) -> usize {
    place.said().lines().filter(|said| said.contains(line)).count()
}

fn ping(place: &Place) {
    place.run(&["call", "echo/v1", "ping", "--timeout", "30", "--json"]).expect(0);
}

/// Whether an AMQP server answers there.
fn answers(amqp: &str) -> bool {
    let host = amqp.rsplit_once('@').expect("a login").1.split('/').next().expect("a host");
    let Ok(mut stream) = TcpStream::connect(host) else { return false };
    let mut first = [0];
    stream.write_all(b"AMQP\x00\x00\x09\x01").is_ok() && stream.read_exact(&mut first).is_ok()
}

#[test]
fn outages_are_over_by_themselves_and_told_once() {
    let Some(own) = Own::start(&[]) else { return };
    let place = own.place();
    let _worker = place.worker(&["--protocol", "echo/v1"]);
    ping(&place);

    own.stack(&["kill", "rabbitmq"]);
    until("the loss to be told by both connections", || count(&place, LOST) == 2);
    let mut restart = own.command(&["restart", "rabbitmq"]).spawn().expect("it starts");
    let amqp = own.variable("GLEITZEIT_AMQP_URL");
    until("the port to answer", || answers(&amqp));
    let started = Instant::now();
    until("both connections to be back", || count(&place, AGAIN) == 2);
    let back = started.elapsed();
    eprintln!("connected {back:?} after the port answered");
    // A machine that is busy with other tests takes its time for everything.
    let limit = if is_full() { 3 } else { 15 };
    assert!(back < Duration::from_secs(limit), "{back:?}");
    assert!(restart.wait().expect("it ends").success());
    ping(&place);
    assert_eq!((count(&place, LOST), count(&place, AGAIN)), (2, 2), "{}", place.said());

    own.stack(&["kill", "redis"]);
    until("the loss to be told", || count(&place, "connection to the store lost") == 1);
    own.stack(&["restart", "redis"]);
    until("the store to be back", || count(&place, "connected to the store again") == 1);
    ping(&place);
    let said = place.said();
    assert_eq!(count(&place, "connection to the store lost"), 1, "{said}");
    assert!(!said.contains("waiting until this step"), "{said}");

    // The server's own time limit for consumers that do not settle closes their channel.
    own.rabbitmqctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 500), application:set_env(rabbit, consumer_timeout, 1000)."]);
    place.vhost.close_connections(2);
    until("the operator's close to be told", || count(&place, AGAIN) == 4);
    let long = place.run(&[
        "call",
        "echo/v1",
        "delay",
        "--params",
        r#"{"seconds": 4}"#,
        "--timeout",
        "40",
        "--json",
    ]);
    assert_eq!(long.expect(0).json()["status"], "completed");
    // Newer servers enforce it for quorum queues only, and in their own time.
    if own.variable("GLEITZEIT_STACK_RELEASE") == "distro" {
        until("the closed channel to be told", || count(&place, "subscription lost") > 0);
        until("the subscription to stand again", || count(&place, "subscribed again") > 0);
    }
    ping(&place);
    assert_eq!((count(&place, LOST), count(&place, AGAIN)), (4, 4), "{}", place.said());
}

/// The most memory that a process has had, in MiB.
fn memory_peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn a_fan_out_ends_through_a_full_queue_and_the_brokers_memory_alarm() {
    let Some(own) = Own::start(&[]) else { return };
    let place = own.place();
    place.run(&["topology", "apply"]).expect(0);
    for at in 0..30 {
        let body = json!({"id": format!("before-{at}"), "method": "ping"}).to_string();
        place.publish("gleitzeit.tasks", "echo.v1", &body, &json!({}));
    }
    let submit = |limit: &str| {
        let mut command = place.command(&["call", "echo/v1", "ping", "--no-wait", "--json"]);
        command.env("GLEITZEIT_QUEUES_MAX_DEPTH", limit).env("GLEITZEIT_AMQP_CONFIRM_TIMEOUT", "2");
        Ran::of(command.output().expect("the binary starts"))
    };
    assert_eq!(submit("30").expect(4).json()["error"]["name"], "QUEUE_FULL");

    let width = if is_full() { 10_000 } else { 2_000 };
    let items: String = (0..width).map(|at| format!("{at}, ")).collect();
    let text = format!(
        "name: Wide\ntasks:\n- id: each\n  for_each: [{items}]\n  protocol: echo/v1\n  method: echo\n  \
         params: {{message: \"${{item}}\"}}\n"
    );
    let file = place.write("wide.yaml", &text);
    let id = place.run(&["submit", &file]).expect(0).stdout.trim().to_owned();

    own.rabbitmqctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let blocked = submit("0").expect(4).json();
    assert_eq!(blocked["error"]["name"], "CONNECTION_TIMEOUT", "{blocked}");
    assert!(blocked["error"]["message"].as_str().is_some_and(|text| text.contains("alarm")), "{blocked}");
    // What waits is run and settled; the workflow is taken in, and what it releases waits in the worker.
    let limit = if is_full() { "1000" } else { "100" };
    let mut worker = place.command(&["worker", "--protocol", "echo/v1"]);
    let log = std::fs::File::create(place.path("worker.log")).expect("a file of ours");
    worker.env("GLEITZEIT_QUEUES_MAX_DEPTH", limit).stderr(log);
    let worker = Running(worker.spawn().expect("the binary starts"));
    for at in 0..30 {
        assert_eq!(place.result(&format!("before-{at}"))["status"], "completed");
    }
    until("the worker to be blocked", || count(&place, "stopped taking messages") == 1);
    let waiting = place.run(&["status", &id, "--json"]).expect(0).json();
    assert_eq!(waiting["status"], "running", "{waiting}");

    own.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]);
    let ended = place.run(&["result", "--wait", "--timeout", "300", &id, "--json"]).expect(0).json();
    assert_eq!(ended["status"], "completed");
    let results = ended["tasks"][0]["result"].as_array().map(Vec::len);
    assert_eq!(results, Some(width), "nothing is lost");
    assert_eq!(count(&place, "takes messages again"), 1, "{}", place.said());
    let peak = memory_peak(worker.0.id());
    eprintln!("{width} tasks, {peak} MiB at most");
    assert!(peak < 500, "{peak} MiB");
}
