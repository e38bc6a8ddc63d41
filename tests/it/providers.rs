//! Several instances of one provider behind one worker: who gets the calls when one is slow, or out of order.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ollama_server::{Manner, Ollama};
use crate::openai_server::OpenAi;
use crate::own::is_full;
use crate::place::Place;
use crate::support::{Running, until};

const LLM: &str = "llm.v1";

/// A worker of these servers, with a `[balance]` or whatever else.
fn worker(place: &Place, servers: &[(&str, &Ollama)], more: &str) -> Running {
    let instance = |(name, server): &(&str, &Ollama)| {
        format!("[providers.{name}]\nkind = 'ollama'\nurl = '{}'\n", server.url())
    };
    let text: String = servers.iter().map(instance).collect();
    let file = place.write("worker.toml", &format!("{text}{more}"));
    place.run(&["topology", "apply"]).expect(0);
    place.worker(&["--config", &file, "--protocol", "llm/v1", "--concurrency", "8"])
}

fn submit(place: &Place, id: &str) {
    submit_for(place, id, "llama3.2");
}

fn submit_for(place: &Place, id: &str, model: &str) {
    let params = json!({"prompt": "Say hello", "model": model});
    let body = json!({"id": id, "protocol": "llm/v1", "method": "chat", "params": params});
    place.publish("gleitzeit.tasks", LLM, &body.to_string(), &json!({"message_id": id}));
}

fn document(place: &Place, id: &str) -> Option<Value> {
    let text = place.redis_cli(&["GET", &format!("{}:{{{id}}}:result", place.prefix)]);
    serde_json::from_str(text.trim()).ok()
}

/// Every task has ended in its first attempt.
fn all_at_the_first_try(place: &Place, count: usize) {
    for number in 0..count {
        let id = format!("t{number}");
        until("a task to end", || document(place, &id).is_some());
        let ended = document(place, &id).expect("it has ended");
        assert_eq!((&ended["status"], &ended["attempts"]), (&json!("completed"), &json!(1)), "{ended}");
    }
}

fn since(chats: &[Instant], moment: Instant) -> usize {
    chats.iter().filter(|at| **at > moment).count()
}

#[test]
fn traffic_leaves_a_server_that_fails_and_comes_back_and_no_attempt_is_spent() {
    let Some(place) = Place::new() else { return };
    let [slow, failing, healthy] = [(); 3].map(|()| Ollama::start());
    slow.does(Manner { pause: Duration::from_secs(2), ..Manner::default() });
    let servers = [("slow", &slow), ("failing", &failing), ("healthy", &healthy)];
    let _worker = worker(&place, &servers, "");
    // Until it holds, at least so many.
    let load = |from: usize, tasks: usize, holds: &dyn Fn() -> bool| {
        let mut next = from;
        while next < from + tasks || !holds() {
            submit(&place, &format!("t{next}"));
            next += 1;
            assert!(next < from + 2_000, "it never holds");
        }
        next
    };
    let count = load(0, 60, &|| servers.iter().all(|(_, server)| !server.chats().is_empty()));
    all_at_the_first_try(&place, count);
    let shares = [&slow, &failing, &healthy].map(|server| server.chats().len());
    let (few, many) = (shares[0], shares[1] + shares[2]);
    assert!(few * 3 < many, "the slow one gets less: {few} beside {many}");

    failing.does(Manner { is_out: true, ..Manner::default() });
    let failed = Instant::now();
    let second = failed + Duration::from_secs(1);
    let count = load(count, 60, &|| since(&healthy.chats(), second) > 30);
    let late = since(&failing.chats(), second);
    // The longer a busy machine takes, the more probes there are, seldomer and seldomer.
    assert!(late <= if is_full() { 3 } else { 10 }, "after a second only probes go there: {late}");

    failing.does(Manner::default());
    let recovered = Instant::now();
    let count = load(count, 1, &|| since(&failing.chats(), recovered) > 5);
    all_at_the_first_try(&place, count);
    let back = failing.chats().into_iter().find(|at| *at > recovered).map(|at| at - recovered);
    let refused = failing.chats().iter().filter(|at| (failed..=recovered).contains(*at)).count();
    println!(
        "calls of a slow, a failing and a healthy server before the failure: {shares:?}; of {count} tasks {refused} met \
         the failure, {late} of these after the first second; called again {back:?} after it recovered"
    );
}

#[test]
fn while_every_server_is_out_tasks_wait_in_their_queue() {
    let Some(place) = Place::new() else { return };
    let [one, two] = [(); 2].map(|()| Ollama::start());
    for server in [&one, &two] {
        server.does(Manner { is_out: true, ..Manner::default() });
    }
    let _worker = worker(&place, &[("one", &one), ("two", &two)], "");
    until("both to be found down", || one.looks() > 1 && two.looks() > 1);
    for number in 0..20 {
        submit(&place, &format!("t{number}"));
    }
    until("all to be in the queue again", || {
        place.vhost.queue("gleitzeit.tasks.llm.v1")["messages_ready"] == 20
    });
    two.does(Manner::default());
    all_at_the_first_try(&place, 20);
    assert_eq!(one.chats().len(), 0, "nobody asked whom its health check told to be down");
}

#[test]
fn the_fallback_is_asked_only_when_nobody_else_can_be() {
    let Some(place) = Place::new() else { return };
    let [main, spare] = [(); 2].map(|()| Ollama::start());
    let file = format!(
        "[providers.a]\nkind = 'ollama'\nurl = '{}'\n[providers.b]\nkind = 'ollama'\nurl = '{}'\nrank = 1\n",
        main.url(),
        spare.url()
    );
    let file = place.write("ranks.toml", &file);
    place.run(&["topology", "apply"]).expect(0);
    let _worker = place.worker(&["--config", &file, "--protocol", "llm/v1"]);
    (0..10).for_each(|number| submit(&place, &format!("t{number}")));
    all_at_the_first_try(&place, 10);
    assert_eq!((main.chats().len(), spare.chats().len()), (10, 0));
    main.does(Manner { is_out: true, ..Manner::default() });
    (10..20).for_each(|number| submit(&place, &format!("t{number}")));
    all_at_the_first_try(&place, 20);
    assert_eq!(spare.chats().len(), 10);
}

#[test]
fn tasks_go_where_their_models_are_without_a_word_in_the_configuration() {
    let Some(place) = Place::new() else { return };
    let (ollama, openai) = (Ollama::start(), OpenAi::start());
    ollama.does(Manner { is_strict: true, ..Manner::default() });
    openai.does(Manner { is_strict: true, models: Some(&["gpt-4o"]), ..Manner::default() });
    let file = format!(
        "[providers.near]\nkind = 'ollama'\nurl = '{}'\n[providers.far]\nkind = 'openai'\nurl = '{}'\n",
        ollama.url(),
        openai.url()
    );
    let file = place.write("models.toml", &file);
    place.run(&["topology", "apply"]).expect(0);
    let _worker = place.worker(&["--config", &file, "--protocol", "llm/v1"]);
    until("both to be looked at", || ollama.looks() > 0 && openai.looks() > 0);
    for number in 0..20 {
        submit_for(&place, &format!("t{number}"), if number % 2 == 0 { "llama3.2" } else { "gpt-4o" });
    }
    all_at_the_first_try(&place, 20);
    assert_eq!((ollama.chats().len(), openai.asked().len()), (10, 10), "nobody was asked in vain");
}

#[test]
fn a_model_is_asked_for_where_it_is_in_memory() {
    let Some(place) = Place::new() else { return };
    let [cold, warm] = [(); 2].map(|()| Ollama::start());
    cold.does(Manner { is_cold: true, ..Manner::default() });
    let _worker = worker(&place, &[("cold", &cold), ("warm", &warm)], "");
    for number in 0..10 {
        submit(&place, &format!("t{number}"));
        all_at_the_first_try(&place, number + 1);
    }
    assert_eq!((cold.chats().len(), warm.chats().len()), (0, 10));
}

#[test]
fn a_task_finds_the_worker_whose_server_has_its_model() {
    let Some(place) = Place::new() else { return };
    let [other, ours] = [(); 2].map(|()| Ollama::start());
    other.does(Manner { is_strict: true, models: Some(&["mistral:latest"]), ..Manner::default() });
    place.run(&["topology", "apply"]).expect(0);
    let mut workers = Vec::new();
    for (name, server) in [("other", &other), ("ours", &ours)] {
        let text = format!("[providers.{name}]\nkind = 'ollama'\nurl = '{}'\n", server.url());
        let file = place.write(&format!("{name}.toml"), &text);
        workers.push(place.worker(&["--config", &file, "--protocol", "llm/v1"]));
    }
    (0..10).for_each(|number| submit(&place, &format!("t{number}")));
    all_at_the_first_try(&place, 10);
    assert_eq!(ours.chats().len(), 10);
}

#[test]
fn a_task_finds_the_worker_that_has_its_model() {
    let Some(place) = Place::new() else { return };
    let [other, ours] = [(); 2].map(|()| Ollama::start());
    place.run(&["topology", "apply"]).expect(0);
    let mut workers = Vec::new();
    for (name, model, server) in [("other", "mistral", &other), ("ours", "llama3.2", &ours)] {
        let url = server.url();
        let text = format!("[providers.{name}]\nkind = 'ollama'\nurl = '{url}'\nmodels = ['{model}']\n");
        let file = place.write(&format!("{name}.toml"), &text);
        workers.push(place.worker(&["--config", &file, "--protocol", "llm/v1"]));
    }
    (0..10).for_each(|number| submit(&place, &format!("t{number}")));
    all_at_the_first_try(&place, 10);
    assert_eq!((other.chats().len(), ours.chats().len()), (0, 10));
}
