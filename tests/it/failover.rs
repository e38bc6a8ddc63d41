//! A Redis master that dies, behind Sentinels and in a Cluster.

use std::time::Instant;

use crate::own::{Own, is_full};
use crate::place::{Place, say_skipped};
use crate::support::{Running, until};

/// Workflows, each of some tasks that wait for the one before.
const WORKFLOWS: usize = 6;
const LENGTH: usize = 40;

#[test]
fn tasks_go_on_when_the_master_behind_sentinels_dies() {
    survives(&["--redis-replicas", "2", "--sentinels", "3"], "GLEITZEIT_TEST_SENTINEL_URL", "redis");
}

#[test]
fn tasks_go_on_when_a_master_of_a_cluster_dies() {
    survives(&["--redis", "0", "--redis-cluster", "6"], "GLEITZEIT_TEST_CLUSTER_URL", "cluster");
}

/// Kills the first server of `kind` in the middle of everything. An end that was settled and then lost would leave
/// its workflow waiting for ever.
fn survives(servers: &[&str], variable: &str, kind: &str) {
    if !is_full() {
        return say_skipped("GLEITZEIT_TEST_FULL: failovers are for the full run");
    }
    let Some(mut place) = Place::new() else { return };
    let options: Vec<&str> = ["--rabbitmq", "0"].iter().chain(servers).copied().collect();
    let Some(own) = Own::start(&options) else { return };
    place.redis = own.variable(variable);
    let worker = || {
        let mut command = place.command(&["worker", "--protocol", "echo/v1"]);
        let log = std::fs::File::options().create(true).append(true).open(place.path("worker.log"));
        command.env("GLEITZEIT_REDIS_WAIT_REPLICAS", "1").stderr(log.expect("a file of ours"));
        Running(command.spawn().expect("the binary starts"))
    };
    let mut workers = [worker(), worker()];
    let mut text = "name: Chain\ntasks:\n".to_owned();
    for at in 0..LENGTH {
        let dependency = if at == 0 { String::new() } else { format!("  dependencies: [t{}]\n", at - 1) };
        text += &format!(
            "- id: t{at}\n  protocol: echo/v1\n  method: delay\n{dependency}  params: {{seconds: 0.05}}\n"
        );
    }
    let file = place.write("chain.yaml", &text);
    let submit = |_| place.run(&["submit", &file]).expect(0).stdout.trim().to_owned();
    let ids: Vec<String> = (0..WORKFLOWS).map(submit).collect();
    let started = Instant::now();
    own.stack(&["kill", kind, "--index", "1"]);
    // Whoever connects first of all is told at once that nobody is there.
    until("a new master", || place.run(&["list"]).code == 0);
    // It comes back as a replica; in the Cluster the new master has no other one.
    own.stack(&["restart", kind, "--index", "1"]);
    for id in &ids {
        let ended = place.run(&["result", "--wait", "--timeout", "120", id, "--json"]).expect(0).json();
        assert_eq!(ended["status"], "completed", "{ended}");
        let tasks = ended["tasks"].as_array().expect("tasks");
        assert!(tasks.iter().all(|task| task["status"] == "completed"), "{ended}");
    }
    eprintln!("{kind}: all ended {:?} after the kill", started.elapsed());
    for worker in &mut workers {
        assert_eq!(worker.drain(), Some(0));
    }
}
