//! One server of language models as a provider of `llm/v1`, whatever its kind.
//!
//! ```text
//! parameters ─▶ request ─▶ files ─▶ written by the dialect ─▶ sent ─▶ heard ─▶ result, and its tokens beside it
//!                                        ▲ a refusal teaches: once more │
//! ```
//! Which models it has is known from its own lists, which are read with each look at its health.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

use super::dialect::Dialect;
use super::files::Folders;
use super::http::{Reach, Server};
use super::ollama::Ollama;
use super::openai::OpenAi;
use super::refusal::Reply;
use super::request::{Part, Request, Wish};
use super::spoken::{Spoken, Usage};
use crate::core::breaker::Ending;
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::output::Stream;
use crate::core::protocol::ProtocolId;
use crate::provider::{Answer, CallCx, Health, Provider, Stock, told_by_code};

/// How long the server may take to say how it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);
/// How long it may take to say what is in memory.
const LOADED_TIMEOUT: Duration = Duration::from_secs(3);
/// A call that got no answer for so long tells that the server is stuck, in seconds.
const STUCK_SECONDS: f64 = 30.0;
/// What an answer needs beside the result made of it: a stream repeats model and time with every token.
const ANSWER_FACTOR: usize = 4;
/// Of how many models is known whether they are there.
const MODELS_MAX: usize = 10_000;
/// How often a request may be written in another way. There are fewer things to learn.
const LESSONS_MAX: usize = 5;

/// What API a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Ollama's own.
    Ollama,
    /// OpenAI's.
    OpenAi,
}

/// One server and what calls to it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The provider's name.
    pub name: String,
    /// What it speaks.
    pub api: Api,
    /// How it is reached.
    pub reach: Reach,
    /// The folders that files named in parameters are read from; empty: none is read.
    pub read_paths: Vec<PathBuf>,
    /// The largest result, in bytes of JSON. An answer may have four times as many.
    pub result_bytes_max: usize,
}

/// The provider of `llm/v1` by one server.
#[derive(Debug)]
pub struct ModelServer {
    name: String,
    protocol: ProtocolId,
    dialect: Box<dyn Dialect>,
    reach: Reach,
    result_bytes_max: usize,
    folders: Folders,
    clock: Arc<dyn Clock>,
    server: OnceLock<Server>,
    models: Mutex<Models>,
}

/// The models of a server, by their full names.
#[derive(Debug, Default)]
struct Models {
    /// `None`: it does not tell.
    there: Option<BTreeSet<String>>,
    /// Those in memory; `None`: it does not tell.
    loaded: Option<BTreeSet<String>>,
}

impl ModelServer {
    /// By that server. `clock` tells how long a date in `Retry-After` is away.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> ModelServer {
        let dialect: Box<dyn Dialect> = match settings.api {
            Api::Ollama => Box::new(Ollama::default()),
            Api::OpenAi => Box::new(OpenAi::default()),
        };
        ModelServer {
            name: settings.name,
            protocol: "llm/v1".parse().expect("a protocol's name"),
            dialect,
            reach: settings.reach,
            result_bytes_max: settings.result_bytes_max,
            folders: Folders::new(settings.read_paths),
            clock,
            server: OnceLock::new(),
            models: Mutex::default(),
        }
    }

    fn server(&self) -> Result<&Server, Failure> {
        self.server.get().ok_or_else(|| {
            Failure::new(Code::SystemNotInitialized, format!("provider {} is not started", self.name))
        })
    }

    /// Sends one request, and makes the result of its answer.
    async fn ask(&self, cx: &CallCx, request: &Request) -> Result<(Map<String, Value>, Usage), Failure> {
        let server = self.server()?;
        let began = Instant::now();
        let mut spoken = self.spoken(cx, server, request).await?;
        self.has_loaded(&request.model);
        if spoken.duration.is_none() {
            spoken.duration = Some(json!(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)));
        }
        let usage = spoken.usage.unwrap_or_default();
        let mut result = match &request.wish {
            Wish::Chat { .. } => spoken.said(&request.model),
            Wish::Complete { .. } => {
                let mut result = spoken.said(&request.model);
                result.insert("text".to_owned(), json!(spoken.content));
                result
            }
            Wish::Embed { .. } => spoken.embedded(&request.model, server)?,
        };
        result.insert("provider_id".to_owned(), json!(self.name));
        let metadata = json!({
            "provider": self.dialect.name(), "provider_id": self.name, "base_url": server.shown,
        });
        result.insert("metadata".to_owned(), metadata);
        Ok((result, usage))
    }

    /// Sends a request, in another way if the refusal tells how.
    async fn spoken(&self, cx: &CallCx, server: &Server, request: &Request) -> Result<Spoken, Failure> {
        let mut lessons = 0;
        loop {
            let written = self.dialect.written(request);
            let incoming = server.post(cx, written.path, &written.body).await?;
            if incoming.is_ok() {
                return Spoken::hear(&*self.dialect, server, incoming, request.stream, &cx.output).await;
            }
            let reply = incoming.whole().await?;
            if lessons == LESSONS_MAX || !self.dialect.learn(request, &reply) {
                return Err(self.refused(request, &reply, server));
            }
            lessons += 1;
            tracing::info!(
                provider = self.name,
                status = reply.status,
                "the request is written in another way"
            );
        }
    }

    fn refused(&self, request: &Request, reply: &Reply, server: &Server) -> Failure {
        if !self.dialect.lacks_model(reply) {
            return reply.refusal(server, self.clock.now());
        }
        let (model, fetch) = (request.model.as_str(), self.dialect.fetch(&request.model));
        let message = format!("the server at {} has no model {model:?}; {fetch}", server.shown);
        let failure = Failure::new(Code::InvalidParams, message).with("model", model);
        // Another server may have it.
        failure.with("server", server.shown.as_str()).not_begun()
    }

    /// Sends one request for each file, one after the other: the result is a map from file to answer.
    async fn ask_for_each(
        &self,
        cx: &CallCx,
        request: &Request,
        parts: Vec<(String, Part)>,
    ) -> Result<(Map<String, Value>, Usage), Failure> {
        let (mut results, mut bytes, mut used) = (Map::new(), 0, Usage::default());
        let request_streams = request.stream;
        for (file, part) in parts {
            let request = request.clone().with(part);
            let (result, usage) = self.ask(cx, &request).await.map_err(|failure| Failure {
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
            used = used.plus(usage);
            if request_streams {
                cx.output.put(Stream::Text, "\n");
            }
            results.insert(file, Value::Object(result));
        }
        let mut result = Map::new();
        result.insert("results".to_owned(), Value::Object(results));
        result.insert("provider_id".to_owned(), json!(self.name));
        Ok((result, used))
    }

    /// Asks for the models in memory; nothing depends on the answer but who is preferred.
    async fn loaded(&self, server: &Server) -> Option<BTreeSet<String>> {
        let list = timeout(LOADED_TIMEOUT, server.get(self.dialect.lists().1?)).await;
        self.named(&list.ok()?.ok()?)
    }

    fn named(&self, list: &Reply) -> Option<BTreeSet<String>> {
        let list = serde_json::from_slice(&list.body).ok().filter(|_| list.status == 200)?;
        let names = self.dialect.models(&list)?;
        // Of a longer list the rest would be missing, which it is not.
        (names.len() <= MODELS_MAX).then(|| names.iter().map(|name| self.dialect.full_name(name)).collect())
    }

    /// A model that has answered is in memory until the next look.
    fn has_loaded(&self, model: &str) {
        let name = self.dialect.full_name(model);
        let mut models = self.models();
        if let Some(loaded) = &mut models.loaded
            && loaded.len() < MODELS_MAX
        {
            loaded.insert(name.clone());
        }
        // Pulled since the last look.
        if let Some(there) = &mut models.there
            && there.len() < MODELS_MAX
        {
            there.insert(name);
        }
    }

    fn models(&self) -> MutexGuard<'_, Models> {
        // Nothing that panics is done while it is held.
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Provider for ModelServer {
    fn name(&self) -> &str {
        &self.name
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }

    fn serves(&self, method: &str) -> bool {
        matches!(method, "chat" | "generate" | "complete" | "embed" | "vision")
    }

    /// Reads address and key, and asks nobody: a server that is down now may be up when it is needed.
    async fn start(&self) -> Result<(), Failure> {
        if self.server.get().is_some() {
            return Ok(());
        }
        let reach = Reach { url: self.dialect.base(self.reach.url.as_str()).into(), ..self.reach.clone() };
        let server = Server::new(&reach, self.result_bytes_max.saturating_mul(ANSWER_FACTOR))?;
        server.secret().await?;
        // Somebody else may have been faster, with the same server.
        let _ = self.server.set(server);
        Ok(())
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let mut request = Request::read(method, params)?;
        let attached = std::mem::take(&mut request.attached);
        let is_batch = attached.batch;
        let parts = self.folders.read(attached).await?;
        let (result, usage) = if is_batch {
            self.ask_for_each(cx, &request, parts).await?
        } else {
            let request = parts.into_iter().fold(request, |request, (_, part)| request.with(part));
            self.ask(cx, &request).await?
        };
        let mut answer = Answer::from(Value::Object(result));
        if usage != Usage::default() {
            answer.metadata.insert("usage".to_owned(), usage.document());
        }
        Ok(answer)
    }

    /// A server that does not answer within a limit that would do for most is stuck.
    fn tells(&self, failure: &Failure) -> Ending {
        let limit = failure.details.get("timeout").and_then(Value::as_f64);
        match failure.code {
            Code::TaskTimeout if limit.is_some_and(|seconds| seconds >= STUCK_SECONDS) => Ending::Bad,
            code => told_by_code(code),
        }
    }

    fn stock(&self, model: &str) -> Stock {
        let name = self.dialect.full_name(model);
        let models = self.models();
        match (&models.there, &models.loaded) {
            (None, _) => Stock::Unknown,
            (Some(there), _) if !there.contains(&name) => Stock::Missing,
            (Some(_), Some(loaded)) if !loaded.contains(&name) => Stock::Cold,
            (Some(_), _) => Stock::Ready,
        }
    }

    /// Asks for its models, which tells both what it has and how it is.
    async fn health(&self) -> Health {
        let server = match self.server() {
            Ok(server) => server,
            Err(failure) => return Health::Down(failure.message),
        };
        let look = async {
            // Both at once, so that a slow server is not taken for a stuck one.
            let (list, loaded) = tokio::join!(server.get(self.dialect.lists().0), self.loaded(server));
            let list = list?;
            *self.models() = Models { there: self.named(&list), loaded };
            Ok::<Reply, Failure>(list)
        };
        match timeout(HEALTH_TIMEOUT, look).await {
            // Something before it may not hand this path on, which says nothing of the others; but who is asked
            // for a key here is asked for it everywhere.
            Ok(Ok(list)) if list.status < 500 && list.status != 401 => Health::Up,
            Ok(Ok(list)) => Health::Down(list.refusal(server, self.clock.now()).message),
            Ok(Err(failure)) => Health::Down(failure.message),
            Err(_) => Health::Degraded(format!("{} did not answer within {HEALTH_TIMEOUT:?}", server.shown)),
        }
    }
}
