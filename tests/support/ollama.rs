//! A small server that speaks Ollama's HTTP API: `/api/chat`, `/api/generate`, `/api/embed`, `/api/embeddings`,
//! `/api/tags`, `/api/ps`; whole with `stream: false`, else line by line, as Ollama does.
//!
//! What it answers follows from the request alone. The model's name says what goes wrong:
//!
//! | model               | what happens                                                                |
//! |---------------------|-----------------------------------------------------------------------------|
//! | `absent`            | 404, as for a model that was not pulled                                     |
//! | `busy`              | 503 with `Retry-After`                                                      |
//! | `limited`           | 429 with `Retry-After`                                                      |
//! | `crashed`; `crashed-once` | 500 with the words of a runner that died; only for the first request  |
//! | `choosy`            | 400                                                                         |
//! | `garbled`           | 200 with something that is no JSON                                          |
//! | `endless`           | 200 with a body that does not end                                           |
//! | `silent`            | no answer until the client goes away                                        |
//! | `cut`               | the connection is closed in the middle of the answer                        |
//! | `stumbling`         | a stream that ends in an error                                              |
//! | `fading`            | a stream that ends without `done`                                           |
//! | `held`              | a stream that stops after its first word until the file exists that the prompt names |
//! | `held-stumbling`    | the same, which then ends in an error                                       |

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::http_server::{self, HttpServer, Told, endless, pieces, vector, whole};
pub(crate) use crate::http_server::{Asked, Manner};

/// What looks at its health ask for.
const HEALTH: [&str; 2] = ["/api/tags", "/api/ps"];

/// The server; it ends with this value.
#[derive(Debug)]
pub(crate) struct Ollama(HttpServer);

impl Ollama {
    pub(crate) fn start() -> Ollama {
        Ollama(HttpServer::start(answer))
    }

    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    /// Every request so far, in order, but for looks at its health.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let mut all = self.0.asked();
        all.retain(|asked| !HEALTH.contains(&asked.path.as_str()));
        all
    }

    /// How often somebody looked at its health.
    pub(crate) fn looks(&self) -> usize {
        self.0.asked().iter().filter(|asked| asked.path == HEALTH[0]).count()
    }

    /// From now on.
    pub(crate) fn does(&self, manner: Manner) {
        self.0.does(manner);
    }

    /// When conversations were asked for.
    pub(crate) fn chats(&self) -> Vec<Instant> {
        self.asked().iter().filter(|asked| asked.path == "/api/chat").map(|asked| asked.at).collect()
    }

    /// How many clients went away without their answer.
    pub(crate) fn left(&self) -> usize {
        self.0.left()
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.0.connections()
    }

    /// What a model says to a text.
    pub(crate) fn answer_to(text: &str) -> String {
        http_server::answer_to(text)
    }
}

fn answer(out: &mut &TcpStream, told: &Told<'_>) -> std::io::Result<()> {
    let model = told.model();
    let is_missing = told.manner.is_strict && !is_there(told, model);
    match (model, told.earlier()) {
        _ if told.asked.method == "POST" && (model == "absent" || is_missing) => {
            let words = format!("model \"{model}\" not found, try pulling it first");
            return whole(out, 404, "", &json!({"error": words}));
        }
        ("busy", _) => {
            let words = "server busy, please try again.  maximum pending requests exceeded";
            return whole(out, 503, "Retry-After: 0\r\n", &json!({"error": words}));
        }
        ("limited", _) => {
            return whole(out, 429, "Retry-After: 7\r\n", &json!({"error": "too many requests"}));
        }
        ("crashed", _) | ("crashed-once", 0) => {
            let words = "llama runner process has terminated: signal: killed";
            return whole(out, 500, "", &json!({"error": words}));
        }
        ("choosy", _) => return whole(out, 400, "", &json!({"error": "\"choosy\" does not support chat"})),
        ("garbled", _) => return write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
        ("cut", _) if !told.wants_pieces(true) => {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{{\"model\":")?;
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        ("endless", _) => return endless(out),
        _ => {}
    }
    let body = &told.asked.body;
    match (told.asked.method.as_str(), told.asked.path.as_str()) {
        ("GET", "/api/tags") => {
            let model = |name: &&str| json!({"name": name, "model": name, "size": 2_019_393_189_u64});
            whole(out, 200, "", &json!({"models": models(told).iter().map(model).collect::<Vec<_>>()}))
        }
        ("GET", "/api/ps") if !told.manner.is_old => whole(out, 200, "", &json!({"models": loaded(told)})),
        ("POST", "/api/chat") => {
            let last = body["messages"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
            let said = Ollama::answer_to(last["content"].as_str().unwrap_or_default());
            let piece = |content: &str| json!({"message": {"role": "assistant", "content": content}});
            speak(out, told, &said, piece)
        }
        ("POST", "/api/generate") => {
            let said = Ollama::answer_to(body["prompt"].as_str().unwrap_or_default());
            speak(out, told, &said, |content| json!({"response": content}))
        }
        ("POST", "/api/embed") if !told.manner.is_old => {
            let body = json!({"model": model, "embeddings": [vector(&body["input"])],
                "total_duration": 14_143_917, "load_duration": 1_019_500, "prompt_eval_count": 8});
            whole(out, 200, "", &body)
        }
        ("POST", "/api/embeddings") => whole(out, 200, "", &json!({"embedding": vector(&body["prompt"])})),
        _ => write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\n\r\n404 page not found"),
    }
}

fn models(told: &Told<'_>) -> Vec<&'static str> {
    let usual = ["llama3.2:latest", "nomic-embed-text:latest"];
    told.manner.models.map_or(usual.to_vec(), <[&str]>::to_vec)
}

fn is_there(told: &Told<'_>, model: &str) -> bool {
    models(told).iter().any(|name| *name == model || name.strip_suffix(":latest") == Some(model))
}

/// The models in memory.
fn loaded(told: &Told<'_>) -> Vec<Value> {
    let is_used = |name: &&&str| {
        let plain = name.trim_end_matches(":latest");
        !told.manner.is_cold || told.before.iter().any(|asked| asked.body["model"] == plain)
    };
    let all = models(told);
    all.iter().filter(is_used).map(|name| json!({"name": name, "model": name, "size_vram": 1})).collect()
}

/// An answer of a model, whole or in pieces.
fn speak(
    out: &mut &TcpStream,
    told: &Told<'_>,
    said: &str,
    piece: impl Fn(&str) -> Value,
) -> std::io::Result<()> {
    let named = |content: &str, done: bool| {
        let mut object = json!({"model": told.model(), "created_at": "2026-01-02T03:04:05.678901Z"});
        for (key, value) in piece(content).as_object().expect("an object") {
            object[key] = value.clone();
        }
        object["done"] = json!(done);
        object
    };
    let prompt = said.split_whitespace().last().map_or(0, str::len);
    let counted = |content: &str| {
        let mut object = named(content, true);
        let counts = json!({"done_reason": "stop", "total_duration": 5_043_500_667_u64, "load_duration": 5_025_959,
            "prompt_eval_count": 20 + prompt, "prompt_eval_duration": 325_953_000, "eval_count": 7,
            "eval_duration": 4_709_213_000_u64});
        for (key, value) in counts.as_object().expect("an object") {
            object[key] = value.clone();
        }
        object
    };
    if !told.wants_pieces(true) {
        return whole(out, 200, "", &counted(said));
    }
    if told.model().starts_with("held") {
        return held(out, told, &named, &counted(""));
    }
    let (first, second) = said.split_at(said.len() / 2);
    let mut all = vec![named(first, false), named(second, false)];
    match told.model() {
        "stumbling" => all.push(json!({"error": "an error was encountered while running the model"})),
        "cut" => all.truncate(1),
        "fading" => {}
        _ => all.push(counted("")),
    }
    let lines: Vec<String> = all.iter().map(|object| format!("{object}\n")).collect();
    pieces(out, "application/x-ndjson", &lines, told.model() == "cut")
}

/// A word, and another one once somebody has made the file that the last message names.
fn held(
    out: &mut &TcpStream,
    told: &Told<'_>,
    named: &dyn Fn(&str, bool) -> Value,
    end: &Value,
) -> std::io::Result<()> {
    let gate = told.asked.body["messages"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
    let gate = std::path::PathBuf::from(gate["content"].as_str().unwrap_or_default());
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    piece(out, &named("one ", false))?;
    while !gate.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
        // Who went away needs no answer; an empty line tells.
        write!(out, "1\r\n\n\r\n")?;
    }
    piece(out, &named("two", false))?;
    if told.model() == "held-stumbling" {
        piece(out, &json!({"error": "an error was encountered while running the model"}))?;
    } else {
        piece(out, end)?;
    }
    write!(out, "0\r\n\r\n")
}

fn piece(out: &mut &TcpStream, object: &Value) -> std::io::Result<()> {
    let line = format!("{object}\n");
    write!(out, "{:x}\r\n{line}\r\n", line.len())
}
