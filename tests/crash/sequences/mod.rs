//! The sequences, and what they are made of.

mod dead;
mod graph;
mod lone;
mod outside;
mod schedule;

use serde_json::{Value, json};
use std::time::Duration;

use gleitzeit::broker::Properties;
use gleitzeit::core::retry::RetryPolicy;
use gleitzeit::core::task::Spec;
use gleitzeit::topology::Queue;
use gleitzeit::wire::task::Task;

use crate::play::{Person, Play, asked, echo, id};

/// Steps that somebody takes, one after the other.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) name: &'static str,
    pub(crate) play: fn(&mut Play),
}

/// A table of sequences: `module::name;`.
macro_rules! sequences {
    ($($module:ident::$name:ident;)+) => {
        [$(Sequence { name: stringify!($name), play: $module::$name }),+]
    };
}

pub(crate) const SEQUENCES: &[Sequence] = &sequences! {
    lone::a_task;
    lone::a_task_that_is_answered;
    lone::a_retry_with_a_delay;
    lone::retries_that_are_used_up;
    lone::a_long_task_under_a_guard;
    lone::a_poison_task;
    lone::tasks_that_are_not_to_start_yet;
    lone::a_task_that_is_too_late;
    lone::a_drain;
    graph::a_chain;
    graph::a_fan_in;
    graph::edges_of_all_kinds;
    graph::items_of_a_list;
    graph::a_nested_workflow;
    graph::a_workflow_that_runs_out_of_time;
    outside::a_cancel_of_what_runs;
    outside::a_cancel_of_what_is_queued_and_waits;
    outside::a_cancel_before_its_task;
    outside::a_retry_by_hand;
    outside::a_message_of_the_run_before;
    dead::garbage;
    dead::a_task_of_a_newer_version;
    dead::a_refused_workflow;
    dead::a_replay_of_a_task;
    dead::a_replay_of_a_workflow;
    dead::the_dead_inbox;
    schedule::ticks_of_a_schedule;
    schedule::a_pause_and_a_resumption;
};

/// A task on its own that says `message`.
fn task(name: &str, message: &str) -> Task {
    let protocol = "echo/v1".parse().expect("valid");
    Task::new(Some(id(name)), Spec::new(protocol, "ping", json!({"message": message})))
}

/// Attempts that are far apart.
fn attempts(max_attempts: u32) -> RetryPolicy {
    RetryPolicy { max_attempts, base_delay: 20.0, ..RetryPolicy::default() }
}

/// A task of a workflow that says `message`.
fn step(name: &str, message: &str, dependencies: &[&str]) -> Value {
    json!({"id": name, "method": "echo/ping", "params": {"message": message}, "dependencies": dependencies})
}

fn flow(tasks: &[Value]) -> Value {
    json!({"name": "W", "tasks": tasks})
}

impl Play {
    fn submit(&mut self, task: &Task) {
        self.ask(async |person| {
            person.client.submit(task.clone()).await.expect("it is taken");
        });
    }

    fn submit_workflow(&mut self, root: &str, document: &Value) {
        self.ask(async |person| {
            person.client.submit_workflow(document, &id(root)).await.expect("it is taken");
        });
    }

    fn cancel(&mut self, root: &str) {
        self.ask(async |person: &Person| person.client.cancel(&id(root)).await.expect("it is taken"));
    }

    fn retry(&mut self, root: &str) {
        self.ask(async |person: &Person| person.client.retry(&id(root)).await.expect("it is taken"));
    }

    /// A foreign producer submits a workflow and wants to be told of its end.
    fn send_workflow(&self, root: &str, document: &Value) {
        let (body, properties) = asked(document, root);
        self.send(Queue::Workflows, body, properties);
    }

    /// A foreign producer publishes this to the queue of tasks and wants to be told of its end.
    fn send_task(&self, body: impl Into<String>) {
        let body = body.into();
        let properties = Properties {
            reply_to: Some("asker".to_owned()),
            correlation_id: Some(body.clone()),
            ..Properties::default()
        };
        self.send(Queue::Tasks(echo()), body, properties);
    }
}

/// Seconds from the play's present.
fn later(play: &Play, seconds: u64) -> gleitzeit::core::clock::Timestamp {
    play.now().after(Duration::from_secs(seconds))
}
