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
    place.run(&["call", "echo/v1", "ping", "--timeout", "240", "--json"]).expect(0);
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
    assert!(!is_full() || back < Duration::from_secs(3), "{back:?}");
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
    the_server_closes_every_channel(&own, &place);
    ping(&place);
    assert_eq!((count(&place, LOST), count(&place, AGAIN)), (4, 4), "{}", place.said());
}

/// On any release it closes a channel whose client makes a mistake, here one that is made in its name.
fn the_server_closes_every_channel(own: &Own, place: &Place) {
    let told = || (count(place, "subscription lost"), count(place, "subscribed again"));
    let before = told();
    let params = r#"{"seconds": 10}"#;
    place.run(&["call", "echo/v1", "delay", "--params", params, "--id", "meanwhile", "--no-wait"]).expect(0);
    until("it to run", || place.run(&["status", "meanwhile"]).stdout.contains("running"));
    let unknown = "[gen_server:cast(One, {method, {'basic.ack', 1000000, false}, none, noflow}) || One <- rabbit_channel:list()].";
    own.rabbitmqctl(&["eval", unknown]);
    until("the closed channels to be told", || told().0 > before.0);
    until("every subscription to stand again", || told().1 - before.1 == told().0 - before.0);
    let document =
        place.run(&["result", "--wait", "--timeout", "240", "meanwhile", "--json"]).expect(0).json();
    assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(1)), "{document}");
}

/// The most memory that a process has had, in MiB.
fn memory_peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// The memory alarm, as the server itself tells of it.
fn alarm(own: &Own, is_on: bool) {
    let limit: &[&str] = if is_on { &["0.00001"] } else { &["absolute", "1GB"] };
    own.rabbitmqctl(&[&["set_vm_memory_high_watermark"][..], limit].concat());
    alarmed(own, "memory", is_on);
}

/// The alarm of the disk.
fn disk_alarm(own: &Own, is_on: bool) {
    own.rabbitmqctl(&["set_disk_free_limit", if is_on { "1000000000000000" } else { "1000000" }]);
    alarmed(own, "disk", is_on);
}

fn alarmed(own: &Own, of: &str, is_on: bool) {
    until("the alarm", || own.rabbitmqctl(&["eval", "rabbit_alarm:get_alarms()."]).contains(of) == is_on);
}

/// What a submission to `echo/v1` comes to under this limit.
fn submit(place: &Place, limit: usize) -> Ran {
    let mut command = place.command(&["call", "echo/v1", "ping", "--no-wait", "--json"]);
    command.env("GLEITZEIT_QUEUES_MAX_DEPTH", limit.to_string());
    Ran::of(command.env("GLEITZEIT_AMQP_CONFIRM_TIMEOUT", "2").output().expect("the binary starts"))
}

/// The depth of the queue, as a submission is told that is refused for it; `None` if it is not refused.
fn refused_at(place: &Place, limit: usize) -> Option<u64> {
    let ran = submit(place, limit);
    let error = Some(ran).filter(|ran| ran.code == 4)?.json()["error"].clone();
    Some(error).filter(|error| error["name"] == "QUEUE_FULL")?["details"]["depth"].as_u64()
}

/// A worker with a limit of its own, told apart by its log.
fn limited(place: &Place, limit: usize, log: &str, args: &[&str]) -> Running {
    let mut command = place.command(&[&["worker"][..], args].concat());
    let log = std::fs::File::create(place.path(log)).expect("a file of ours");
    command.env("GLEITZEIT_QUEUES_MAX_DEPTH", limit.to_string()).stderr(log);
    Running(command.spawn().expect("the binary starts"))
}

#[test]
fn in_the_brokers_disk_alarm_what_waits_runs_and_what_is_new_is_refused() {
    let Some(own) = Own::start(&[]) else { return };
    let place = own.place();
    place.run(&["topology", "apply"]).expect(0);
    let body = json!({"id": "before", "method": "ping"}).to_string();
    place.publish("gleitzeit.tasks", "echo.v1", &body, &json!({}));
    disk_alarm(&own, true);
    let blocked = submit(&place, 0).expect(4).json();
    assert_eq!(blocked["error"]["name"], "CONNECTION_TIMEOUT", "{blocked}");
    assert!(blocked["error"]["message"].as_str().is_some_and(|text| text.contains("alarm")), "{blocked}");
    let _worker = limited(&place, 0, "worker.log", &["--protocol", "echo/v1"]);
    assert_eq!(place.result("before")["status"], "completed");
    disk_alarm(&own, false);
    place.run(&["call", "echo/v1", "ping", "--timeout", "240"]).expect(0);
}

#[test]
fn queues_that_are_deleted_under_a_worker_are_there_again() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    place.run(&["call", "echo/v1", "ping", "--timeout", "240"]).expect(0);
    for queue in ["gleitzeit.tasks.echo.v1", "gleitzeit.dead.echo.v1", "gleitzeit.workflows"] {
        place.vhost.delete_queue(queue);
    }
    until("the queues", || place.run(&["topology", "check"]).code == 0);
    // Once more, before anything came through it, and sooner than is declared at once.
    place.vhost.delete_queue("gleitzeit.tasks.echo.v1");
    until("the queue", || place.run(&["topology", "check"]).code == 0);
    place.run(&["call", "echo/v1", "ping", "--timeout", "240"]).expect(0);
    let workflow = json!({"id": "flow", "name": "W", "tasks": [{"id": "a", "method": "echo/ping"}]});
    place.publish("gleitzeit.workflows", "gleitzeit.workflows", &workflow.to_string(), &json!({}));
    let ended = place.run(&["result", "--wait", "--timeout", "240", "flow", "--json"]).expect(0).json();
    assert_eq!(ended["status"], "completed");

    // One that it only publishes to.
    place.vhost.delete_queue("gleitzeit.dead.echo.v1");
    let refused = json!({"id": "refused", "method": "no such method"}).to_string();
    place.publish("gleitzeit.tasks", "echo.v1", &refused, &json!({}));
    until("its letter", || place.vhost.peek("gleitzeit.dead.echo.v1").len() == 1);
    assert!(place.said().contains("the topology is declared again"), "{}", place.said());
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
    assert_eq!(refused_at(&place, 30), Some(30));

    // One task, then so many that wait for it, then one that waits for all of these.
    let (width, limit) = if is_full() { (10_000, 1_000) } else { (2_000, 100) };
    let (begun, go) = (place.path("begun"), place.path("go"));
    let code = format!(
        "import os, time\nopen({begun:?}, 'w')\nwhile not os.path.exists({go:?}):\n    time.sleep(0.05)\n"
    );
    let each: Vec<String> = (0..width).map(|at| format!("each-{at}")).collect();
    let mut tasks =
        vec![json!({"id": "first", "method": "python/execute", "params": {"code": code}, "timeout": 600})];
    tasks.extend(each.iter().map(|id| json!({"id": id, "method": "echo/ping", "dependencies": ["first"]})));
    tasks.push(json!({"id": "last", "method": "echo/ping", "dependencies": each}));
    let file = place.write("wide.json", &json!({"name": "Wide", "tasks": tasks}).to_string());
    let id = place.run(&["submit", &file]).expect(0).stdout.trim().to_owned();
    let taker = limited(&place, limit, "worker.log", &["--protocol", "python/v1"]);
    until("the first task to run", || begun.exists());

    alarm(&own, true);
    let blocked = submit(&place, 0).expect(4).json();
    assert_eq!(blocked["error"]["name"], "CONNECTION_TIMEOUT", "{blocked}");
    assert!(blocked["error"]["message"].as_str().is_some_and(|text| text.contains("alarm")), "{blocked}");
    // What waits is run and settled; what the first task releases waits in its worker.
    let mut early = limited(&place, limit, "early.log", &["--protocol", "echo/v1", "--no-coordination"]);
    for at in 0..30 {
        assert_eq!(place.result(&format!("before-{at}"))["status"], "completed");
    }
    early.kill();
    std::fs::write(&go, "").expect("a file of ours");
    until("the worker to be blocked", || count(&place, "stopped taking messages") == 1);
    let status = || place.run(&["status", &id, "--json"]).expect(0).json()["status"].clone();
    assert_eq!(status(), "running");

    // Nobody runs them yet: the whole fan-out goes into a queue that refuses everybody else.
    alarm(&own, false);
    until("all to be in the queue", || refused_at(&place, limit).is_some_and(|depth| depth >= width));
    assert_eq!((count(&place, "takes messages again"), status()), (1, json!("running")), "{}", place.said());
    // Both at once.
    alarm(&own, true);
    let runner = limited(&place, limit, "runner.log", &["--protocol", "echo/v1"]);
    until("some to run", || refused_at(&place, limit).is_none_or(|depth| depth < width));
    assert!(own.rabbitmqctl(&["eval", "rabbit_alarm:get_alarms()."]).contains("memory"), "in the alarm");
    alarm(&own, false);

    let ended = place.run(&["result", "--wait", "--timeout", "300", &id, "--json"]).expect(0).json();
    assert_eq!(ended["status"], "completed");
    let ends = ended["tasks"].as_array().expect("a list");
    assert_eq!(ends.len() as u64, width + 2);
    assert!(ends.iter().all(|task| task["status"] == "completed"), "nothing is lost");
    let peak = memory_peak(taker.0.id()).max(memory_peak(runner.0.id()));
    eprintln!("{width} tasks, {peak} MiB at most");
    assert!(peak < 500, "{peak} MiB");
}
