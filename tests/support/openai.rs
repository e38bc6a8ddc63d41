//! A small server that speaks OpenAI's HTTP API: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`,
//! `/v1/models`; whole, or with `stream` as server-sent events.
//!
//! What it answers follows from the request alone. The model's name says what goes wrong:
//!
//! | model               | what happens                                                                |
//! |---------------------|-----------------------------------------------------------------------------|
//! | `absent`            | 404 `model_not_found`                                                       |
//! | `busy`              | 503, as of a server that still loads its model                              |
//! | `limited`           | 429 with `Retry-After`                                                      |
//! | `broke`             | 429 `insufficient_quota`                                                    |
//! | `crashed`           | 500                                                                         |
//! | `long`              | 400 `context_length_exceeded`                                               |
//! | `choosy`            | 501                                                                         |
//! | `garbled`, `endless`, `silent`, `cut` | as of the Ollama server                                   |
//! | `stumbling`, `falling` | a stream that ends in an error, as vLLM and as llama.cpp's server tell it |
//! | `fading`            | a stream that ends without a reason                                         |
//! | `strict`            | 400 for `stream_options`                                                    |
//! | `thinker`           | 400 for `max_tokens`, and for any temperature but 1                         |
//! | `talker`            | 404 for `/v1/completions`                                                   |
//! | `reluctant`         | `content` is null, and `refusal` is not                                     |

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::http_server::{Asked, HttpServer, Manner, Told, answer_to, endless, pieces, vector, whole};

/// What looks at its health ask for.
const HEALTH: &str = "/v1/models";

/// The server; it ends with this value.
#[derive(Debug)]
pub(crate) struct OpenAi(HttpServer);

impl OpenAi {
    pub(crate) fn start() -> OpenAi {
        OpenAi(HttpServer::start(answer))
    }

    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    /// Every request so far, in order, but for looks at its health.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let mut all = self.0.asked();
        all.retain(|asked| asked.path != HEALTH);
        all
    }

    /// How often somebody looked at its health.
    pub(crate) fn looks(&self) -> usize {
        self.0.asked().iter().filter(|asked| asked.path == HEALTH).count()
    }

    /// From now on.
    pub(crate) fn does(&self, manner: Manner) {
        self.0.does(manner);
    }

    /// How many clients went away without their answer.
    pub(crate) fn left(&self) -> usize {
        self.0.left()
    }

    /// What a model says to a text.
    pub(crate) fn answer_to(text: &str) -> String {
        answer_to(text)
    }
}

fn error(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

fn answer(out: &mut &TcpStream, told: &Told<'_>) -> std::io::Result<()> {
    let sent = told.asked.headers.get("authorization").map(String::as_str).unwrap_or_default();
    if told.manner.key.is_some_and(|key| sent != format!("Bearer {key}")) {
        // It repeats what it was sent, as some do.
        let words = format!("Incorrect API key provided: {}.", sent.trim_start_matches("Bearer "));
        return whole(out, 401, "", &error(&words, "invalid_request_error", None, Some("invalid_api_key")));
    }
    let (body, path) = (&told.asked.body, told.asked.path.as_str());
    let is_missing = told.manner.is_strict && !models(told).contains(&told.model());
    let refused = match told.model() {
        _ if told.asked.method == "POST" && (told.model() == "absent" || is_missing) => {
            let words =
                format!("The model `{}` does not exist or you do not have access to it.", told.model());
            Some((404, "", error(&words, "invalid_request_error", None, Some("model_not_found"))))
        }
        "busy" => Some((
            503,
            "",
            json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
        )),
        "limited" => {
            let words = "Rate limit reached for requests";
            Some((429, "Retry-After: 7\r\n", error(words, "requests", None, Some("rate_limit_exceeded"))))
        }
        "broke" => {
            let words = "You exceeded your current quota, please check your plan and billing details.";
            Some((429, "", error(words, "insufficient_quota", None, Some("insufficient_quota"))))
        }
        "crashed" => Some((500, "", error("The server had an error", "server_error", None, None))),
        "long" => {
            let words = "This model's maximum context length is 8 tokens.";
            let code = Some("context_length_exceeded");
            Some((400, "", error(words, "invalid_request_error", Some("messages"), code)))
        }
        "choosy" => {
            let words = "This server does not support embeddings. Start it with `--embeddings`";
            Some((501, "", json!({"error": {"code": 501, "message": words, "type": "not_supported_error"}})))
        }
        "strict" if body.get("stream_options").is_some() => {
            Some((400, "", error("Unknown field: stream_options", "invalid_request_error", None, None)))
        }
        "thinker" if body.get("max_tokens").is_some() => {
            let words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                         'max_completion_tokens' instead.";
            let code = Some("unsupported_parameter");
            Some((400, "", error(words, "invalid_request_error", Some("max_tokens"), code)))
        }
        "thinker" if body.get("temperature").is_some_and(|value| value.as_f64() != Some(1.0)) => {
            let words = "Unsupported value: 'temperature' does not support this value with this model.";
            let code = Some("unsupported_value");
            Some((400, "", error(words, "invalid_request_error", Some("temperature"), code)))
        }
        "talker" if path == "/v1/completions" => {
            let words = "This is a chat model and not supported in the v1/completions endpoint. Did you mean to \
                         use v1/chat/completions?";
            Some((404, "", error(words, "invalid_request_error", Some("model"), None)))
        }
        _ => None,
    };
    if let Some((status, headers, body)) = refused {
        return whole(out, status, headers, &body);
    }
    match told.model() {
        "garbled" => return write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
        "cut" if !told.wants_pieces(false) => {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{{\"model\":")?;
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        "endless" => return endless(out),
        _ => {}
    }
    match (told.asked.method.as_str(), path) {
        ("GET", HEALTH) => {
            let model = |name: &&str| json!({"id": name, "object": "model", "created": 1, "owned_by": "me"});
            let all: Vec<Value> = models(told).iter().map(model).collect();
            whole(out, 200, "", &json!({"object": "list", "data": all}))
        }
        ("POST", "/v1/chat/completions") => {
            let last = body["messages"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
            let text = match &last["content"] {
                Value::Array(parts) => {
                    parts.iter().find_map(|part| part["text"].as_str()).unwrap_or_default()
                }
                other => other.as_str().unwrap_or_default(),
            };
            speak(out, told, &answer_to(text), true)
        }
        ("POST", "/v1/completions") => {
            speak(out, told, &answer_to(body["prompt"].as_str().unwrap_or_default()), false)
        }
        ("POST", "/v1/embeddings") => {
            let one = json!({"object": "embedding", "index": 0, "embedding": vector(&body["input"])});
            let usage = json!({"prompt_tokens": 8, "total_tokens": 8});
            whole(
                out,
                200,
                "",
                &json!({"object": "list", "data": [one], "model": told.model(), "usage": usage}),
            )
        }
        _ => whole(out, 404, "", &json!({"detail": "Not Found"})),
    }
}

fn models(told: &Told<'_>) -> Vec<&'static str> {
    let usual = ["llama3.2", "nomic-embed-text"];
    told.manner.models.map_or(usual.to_vec(), <[&str]>::to_vec)
}

/// An answer of a model, whole or in pieces.
fn speak(out: &mut &TcpStream, told: &Told<'_>, said: &str, is_chat: bool) -> std::io::Result<()> {
    let usage = json!({"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32});
    let object = |kind: &str, choices: Value| json!({"id": "chatcmpl-1", "object": kind, "created": 1, "model": told.model(), "choices": choices});
    if !told.wants_pieces(false) {
        let message = match told.model() {
            "reluctant" => json!({"role": "assistant", "content": null, "refusal": said}),
            _ => json!({"role": "assistant", "content": said}),
        };
        let mut choice = json!({"index": 0, "finish_reason": "stop"});
        if is_chat {
            choice["message"] = message;
        } else {
            choice["text"] = json!(said);
        }
        let mut body = object(if is_chat { "chat.completion" } else { "text_completion" }, json!([choice]));
        body["usage"] = usage;
        return whole(out, 200, "", &body);
    }
    let piece = |text: &str, reason: Option<&str>| {
        let mut choice = json!({"index": 0, "finish_reason": reason});
        if is_chat {
            choice["delta"] = json!({"content": text});
        } else {
            choice["text"] = json!(text);
        }
        object("chat.completion.chunk", json!([choice]))
    };
    let data = |object: &Value| format!("data: {object}\n\n");
    let (first, second) = said.split_at(said.len() / 2);
    let role =
        object("chat.completion.chunk", json!([{"index": 0, "delta": {"role": "assistant", "content": ""}}]));
    let mut all = vec![": ping\n\n".to_owned()];
    if is_chat {
        all.push(data(&role));
    }
    all.push(data(&piece(first, None)));
    match told.model() {
        "cut" | "fading" => {}
        "stumbling" => {
            let words = json!({"error": {"message": "CUDA out of memory", "type": "InternalServerError", "code": 500}});
            all.push(data(&words));
        }
        "falling" => all.push(
            "error: {\"code\":500,\"message\":\"slot is gone\",\"type\":\"server_error\"}\n\n".to_owned(),
        ),
        _ => {
            all.push(data(&piece(second, None)));
            all.push(data(&piece("", Some("stop"))));
            if told.asked.body["stream_options"]["include_usage"] == json!(true) {
                let mut last = object("chat.completion.chunk", json!([]));
                last["usage"] = usage;
                all.push(data(&last));
            }
            all.push("data: [DONE]\n\n".to_owned());
        }
    }
    pieces(out, "text/event-stream; charset=utf-8", &all, told.model() == "cut")
}
