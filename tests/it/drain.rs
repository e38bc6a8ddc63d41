//! A worker that is told to stop when that is not easy.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::place::Place;
use crate::proxy::Proxy;
use crate::support::{Running, until};

fn tell(worker: &Running, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(worker.0.id()).expect("a pid"));
    nix::sys::signal::kill(pid, signal).expect("a child of ours");
}

/// A task that is not over by itself while a test looks.
fn start_long(place: &Place) {
    place.run(&["exec", "import time; time.sleep(300)", "--id", "long", "--no-wait"]).expect(0);
}

/// The exit code, and how long it took from now.
fn end(worker: &mut Running) -> (Option<i32>, Duration) {
    let since = Instant::now();
    let code = worker.0.wait().expect("it ends").code();
    (code, since.elapsed())
}

fn runs(place: &Place, id: &str) -> bool {
    place.run(&["status", id, "--json"]).stdout.contains("\"running\"")
}

#[test]
fn a_second_signal_ends_a_worker_at_once_and_its_task_is_taken_over() {
    let Some(place) = Place::new() else { return };
    let mut worker = place.worker(&["--log-level", "info"]);
    start_long(&place);
    until("the task to run", || runs(&place, "long"));
    tell(&worker, Signal::SIGTERM);
    until("it to say what is left", || place.said().contains("draining"));
    tell(&worker, Signal::SIGTERM);
    let (code, took) = end(&mut worker);
    assert_eq!(code, Some(143));
    // Else it would wait for its grace.
    assert!(took < Duration::from_secs(25), "{took:?}");
    let _other = place.worker(&[]);
    let took_over = || place.said().contains("taking over from a dead worker");
    until("it to run elsewhere", || took_over() && runs(&place, "long"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_broker_is_away_drains_within_its_grace() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    let proxy = Proxy::start(&place.vhost.url()).await;
    let mut command = place.command(&["worker"]);
    command.env("GLEITZEIT_AMQP_URL", &proxy.url).env("GLEITZEIT_WORKER_GRACE", "12");
    let mut worker = Running(command.spawn().expect("the binary starts"));
    start_long(&place);
    place.run(&["call", "echo/v1", "delay", "--params", r#"{"seconds": 8}"#, "--id", "short", "--no-wait"]);
    until("both to run", || runs(&place, "long") && runs(&place, "short"));
    proxy.refuse(true);
    proxy.cut();
    tell(&worker, Signal::SIGTERM);
    let (code, took) = end(&mut worker);
    assert_eq!(code, Some(0));
    // Without a bound it would wait for its broker for ever.
    assert!(took < Duration::from_secs(60), "{took:?}");
    // What it had is done by another one, and an attempt that was given back did not take place.
    let _other = place.worker(&[]);
    let ended = place.run(&["result", "--wait", "--timeout", "120", "short", "--json"]).expect(0).json();
    assert_eq!(ended["status"], json!("completed"));
    until("the other one to run", || runs(&place, "long"));
}
