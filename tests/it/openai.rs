//! `llm/v1` by a server that speaks OpenAI's API: what is sent, what comes of it, and what goes wrong; and by the
//! real binary.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gleitzeit::core::clock::Clock;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::protocol::{Leniency, Protocols};
use gleitzeit::provider::guard::{self, Guard};
use gleitzeit::provider::llm::{Api, Key, ModelServer, Reach, Settings};
use gleitzeit::provider::{Answer, CallCx, Health, Provider, Stock};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::http_server::Manner;
use crate::openai_server::OpenAi as Server;
use crate::support::{Embedded, Ran, until};
use crate::wall_clock::WallClock;

#[tokio::test]
async fn a_conversation_is_sent_as_openai_reads_it_and_answered_with_every_key() {
    let server = Server::start();
    let params = json!({"prompt": "Say hello", "model": "llama3.2", "temperature": 0.2, "max_tokens": 50});
    let mut answer = call(&server, "chat", params).await.expect("an answer");
    let took = answer.result["total_duration"].take();
    assert!(took.as_u64().is_some_and(|nanoseconds| nanoseconds > 0), "{took}");
    assert_eq!(
        answer.result,
        json!({
            "response": Server::answer_to("Say hello"), "content": Server::answer_to("Say hello"),
            "role": "assistant", "model": "llama3.2", "tokens_used": 32, "prompt_tokens": 25,
            "completion_tokens": 7, "finish_reason": "stop", "total_duration": null, "provider_id": "openai",
            "metadata": {
                "provider": "openai", "provider_id": "openai", "base_url": format!("{}/v1", server.url()),
            },
        })
    );
    let usage = json!({"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32});
    assert_eq!(answer.metadata["usage"], usage);
    let asked = server.asked();
    assert_eq!(asked[0].path, "/v1/chat/completions");
    assert_eq!(
        asked[0].body,
        json!({
            "model": "llama3.2", "messages": [{"role": "user", "content": "Say hello"}], "stream": false,
            "temperature": 0.2, "max_tokens": 50,
        })
    );
    assert!(!asked[0].headers.contains_key("authorization"));
    let header = |name: &str| asked[0].headers.get(name).cloned().unwrap_or_default();
    assert_eq!(header("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
}

#[tokio::test]
async fn a_streamed_answer_is_the_same_as_a_whole_one() {
    let server = Server::start();
    for (method, path) in
        [("chat", "/v1/chat/completions"), ("generate", "/v1/completions"), ("complete", "/v1/completions")]
    {
        let params = |stream: bool| json!({"prompt": "Say hello", "model": "m", "stream": stream});
        let mut whole = call(&server, method, params(false)).await.expect("an answer");
        let mut streamed = call(&server, method, params(true)).await.expect("an answer");
        for answer in [&mut whole, &mut streamed] {
            answer.result["total_duration"] = json!(0);
        }
        assert_eq!(whole, streamed, "{method}");
        assert_eq!(whole.result["tokens_used"], 32);
        let asked = server.asked().pop().expect("two requests");
        assert_eq!(asked.path, path);
        let options = &asked.body["stream_options"];
        assert_eq!((&asked.body["stream"], options), (&json!(true), &json!({"include_usage": true})));
    }
}

#[tokio::test]
async fn a_completion_is_a_completion_and_with_a_system_prompt_a_conversation() {
    let server = Server::start();
    let result =
        call(&server, "generate", json!({"prompt": "Once", "model": "m"})).await.expect("an answer").result;
    for key in ["response", "content", "text"] {
        assert_eq!(result[key], Server::answer_to("Once"), "{key}");
    }
    let params = json!({"prompt": "Once", "system": "be brief", "model": "m"});
    let result = call(&server, "complete", params).await.expect("an answer").result;
    assert_eq!(result["text"], Server::answer_to("Once"));
    let asked = server.asked();
    assert_eq!((asked[0].path.as_str(), &asked[0].body["prompt"]), ("/v1/completions", &json!("Once")));
    assert_eq!(asked[1].path, "/v1/chat/completions");
    let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "Once"}]);
    assert_eq!(asked[1].body["messages"], messages);
}

#[tokio::test]
async fn a_text_becomes_a_vector() {
    let server = Server::start();
    let answer = call(&server, "embed", json!({"text": "Hello", "model": "m"})).await.expect("an answer");
    assert_eq!(answer.result["embedding"], json!([0.5, -0.25, 5]));
    assert_eq!((&answer.result["dimensions"], &answer.result["model"]), (&json!(3), &json!("m")));
    assert_eq!(answer.metadata["usage"]["prompt_tokens"], 8);
    assert_eq!(server.asked()[0].body, json!({"model": "m", "input": "Hello"}));
}

#[tokio::test]
async fn images_are_data_uris_behind_the_text_of_the_user() {
    let server = Server::start();
    let place = tempfile::tempdir().expect("a temporary folder");
    let path = place.path().join("a.jpg");
    std::fs::write(&path, b"\xff\xd8\xff\xe0 no real picture").expect("a file");
    let params = json!({"prompt": "What?", "model": "llava", "images": ["iVBORw0KGgo="], "image_path": path});
    let provider =
        provider(Settings { read_paths: vec![place.path().to_owned()], ..settings(&server.url()) }).await;
    let answer = provider.call(&cx(), "vision", params).await.expect("an answer");
    assert_eq!(answer.result["content"], Server::answer_to("What?"));
    let parts = &server.asked()[0].body["messages"][0]["content"];
    assert_eq!(parts[0], json!({"type": "text", "text": "What?"}));
    assert_eq!(parts[1]["image_url"]["url"], "data:image/png;base64,iVBORw0KGgo=");
    let second = parts[2]["image_url"]["url"].as_str().expect("an address");
    assert!(second.starts_with("data:image/jpeg;base64,/9j/"), "{second}");
}

#[tokio::test]
async fn what_a_server_or_model_does_not_know_is_learned_from_its_refusal_once() {
    let server = Server::start();
    let provider = provider(settings(&server.url())).await;
    let ask = async |method: &str, params: Value| provider.call(&cx(), method, params).await;
    let sent = || server.asked().pop().expect("a request").body;

    for requests in [2, 3] {
        ask("chat", json!({"prompt": "Hi", "model": "strict", "stream": true})).await.expect("an answer");
        assert_eq!((server.asked().len(), sent().get("stream_options")), (requests, None));
    }
    let thinker = json!({"prompt": "Hi", "model": "thinker", "temperature": 0.7, "max_tokens": 9});
    for requests in [6, 7] {
        ask("chat", thinker.clone()).await.expect("an answer");
        assert_eq!((server.asked().len(), sent().get("temperature")), (requests, None));
        assert_eq!((sent().get("max_tokens"), &sent()["max_completion_tokens"]), (None, &json!(9)));
    }
    let cold = json!({"prompt": "Hi", "model": "thinker", "temperature": 0.2, "max_tokens": 9});
    let failure = ask("chat", cold).await.expect_err("what the caller asked for is not dropped");
    assert_eq!(failure.code, Code::InvalidParams);
    for requests in [10, 11] {
        let answer = ask("generate", json!({"prompt": "Once", "model": "talker"})).await.expect("an answer");
        assert_eq!(answer.result["text"], Server::answer_to("Once"));
        assert_eq!((server.asked().len(), &sent()["messages"][0]["content"]), (requests, &json!("Once")));
    }
}

#[tokio::test]
async fn a_refusal_to_answer_is_an_answer() {
    let server = Server::start();
    let answer =
        call(&server, "chat", json!({"prompt": "Hi", "model": "reluctant"})).await.expect("an answer");
    assert_eq!(answer.result["content"], Server::answer_to("Hi"));
}

#[tokio::test]
async fn whatever_goes_wrong_has_its_code_and_says_whether_to_try_again() {
    let server = Server::start();
    let asked_for = |seconds| Some(Duration::from_secs(seconds));
    for (model, stream, code, retryable, retry_after, part) in [
        (
            "absent",
            false,
            Code::InvalidParams,
            false,
            None,
            "has no model \"absent\"; its list is at /models",
        ),
        ("busy", false, Code::ProviderOverloaded, true, None, "Loading model"),
        ("limited", false, Code::RateLimitExceeded, true, asked_for(7), "Rate limit reached"),
        ("broke", false, Code::RateLimitExceeded, false, None, "exceeded your current quota"),
        ("crashed", false, Code::ProviderError, true, None, "The server had an error"),
        ("long", true, Code::InvalidParams, false, None, "maximum context length"),
        ("choosy", false, Code::MethodNotSupported, false, None, "does not support embeddings"),
        ("garbled", false, Code::ProviderError, true, None, "is no JSON"),
        ("cut", false, Code::ConnectionLost, true, None, "the connection to"),
        ("endless", false, Code::ResultTooLarge, false, None, "more than 400000 bytes"),
    ] {
        let params = json!({"prompt": "Hi", "model": model, "stream": stream});
        let failure = call(&server, "chat", params).await.expect_err(model);
        assert_eq!((failure.code, failure.retryable), (code, retryable), "{model}: {failure}");
        assert_eq!(failure.retry_after, retry_after, "{model}");
        assert!(failure.message.contains(part), "{model}: {failure}");
        let is_door = ["absent", "busy", "limited", "broke", "choosy"].contains(&model);
        assert_eq!(failure.not_begun, is_door, "{model}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_a_failure_with_what_was_said() {
    let server = Server::start();
    for (model, code, part) in [
        ("stumbling", Code::ProviderError, "broke off: CUDA out of memory"),
        ("falling", Code::ProviderError, "broke off: slot is gone"),
        ("cut", Code::ConnectionLost, "the connection to"),
        ("fading", Code::ConnectionLost, "ended before it was whole"),
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
            assert!(said.starts_with(partial) && partial.len() == said.len() / 2, "{partial:?}");
        }
    }
}

#[tokio::test]
async fn a_key_is_sent_and_shown_nowhere_and_another_one_needs_no_restart() {
    let server = Server::start();
    server.does(Manner { key: Some("sk-right"), ..Manner::default() });
    let place = tempfile::tempdir().expect("a temporary folder");
    let file = place.path().join("key");
    std::fs::write(&file, "sk-wrong\n").expect("a file");
    let reach = Reach { key: Some(Key::File(file.clone())), ..Reach::at(&server.url()) };
    let provider = provider(Settings { reach, ..settings("") }).await;
    let params = || json!({"prompt": "Hi", "model": "m"});
    let failure = provider.call(&cx(), "chat", params()).await.expect_err("the key is wrong");
    assert_eq!((failure.code, failure.retryable), (Code::AuthenticationFailed, false));
    assert!(failure.message.ends_with("Incorrect API key provided: ***."), "{failure}");
    let health = provider.health().await;
    assert!(matches!(&health, Health::Down(why) if !why.contains("wrong")), "{health:?}");

    std::fs::write(&file, "sk-right\n").expect("a file");
    assert_eq!(provider.health().await, Health::Up);
    provider.call(&cx(), "chat", params()).await.expect("an answer");
    assert!(!format!("{provider:?}").contains("sk-right"));

    let missing = Reach { key: Some(Key::File("/nonexistent".into())), ..Reach::at(&server.url()) };
    let missing = ModelServer::new(Settings { reach: missing, ..settings("") }, clock());
    assert_eq!(missing.start().await.expect_err("no such file").code, Code::FileUnreadable);
}

#[tokio::test]
async fn a_call_that_ends_early_ends_its_request() {
    let server = Server::start();
    let guarded = Guard::new(Arc::new(provider(settings(&server.url())).await), &guard::Settings::default());
    let late = CallCx { timeout: Duration::from_secs(2), ..cx() };
    let params = json!({"prompt": "Hi", "model": "silent", "stream": true});
    let failure = guarded.call(&late, "chat", params.clone()).await.expect_err("too late");
    assert_eq!(failure.code, Code::TaskTimeout);
    until("the server to see its client go", || server.left() == 1);

    let reach = Reach { timeout: Some(Duration::from_secs(2)), ..Reach::at(&server.url()) };
    let impatient = provider(Settings { reach, ..settings("") }).await;
    let failure = impatient.call(&cx(), "chat", params).await.expect_err("too late for this server");
    assert_eq!((failure.code, failure.retryable), (Code::ProviderTimeout, true), "{failure}");
    assert!(failure.message.contains("did not answer within 2 s"), "{failure}");
}

#[tokio::test]
async fn its_models_are_known_from_its_own_list() {
    let server = Server::start();
    let provider = provider(settings(&server.url())).await;
    assert_eq!(provider.stock("llama3.2"), Stock::Unknown, "nobody has looked");
    assert_eq!(provider.health().await, Health::Up);
    assert_eq!(provider.stock("llama3.2"), Stock::Ready);
    assert_eq!(provider.stock("gpt-4o"), Stock::Missing);
    server.does(Manner { models: Some(&["gpt-4o"]), ..Manner::default() });
    provider.health().await;
    assert_eq!((provider.stock("gpt-4o"), provider.stock("llama3.2")), (Stock::Ready, Stock::Missing));
}

#[tokio::test]
async fn the_examples_of_its_protocol_are_true() {
    let server = Server::start();
    let provider = provider(settings(&server.url())).await;
    let protocols = Protocols::builtin().expect("they load");
    let llm = protocols.iter().find(|spec| spec.id == *provider.protocol()).expect("it is built in");
    for method in &llm.methods {
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

#[test]
fn the_binary_asks_it_with_its_key_and_tells_nobody() {
    let (here, server) = (Embedded::new(), Server::start());
    server.does(Manner { key: Some("sk-s3cret"), ..Manner::default() });
    let text = format!(
        "[providers.main]\nkind = 'openai'\nurl = '{}/v1'\napi_key_env = 'THE_KEY'\ntimeout = 20\n",
        server.url()
    );
    let config = here.write("config.toml", &text);
    let run = |key: &str, args: &[&str]| {
        let mut command = here.command(&[&["--config", &config, "--log-level", "debug"], args].concat());
        command.env("THE_KEY", key);
        Ran::of(command.output().expect("the binary starts"))
    };
    let params = r#"{"prompt": "Say hello", "model": "llama3.2", "stream": true}"#;
    let ask = ["call", "llm/v1", "chat", "--params", params, "--json"];
    let ran = run("sk-s3cret", &ask).expect(0);
    let document = ran.json();
    assert_eq!(document["result"]["content"], Server::answer_to("Say hello"), "{document}");
    assert_eq!((&document["provider_id"], &document["attempts"]), (&json!("main"), &json!(1)));
    assert_eq!(document["metadata"]["usage"]["total_tokens"], 32, "{document}");
    let shown = run("sk-s3cret", &["config", "show"]).expect(0);
    assert!(shown.stdout.contains("THE_KEY"), "{}", shown.stdout);
    let wrong = run("sk-wr0ng", &ask).expect(5);
    assert_eq!(wrong.json()["error"]["name"], "AUTHENTICATION_FAILED", "{wrong:?}");
    let missing = Ran::of(
        here.command(&[&["--config", &config][..], &ask].concat()).output().expect("the binary starts"),
    );
    let missing = missing.expect(5).json();
    assert!(missing["error"]["message"].as_str().is_some_and(|said| said.contains("THE_KEY")), "{missing}");
    for said in [&ran.stderr, &ran.stdout, &shown.stdout, &wrong.stderr, &wrong.stdout] {
        assert!(!said.contains("s3cret") && !said.contains("wr0ng"), "{said}");
    }
}

fn settings(url: &str) -> Settings {
    Settings {
        name: "openai".to_owned(),
        api: Api::OpenAi,
        reach: Reach::at(url),
        read_paths: Vec::<PathBuf>::new(),
        result_bytes_max: 100_000,
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(WallClock)
}

async fn provider(settings: Settings) -> ModelServer {
    let server = ModelServer::new(settings, clock());
    server.start().await.expect("an address and a key");
    server
}

async fn call(server: &Server, method: &str, params: Value) -> Result<Answer, Failure> {
    provider(settings(&server.url())).await.call(&cx(), method, params).await
}

fn cx() -> CallCx {
    CallCx {
        key: TaskKey::alone(Id::parse("t").expect("an id")),
        attempt: 1,
        priority: gleitzeit::core::priority::Priority::NORMAL,
        output: Default::default(),
        timeout: Duration::from_secs(60),
        cancel: CancellationToken::new(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}
