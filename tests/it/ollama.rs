//! `llm/v1` by a server that speaks Ollama's API: what is sent, what comes of it, and what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use gleitzeit::core::clock::Clock;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::protocol::{Leniency, Protocols};
use gleitzeit::provider::guard::{self, Guard};
use gleitzeit::provider::llm::{Api, ModelServer, Reach, Settings};
use gleitzeit::provider::{CallCx, Health, Provider, Stock};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::ollama_server::{Manner, Ollama as Server};
use crate::support::until;
use crate::wall_clock::WallClock;

const RESULT_BYTES_MAX: usize = 100_000;

#[tokio::test]
async fn a_conversation_is_sent_as_ollama_reads_it_and_answered_with_every_key() {
    let server = Server::start();
    let params = json!({"prompt": "Say hello", "model": "llama3.2", "temperature": 0.2, "max_tokens": 50});
    let result = call(&server, "chat", params).await.expect("an answer");
    assert_eq!(
        result,
        json!({
            "response": Server::answer_to("Say hello"), "content": Server::answer_to("Say hello"),
            "role": "assistant", "model": "llama3.2", "tokens_used": 32, "prompt_tokens": 25,
            "completion_tokens": 7, "finish_reason": "stop", "total_duration": 5_043_500_667_u64,
            "provider_id": "ollama",
            "metadata": {"provider": "ollama", "provider_id": "ollama", "base_url": server.url()},
        })
    );
    let asked = server.asked();
    assert_eq!(asked[0].path, "/api/chat");
    assert_eq!(
        asked[0].body,
        json!({
            "model": "llama3.2", "messages": [{"role": "user", "content": "Say hello"}], "stream": false,
            "options": {"temperature": 0.2, "num_predict": 50},
        })
    );
    let header = |name: &str| asked[0].headers.get(name).cloned().unwrap_or_default();
    assert_eq!(header("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert!(header("user-agent").starts_with("Gleitzeit/"));
}

#[tokio::test]
async fn a_streamed_answer_is_the_same_as_a_whole_one() {
    let server = Server::start();
    for (method, path) in
        [("chat", "/api/chat"), ("generate", "/api/generate"), ("complete", "/api/generate")]
    {
        let params = |stream: bool| json!({"prompt": "Say hello", "model": "m", "stream": stream});
        let whole = call(&server, method, params(false)).await.expect("an answer");
        let streamed = call(&server, method, params(true)).await.expect("an answer");
        assert_eq!(whole, streamed, "{method}");
        let asked = server.asked().pop().expect("two requests");
        assert_eq!((asked.path.as_str(), &asked.body["stream"]), (path, &json!(true)));
    }
}

#[tokio::test]
async fn a_completion_has_its_text_under_every_name() {
    let server = Server::start();
    let params = json!({"prompt": "Once", "system": "be brief", "model": "m"});
    let result = call(&server, "generate", params).await.expect("an answer");
    for key in ["response", "content", "text"] {
        assert_eq!(result[key], Server::answer_to("Once"), "{key}");
    }
    assert_eq!(server.asked()[0].body["system"], "be brief");
}

#[tokio::test]
async fn a_text_becomes_a_vector() {
    let server = Server::start();
    let result = call(&server, "embed", json!({"text": "Hello", "model": "m"})).await.expect("an answer");
    assert_eq!((&result["embedding"], &result["dimensions"]), (&json!([0.5, -0.25, 5]), &json!(3)));
    assert_eq!(server.asked()[0].path, "/api/embed");
}

#[tokio::test]
async fn images_go_to_the_last_message_of_the_user() {
    let server = Server::start();
    let place = tempfile::tempdir().expect("a temporary folder");
    let path = place.path().join("a.png");
    std::fs::write(&path, b"png").expect("a file");
    let params = json!({"prompt": "What?", "model": "llava", "images": ["iVBORw0KGgo="], "image_path": path});
    let ollama = ollama(&server.url(), &[place.path()]);
    let answer = ollama.call(&cx(), "vision", params).await.expect("an answer");
    assert_eq!(answer.result["content"], Server::answer_to("What?"));
    assert_eq!(server.asked()[0].body["messages"][0]["images"], json!(["iVBORw0KGgo=", "cG5n"]));
}

#[tokio::test]
async fn in_batch_mode_each_file_is_a_request_and_has_its_answer() {
    let server = Server::start();
    let place = tempfile::tempdir().expect("a temporary folder");
    let paths = ["a", "b"].map(|name| place.path().join(name).display().to_string());
    for path in &paths {
        std::fs::write(path, "one two three").expect("a file");
    }
    let params = json!({"prompt": "Sum up", "model": "m", "files": paths, "batch_mode": true});
    let answer = ollama(&server.url(), &[place.path()]).call(&cx(), "chat", params).await.expect("an answer");
    assert_eq!(server.asked().len(), 2);
    for (path, asked) in paths.iter().zip(server.asked()) {
        let content = asked.body["messages"][0]["content"].as_str().expect("text");
        assert_eq!(content, format!("Sum up\n\nFile content from {path}:\none two three"));
        assert_eq!(answer.result["results"][path]["content"], Server::answer_to(content));
    }
}

#[tokio::test]
async fn no_file_is_read_where_no_folder_is_named() {
    let server = Server::start();
    let params = json!({"prompt": "Sum up", "model": "m", "file_path": "Cargo.toml"});
    let failure = call(&server, "chat", params).await.expect_err("refused");
    assert_eq!(failure.code, Code::AuthorizationFailed);
    assert!(server.asked().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn whatever_goes_wrong_has_its_code_and_says_whether_to_try_again() {
    let server = Server::start();
    let asked_for = |seconds| Some(Duration::from_secs(seconds));
    for (model, stream, code, retryable, retry_after, part) in [
        ("absent", false, Code::InvalidParams, false, None, "run `ollama pull absent`"),
        ("choosy", false, Code::InvalidParams, false, None, "does not support chat"),
        ("busy", false, Code::ProviderOverloaded, true, asked_for(0), "server busy"),
        ("limited", false, Code::RateLimitExceeded, true, asked_for(7), "too many requests"),
        ("crashed", false, Code::ProviderError, true, None, "runner process has terminated"),
        ("garbled", false, Code::ProviderError, true, None, "is no JSON"),
        ("cut", false, Code::ConnectionLost, true, None, "the connection to"),
        ("endless", false, Code::ResultTooLarge, false, None, "more than 400000 bytes"),
    ] {
        let params = json!({"prompt": "Hi", "model": model, "stream": stream});
        let failure = call(&server, "chat", params).await.expect_err(model);
        assert_eq!((failure.code, failure.retryable), (code, retryable), "{model}: {failure}");
        assert_eq!(failure.retry_after, retry_after, "{model}");
        assert!(failure.message.contains(part), "{model}: {failure}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_from_an_address_that_is_wrong() {
    let params = || json!({"prompt": "Hi", "model": "m"});
    let url = Server::start().url();
    // The server has ended.
    let failure = ollama(&url, &[]).call(&cx(), "chat", params()).await.expect_err("refused");
    assert_eq!((failure.code, failure.retryable), (Code::ConnectionRefused, true), "{failure}");
    assert!(failure.message.contains(&url) && failure.message.contains("start it"), "{failure}");

    // A name that is too long to be asked for, so that no name server is.
    let nowhere = format!("http://{}.invalid:1", "x".repeat(64));
    let failure = ollama(&nowhere, &[]).call(&cx(), "chat", params()).await;
    assert_eq!(failure.expect_err("no such host").code, Code::NetworkUnreachable);

    let server = Server::start();
    let elsewhere = format!("{}/other", server.url());
    let failure = ollama(&elsewhere, &[]).call(&cx(), "chat", params()).await.expect_err("no such path");
    assert_eq!((failure.code, failure.retryable), (Code::ProviderError, false), "{failure}");
}

#[tokio::test]
async fn a_call_that_ends_early_ends_its_request() {
    let server = Server::start();
    let params = || json!({"prompt": "Hi", "model": "silent"});
    let guarded = Guard::new(Arc::new(ollama(&server.url(), &[])), &guard::Settings::default());
    guarded.start().await.expect("it starts without the server");

    let late = CallCx { timeout: Duration::from_secs(2), ..cx() };
    let failure = guarded.call(&late, "chat", params()).await.expect_err("too late");
    assert_eq!(failure.code, Code::TaskTimeout);
    until("the server to see the first client go", || server.left() == 1);

    let cancelled = cx();
    let cancel = cancelled.cancel.clone();
    let call = guarded.call(&cancelled, "chat", params());
    let (ended, ()) = tokio::join!(call, async {
        while server.asked().len() < 2 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    assert_eq!(ended.expect_err("cancelled").code, Code::TaskCancelled);
    until("the server to see the second client go", || server.left() == 2);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_a_failure_with_what_was_said() {
    let server = Server::start();
    for (model, code, part, share) in [
        ("stumbling", Code::ProviderError, "broke off: an error was encountered", 1),
        ("cut", Code::ConnectionLost, "the connection to", 2),
    ] {
        for method in ["chat", "generate"] {
            let params = json!({"prompt": "Hi", "model": model, "stream": true});
            let failure = call(&server, method, params).await.expect_err(model);
            assert_eq!(
                (failure.code, failure.retryable, failure.not_begun),
                (code, true, false),
                "{failure}"
            );
            assert!(failure.message.contains(part), "{failure}");
            let said = Server::answer_to("Hi");
            let partial = failure.details["partial"].as_str().expect("what was said");
            assert!(said.starts_with(partial) && partial.len() == said.len() / share, "{partial:?}");
        }
    }
    let params = json!({"prompt": "Hi", "model": "fading", "stream": true});
    let result = call(&server, "chat", params).await.expect("whole by the connection's word");
    assert_eq!(result["finish_reason"], "incomplete");
}

#[tokio::test]
async fn a_server_of_years_ago_is_asked_in_its_own_words() {
    let server = Server::start();
    server.does(Manner { is_old: true, ..Manner::default() });
    let ollama = ollama(&server.url(), &[]);
    for paths in
        [&["/api/embed", "/api/embeddings"][..], &["/api/embed", "/api/embeddings", "/api/embeddings"]]
    {
        let params = json!({"text": "Hello", "model": "m"});
        let answer = ollama.call(&cx(), "embed", params).await.expect("an answer");
        assert_eq!(answer.result["embedding"], json!([0.5, -0.25, 5]));
        assert_eq!(answer.result["model"], "m");
        let asked: Vec<String> = server.asked().iter().map(|asked| asked.path.clone()).collect();
        assert_eq!(asked, paths, "it is learned once");
    }
    assert_eq!(ollama.health().await, Health::Up);
    assert_eq!(ollama.stock("llama3.2"), Stock::Ready, "it does not tell what is in memory");
}

#[tokio::test]
async fn its_models_and_what_is_in_memory_are_known_from_its_own_lists() {
    let server = Server::start();
    server.does(Manner { is_cold: true, ..Manner::default() });
    let ollama = ollama(&server.url(), &[]);
    assert_eq!(ollama.stock("llama3.2"), Stock::Unknown, "nobody has looked");
    ollama.health().await;
    for (model, stock) in [
        ("llama3.2", Stock::Cold),
        ("llama3.2:latest", Stock::Cold),
        ("llama3.2:70b", Stock::Missing),
        ("m", Stock::Missing),
    ] {
        assert_eq!(ollama.stock(model), stock, "{model}");
    }
    for model in ["llama3.2", "m"] {
        ollama.call(&cx(), "chat", json!({"prompt": "Hi", "model": model})).await.expect("an answer");
        assert_eq!(ollama.stock(model), Stock::Ready, "{model} has just answered");
    }
    ollama.health().await;
    assert_eq!(ollama.stock("llama3.2"), Stock::Ready);
    assert_eq!(ollama.stock("m"), Stock::Missing, "by its list it is not there any more");
}

#[tokio::test]
async fn the_tokens_of_a_call_stand_beside_its_result() {
    let server = Server::start();
    let params = json!({"prompt": "Say hello", "model": "llama3.2"});
    let answer = ollama(&server.url(), &[]).call(&cx(), "chat", params).await.expect("an answer");
    let usage = json!({"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32});
    assert_eq!(answer.metadata["usage"], usage);
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::start();
    let ollama = ollama(&server.url(), &[]);
    for stream in [false, true, true, false] {
        let params = json!({"prompt": "Hi", "model": "m", "stream": stream});
        ollama.call(&cx(), "chat", params).await.expect("an answer");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_folder_stands_for_its_files() {
    let server = Server::start();
    let place = tempfile::tempdir().expect("a temporary folder");
    let data = place.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    for (name, text) in [("b.txt", "two words"), ("a.txt", "one"), ("c.md", "left out"), ("d.png", "picture")]
    {
        std::fs::write(data.join(name), text).expect("a file");
    }
    let ollama = ollama(&server.url(), &[&data]);
    let shown = |name: &str| data.join(name).display().to_string();
    let params = json!({"prompt": "Sum up", "model": "m", "directory": data, "file_pattern": "*.txt"});
    ollama.call(&cx(), "chat", params.clone()).await.expect("an answer");
    let content = format!(
        "Sum up\n\nFile content from {}:\none\n\nFile content from {}:\ntwo words",
        shown("a.txt"),
        shown("b.txt")
    );
    assert_eq!(server.asked()[0].body["messages"][0]["content"], content);

    let mut each = params;
    each["batch_mode"] = json!(true);
    let answer = ollama.call(&cx(), "chat", each).await.expect("an answer");
    let files: Vec<&String> = answer.result["results"].as_object().expect("by file").keys().collect();
    assert_eq!(files, [&shown("a.txt"), &shown("b.txt")]);
    assert_eq!(answer.metadata["usage"]["completion_tokens"], 14, "of both");

    let params = json!({"prompt": "What?", "model": "llava", "directory": data});
    ollama.call(&cx(), "vision", params).await.expect("an answer");
    let asked = server.asked().pop().expect("a request").body;
    assert_eq!(asked["messages"][0]["images"], json!(["cGljdHVyZQ=="]), "pictures only");

    for (directory, code) in [
        (place.path().to_owned(), Code::AuthorizationFailed),
        (data.join("none"), Code::FileUnreadable),
        (data.join("a.txt"), Code::FileUnreadable),
    ] {
        let params = json!({"prompt": "Sum up", "model": "m", "directory": directory});
        let failure = ollama.call(&cx(), "chat", params).await.expect_err("refused");
        assert_eq!((failure.code, failure.retryable), (code, false), "{failure}");
    }
}

#[tokio::test]
async fn its_health_is_that_of_its_server() {
    let server = Server::start();
    let provider = ollama(&server.url(), &[]);
    assert_eq!(provider.health().await, Health::Up);
    drop(server);
    let health = provider.health().await;
    assert!(matches!(&health, Health::Down(reason) if reason.contains("127.0.0.1")), "{health:?}");
}

#[tokio::test]
async fn the_examples_of_its_protocol_are_true() {
    let server = Server::start();
    let provider = ollama(&server.url(), &[&crate::support::root().join("examples")]);
    let protocols = Protocols::builtin().expect("they load");
    let llm = protocols.iter().find(|spec| spec.id == *provider.protocol()).expect("it is built in");
    for method in &llm.methods {
        assert!(provider.serves(&method.name), "{}", method.name);
        for example in &method.examples {
            let params = method.validate(example.params.clone(), Leniency::Exact).expect("valid");
            if params.contains_key("image_path") {
                continue; // It names a file that is only an example.
            }
            let answer = provider.call(&cx(), &method.name, params.into()).await.expect("an answer");
            assert_eq!(method.check_result(&answer.result), [], "{}: {}", method.name, answer.result);
        }
    }
}

fn ollama(url: &str, read_paths: &[&std::path::Path]) -> ModelServer {
    let settings = Settings {
        name: "ollama".to_owned(),
        api: Api::Ollama,
        reach: Reach::at(url),
        read_paths: read_paths.iter().map(|path| (*path).to_owned()).collect(),
        result_bytes_max: RESULT_BYTES_MAX,
    };
    let ollama = ModelServer::new(settings, Arc::new(WallClock) as Arc<dyn Clock>);
    futures_util::FutureExt::now_or_never(ollama.start()).expect("it asks nobody").expect("an address");
    ollama
}

async fn call(server: &Server, method: &str, params: Value) -> Result<Value, Failure> {
    ollama(&server.url(), &[]).call(&cx(), method, params).await.map(|answer| answer.result)
}

fn cx() -> CallCx {
    CallCx {
        key: TaskKey::alone(Id::parse("t").expect("an id")),
        attempt: 1,
        timeout: Duration::from_secs(60),
        cancel: CancellationToken::new(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        priority: gleitzeit::core::priority::Priority::NORMAL,
        output: Default::default(),
    }
}
