//! Ollama, by its own API: `/api/chat`, `/api/generate`, `/api/embed`; `/api/tags` tells its health.
//!
//! An answer is one JSON object, or with `stream` one per piece and line; both are read in the same way. Models
//! are never pulled from here: that takes gigabytes and minutes, and is the operator's decision.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::files::Folders;
use super::http::{Reply, Server};
use super::request::{Part, Request, Wish, last_of_user};
use crate::core::breaker::Ending;
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;
use crate::provider::{Answer, CallCx, Health, Provider, told_by_code};

/// How long the server may take to say how it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);
/// A call that got no answer for so long tells that the server is stuck, in seconds.
const STUCK_SECONDS: f64 = 30.0;
/// What an answer needs beside the result made of it: a stream repeats model and time with every token.
const ANSWER_FACTOR: usize = 4;

/// One Ollama server and what calls to it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The provider's name.
    pub name: String,
    /// The server's address, such as `http://127.0.0.1:11434`.
    pub url: String,
    /// The folders that files named in parameters are read from; empty: none is read.
    pub read_paths: Vec<PathBuf>,
    /// The largest result, in bytes of JSON. An answer may have four times as many.
    pub result_bytes_max: usize,
}

/// The provider of `llm/v1` by one Ollama server.
#[derive(Debug)]
pub struct Ollama {
    name: String,
    protocol: ProtocolId,
    url: String,
    result_bytes_max: usize,
    folders: Folders,
    clock: Arc<dyn Clock>,
    server: OnceLock<Server>,
}

impl Ollama {
    /// By that server. `clock` tells how long a date in `Retry-After` is away.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Ollama {
        Ollama {
            name: settings.name,
            protocol: "llm/v1".parse().expect("a protocol's name"),
            url: settings.url,
            result_bytes_max: settings.result_bytes_max,
            folders: Folders::new(settings.read_paths),
            clock,
            server: OnceLock::new(),
        }
    }

    fn server(&self) -> Result<&Server, Failure> {
        self.server.get().ok_or_else(|| {
            Failure::new(Code::SystemNotInitialized, format!("provider {} is not started", self.name))
        })
    }

    /// Sends one request and makes the result of its answer.
    async fn ask(&self, cx: &CallCx, request: &Request) -> Result<Map<String, Value>, Failure> {
        let server = self.server()?;
        let (path, body) = written(request);
        let reply = server.post(cx, path, &body).await?;
        if reply.status == 404 && lacks_model(&reply) {
            return Err(no_model(&request.model, server));
        }
        if !reply.is_ok() {
            return Err(reply.refusal(server, self.clock.now()));
        }
        let answer = Spoken::read(&reply, server)?;
        let mut result = match &request.wish {
            Wish::Chat { .. } => answer.said(&request.model),
            Wish::Complete { .. } => {
                let mut result = answer.said(&request.model);
                result.insert("text".to_owned(), result["response"].clone());
                result
            }
            Wish::Embed { .. } => answer.embedded(&request.model, server)?,
        };
        result.insert("provider_id".to_owned(), json!(self.name));
        let metadata = json!({"provider": "ollama", "provider_id": self.name, "base_url": server.shown});
        result.insert("metadata".to_owned(), metadata);
        Ok(result)
    }

    /// Sends one request for each file, one after the other: the result is a map from file to answer.
    async fn ask_for_each(
        &self,
        cx: &CallCx,
        request: &Request,
        parts: Vec<(String, Part)>,
    ) -> Result<Answer, Failure> {
        let mut results = Map::new();
        let mut bytes = 0;
        for (file, part) in parts {
            let request = request.clone().with(part);
            let result = self.ask(cx, &request).await;
            let result = result.map_err(|failure| Failure {
                // Of the batch something has begun.
                not_begun: failure.not_begun && results.is_empty(),
                ..failure.with("file", file.as_str())
            })?;
            bytes += result.get("content").and_then(Value::as_str).map_or(0, str::len);
            if bytes > self.result_bytes_max {
                let max = self.result_bytes_max;
                let message =
                    format!("the answers up to file {file:?} have more than {max} bytes; name fewer files");
                return Err(Failure::new(Code::ResultTooLarge, message).with("bytes_max", max));
            }
            results.insert(file, Value::Object(result));
        }
        Ok(json!({"results": results, "provider_id": self.name}).into())
    }
}

#[async_trait]
impl Provider for Ollama {
    fn name(&self) -> &str {
        &self.name
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }

    fn serves(&self, method: &str) -> bool {
        matches!(method, "chat" | "generate" | "complete" | "embed" | "vision")
    }

    /// Reads the address, and asks nobody: a server that is down now may be up when it is needed.
    async fn start(&self) -> Result<(), Failure> {
        if self.server.get().is_none() {
            let server = Server::new(&self.url, self.result_bytes_max.saturating_mul(ANSWER_FACTOR))?;
            // Somebody else may have been faster, with the same server.
            let _ = self.server.set(server);
        }
        Ok(())
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let mut request = Request::read(method, params)?;
        let attached = std::mem::take(&mut request.attached);
        let is_batch = attached.batch;
        let parts = self.folders.read(attached).await?;
        if is_batch {
            return self.ask_for_each(cx, &request, parts).await;
        }
        let request = parts.into_iter().fold(request, |request, (_, part)| request.with(part));
        Ok(Value::Object(self.ask(cx, &request).await?).into())
    }

    /// A server that does not answer within a limit that would do for most is stuck.
    fn tells(&self, failure: &Failure) -> Ending {
        let limit = failure.details.get("timeout").and_then(Value::as_f64);
        match failure.code {
            Code::TaskTimeout if limit.is_some_and(|seconds| seconds >= STUCK_SECONDS) => Ending::Bad,
            code => told_by_code(code),
        }
    }

    async fn health(&self) -> Health {
        let server = match self.server() {
            Ok(server) => server,
            Err(failure) => return Health::Down(failure.message),
        };
        match tokio::time::timeout(HEALTH_TIMEOUT, server.get("/api/tags")).await {
            // Something before it may not hand this path on; that says nothing of the others.
            Ok(Ok(reply)) if reply.status < 500 => Health::Up,
            Ok(Ok(reply)) => Health::Down(reply.refusal(server, self.clock.now()).message),
            Ok(Err(failure)) => Health::Down(failure.message),
            Err(_) => Health::Degraded(format!("{} did not answer within {HEALTH_TIMEOUT:?}", server.shown)),
        }
    }
}

/// The request as Ollama reads it: the path and the body.
fn written(request: &Request) -> (&'static str, Value) {
    let mut body = json!({"model": request.model});
    let path = match &request.wish {
        Wish::Chat { messages, images } => {
            let mut messages = messages.clone();
            if !images.is_empty() {
                last_of_user(&mut messages).insert("images".to_owned(), json!(images));
            }
            body["messages"] = json!(messages);
            "/api/chat"
        }
        Wish::Complete { prompt, system } => {
            body["prompt"] = json!(prompt);
            if let Some(system) = system {
                body["system"] = json!(system);
            }
            "/api/generate"
        }
        Wish::Embed { text } => {
            body["input"] = json!(text);
            return ("/api/embed", body);
        }
    };
    body["stream"] = json!(request.stream);
    let mut options = Map::new();
    for (name, value) in [("temperature", &request.temperature), ("num_predict", &request.max_tokens)] {
        if let Some(value) = value {
            options.insert(name.to_owned(), value.clone());
        }
    }
    body["options"] = Value::Object(options);
    (path, body)
}

/// An answer, whole or in pieces.
#[derive(Debug, Default)]
struct Spoken {
    content: String,
    role: Option<Value>,
    /// The last object, which has the counts.
    last: Map<String, Value>,
}

impl Spoken {
    /// Reads one object or one per line.
    fn read(reply: &Reply, server: &Server) -> Result<Spoken, Failure> {
        let broken = |what: &str| {
            let message = format!("the answer of {} {what}", server.shown);
            Failure::new(Code::ProviderError, message).with("server", server.shown.as_str())
        };
        let mut spoken = Spoken::default();
        for piece in serde_json::Deserializer::from_slice(&reply.body).into_iter::<Value>() {
            let piece = piece.map_err(|error| broken(&format!("is no JSON: {error}")))?;
            let Value::Object(piece) = piece else { return Err(broken("is no JSON object")) };
            // A stream has its status before anything can go wrong.
            if let Some(error) = piece.get("error") {
                return Err(broken(&format!("broke off: {}", error.as_str().unwrap_or("without a reason"))));
            }
            let message = piece.get("message");
            let content = message.map_or(piece.get("response"), |message| message.get("content"));
            spoken.content.push_str(content.and_then(Value::as_str).unwrap_or_default());
            spoken.role = message.and_then(|message| message.get("role")).cloned().or(spoken.role);
            spoken.last = piece;
        }
        if spoken.last.is_empty() {
            return Err(broken("is empty"));
        }
        Ok(spoken)
    }

    /// What the model said. Durations are Ollama's own, in nanoseconds.
    fn said(&self, model: &str) -> Map<String, Value> {
        let count = |key: &str| self.last.get(key).and_then(Value::as_u64);
        let (prompt, completion) = (count("prompt_eval_count"), count("eval_count"));
        let is_done = self.last.get("done") == Some(&Value::Bool(true));
        let reason = self.last.get("done_reason").and_then(Value::as_str);
        let reason = if is_done { reason.unwrap_or("stop") } else { "incomplete" };
        let result = json!({
            "response": self.content,
            "content": self.content,
            "role": self.role.clone().unwrap_or_else(|| json!("assistant")),
            "model": self.last.get("model").cloned().unwrap_or_else(|| json!(model)),
            "tokens_used": prompt.unwrap_or(0).saturating_add(completion.unwrap_or(0)),
            "prompt_tokens": prompt.unwrap_or(0),
            "completion_tokens": completion.unwrap_or(0),
            "finish_reason": reason,
            "total_duration": self.last.get("total_duration").cloned().unwrap_or_else(|| json!(0)),
        });
        match result {
            Value::Object(result) => result,
            _ => Map::new(),
        }
    }

    /// The vector.
    fn embedded(&self, model: &str, server: &Server) -> Result<Map<String, Value>, Failure> {
        let first = self.last.get("embeddings").and_then(|all| all.get(0)).and_then(Value::as_array);
        let Some(vector) = first else {
            let message = format!("the answer of {} has no embedding", server.shown);
            return Err(Failure::new(Code::ProviderError, message).final_now());
        };
        let mut result = Map::new();
        result.insert("embedding".to_owned(), json!(vector));
        result.insert("model".to_owned(), self.last.get("model").cloned().unwrap_or_else(|| json!(model)));
        result.insert("dimensions".to_owned(), json!(vector.len()));
        Ok(result)
    }
}

/// Whether a 404 is about the model; else it is about the address.
fn lacks_model(reply: &Reply) -> bool {
    let words = reply.words();
    words.contains("model") && words.contains("not found")
}

fn no_model(model: &str, server: &Server) -> Failure {
    let message = format!(
        "the Ollama server at {} has no model {model:?}; run `ollama pull {model}` there",
        server.shown
    );
    let failure = Failure::new(Code::InvalidParams, message).with("model", model);
    // Another server may have it.
    failure.with("server", server.shown.as_str()).not_begun()
}
