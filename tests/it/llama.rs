//! `llm/v1` by llama.cpp's own server, where there is one (`scripts/stack start --llama 2`), through the real binary.

use serde_json::{Value, json};

use crate::place::{environment, say_skipped};
use crate::support::{Embedded, Ran};

/// The configuration of both servers; `None`, said in a line, where there are none.
fn both(here: &Embedded) -> Option<String> {
    let (Some(talks), Some(embeds)) =
        (environment("GLEITZEIT_TEST_LLAMA_URL"), environment("GLEITZEIT_TEST_LLAMA_URL_2"))
    else {
        say_skipped("llama.cpp's server (`scripts/stack start --llama 2`)");
        return None;
    };
    let text = format!(
        "[providers.talks]\nkind = 'openai'\nurl = '{talks}'\n[providers.embeds]\nkind = 'openai'\n\
         url = '{embeds}/v1'\n"
    );
    Some(here.write("llama.toml", &text))
}

fn call(here: &Embedded, config: &str, method: &str, params: &Value) -> Ran {
    let params = params.to_string();
    let args = ["--config", config, "call", "llm/v1", method, "--params", &params, "--json"];
    Ran::of(here.command(&args).output().expect("the binary starts"))
}

#[test]
fn a_real_server_answers_every_method_and_a_stream_as_a_whole() {
    let here = Embedded::new();
    let Some(config) = both(&here) else { return };
    for method in ["chat", "generate", "complete"] {
        let ask = |stream: bool| {
            let params = json!({
                "prompt": "Say hello", "model": "tiny", "max_tokens": 9, "temperature": 0.0, "stream": stream,
            });
            call(&here, &config, method, &params).expect(0).json()
        };
        let (whole, streamed) = (ask(false), ask(true));
        let result = &whole["result"];
        assert!(result["content"].as_str().is_some_and(|text| !text.is_empty()), "{whole}");
        assert_eq!(result["content"], streamed["result"]["content"]);
        assert_eq!((&result["finish_reason"], &result["completion_tokens"]), (&json!("length"), &json!(9)));
        assert_eq!(
            whole["metadata"]["usage"], streamed["metadata"]["usage"],
            "the tokens of a stream are counted"
        );
        assert_eq!(whole["provider_id"], "talks");
    }
    let params = json!({"text": "Hello", "model": "tiny-embed"});
    let document = call(&here, &config, "embed", &params).expect(0).json();
    assert_eq!((&document["result"]["dimensions"], &document["provider_id"]), (&json!(64), &json!("embeds")));
}

#[test]
fn what_a_real_server_refuses_is_told_in_our_codes() {
    let here = Embedded::new();
    let Some(config) = both(&here) else { return };
    for (method, params, name, part) in [
        (
            "chat",
            json!({"prompt": "word ".repeat(2_000), "model": "tiny", "stream": true}),
            "INVALID_PARAMS",
            "exceeds the available context size",
        ),
        (
            "vision",
            json!({"prompt": "What?", "model": "tiny", "images": ["iVBORw0KGgo="]}),
            "INVALID_PARAMS",
            "image input is not supported",
        ),
    ] {
        let document = call(&here, &config, method, &params).expect(5).json();
        let error = &document["error"];
        assert!(error["message"].as_str().is_some_and(|said| said.contains(part)), "{document}");
        assert_eq!(error["name"], name, "{document}");
    }
}
