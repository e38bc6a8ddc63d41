//! An answer while it comes and when it is whole: in pieces or at once, of any kind of server.
//!
//! ```text
//! line ─▶ JSON, or more of it ─▶ an error? ─▶ what was said, counted and wound up by the dialect
//!   └ the connection breaks, or the call must end: a failure with what was said so far
//! ```

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::dialect::{Dialect, Line};
use super::http::{Incoming, Server};
use super::pieces::Pieces;
use super::refusal::Complaint;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::output::Stream;
use crate::provider::Output;

/// How much of an answer that breaks off is put into its failure, in bytes.
const PARTIAL_BYTES_MAX: usize = 16 * 1024;
/// How long the end of a connection's answer is waited for once all was said.
const END_TIMEOUT: Duration = Duration::from_millis(100);

/// What a server has said.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Spoken {
    /// The text so far.
    pub(super) content: String,
    /// Who speaks; the assistant unless it is said.
    pub(super) role: Option<String>,
    /// The model, by its own word.
    pub(super) model: Option<String>,
    /// Why it ended.
    pub(super) finish_reason: Option<String>,
    /// There was a text, if only an empty one, or a vector.
    pub(super) is_answer: bool,
    /// Nothing is to come.
    pub(super) is_done: bool,
    /// An answer that ends without a word is taken as it is.
    pub(super) may_end_early: bool,
    /// The tokens that it took.
    pub(super) usage: Option<Usage>,
    /// How long it took by the server's own word, in nanoseconds.
    pub(super) duration: Option<Value>,
    /// The vector of a text.
    pub(super) vector: Option<Vec<Value>>,
}

/// Tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    /// Read.
    pub(super) prompt: u64,
    /// Written.
    pub(super) completion: u64,
}

impl Usage {
    /// Both.
    pub(super) fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }

    /// Of two requests.
    pub(super) fn plus(self, other: Usage) -> Usage {
        Usage {
            prompt: self.prompt.saturating_add(other.prompt),
            completion: self.completion.saturating_add(other.completion),
        }
    }

    /// As it is put beside a result.
    pub(super) fn document(self) -> Value {
        json!({
            "prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": self.total(),
        })
    }
}

impl Spoken {
    /// Reads an answer to its end; `streams`: it was asked for in pieces, which `output` gets as they come.
    ///
    /// # Errors
    /// A broken connection, an error instead of the rest, an answer that is none or too large; what had been said
    /// before is in `details.partial`.
    pub(super) async fn hear(
        dialect: &dyn Dialect,
        server: &Server,
        mut incoming: Incoming<'_>,
        streams: bool,
        output: &Output,
    ) -> Result<Spoken, Failure> {
        let mut spoken = Spoken::default();
        match spoken.listen(dialect, server, &mut incoming, streams, output).await {
            Ok(()) if spoken.is_answer => Ok(spoken),
            Ok(()) => Err(broken(server, "has neither a text nor a vector")),
            Err(failure) => Err(incoming.hidden(spoken.told_by(failure))),
        }
    }

    async fn listen(
        &mut self,
        dialect: &dyn Dialect,
        server: &Server,
        incoming: &mut Incoming<'_>,
        streams: bool,
        output: &Output,
    ) -> Result<(), Failure> {
        let (mut pieces, mut count) = (Pieces::default(), 0_usize);
        while let Some(line) = self.next(incoming).await? {
            match dialect.line(&line) {
                Line::Json(json) => pieces.push(json),
                Line::Error(json) => {
                    let error = serde_json::from_slice(json).unwrap_or_default();
                    return Err(broke_off(server, &Complaint::about(&error)));
                }
                Line::End => self.is_done = true,
                Line::Nothing => {}
            }
            while let Some(piece) = pieces.next() {
                let told = self.content.len();
                self.take(dialect, server, piece.map_err(|error| no_json(server, &error))?)?;
                if streams {
                    output.copy(Stream::Text, &self.content[told..]);
                }
                count += 1;
            }
        }
        if let Some(error) = pieces.fault() {
            return Err(no_json(server, &error));
        }
        if count == 0 && pieces.is_empty() && !self.is_done {
            return Err(broken(server, "is empty"));
        }
        // One whole object is all that there is of an answer that was not asked for in pieces.
        self.is_done |= !streams && pieces.is_empty();
        let is_whole = self.is_done || self.finish_reason.is_some();
        if is_whole || (self.may_end_early && pieces.is_empty() && incoming.has_end()) {
            return Ok(());
        }
        let message = format!("the answer of {} ended before it was whole", server.shown);
        Err(Failure::new(Code::ConnectionLost, message).with("server", server.shown.as_str()))
    }

    /// The next line. Once all was said, nothing that goes wrong matters any more.
    async fn next(&self, incoming: &mut Incoming<'_>) -> Result<Option<Bytes>, Failure> {
        if !self.is_done {
            let line = incoming.line().await;
            return if self.finish_reason.is_some() { Ok(line.ok().flatten()) } else { line };
        }
        // Read on to the end so that the connection can be used again.
        Ok(timeout(END_TIMEOUT, incoming.line()).await.ok().and_then(Result::ok).flatten())
    }

    fn take(&mut self, dialect: &dyn Dialect, server: &Server, piece: Value) -> Result<(), Failure> {
        // A stream has its status before anything can go wrong.
        if let Some(complaint) = Complaint::of(&piece) {
            return Err(broke_off(server, &complaint));
        }
        match piece {
            Value::Object(piece) => dialect.hear(self, piece),
            _ => return Err(broken(server, "is no JSON object")),
        }
        Ok(())
    }

    /// The failure, with what had been said.
    fn told_by(&self, failure: Failure) -> Failure {
        if self.content.is_empty() {
            return failure;
        }
        let mut end = self.content.len().min(PARTIAL_BYTES_MAX);
        while !self.content.is_char_boundary(end) {
            end -= 1;
        }
        failure.with("partial", &self.content[..end]).with("partial_bytes", self.content.len())
    }

    /// What the model said.
    pub(super) fn said(&self, model: &str) -> Map<String, Value> {
        let mut result = Map::new();
        let mut put = |key: &str, value: Value| result.insert(key.to_owned(), value);
        put("response", json!(self.content));
        put("content", json!(self.content));
        put("role", json!(self.role.as_deref().unwrap_or("assistant")));
        put("model", json!(self.model.as_deref().unwrap_or(model)));
        if let Some(usage) = self.usage {
            put("tokens_used", json!(usage.total()));
            put("prompt_tokens", json!(usage.prompt));
            put("completion_tokens", json!(usage.completion));
        }
        let reason = match (&self.finish_reason, self.is_done) {
            (Some(reason), _) => reason,
            (None, true) => "stop",
            (None, false) => "incomplete",
        };
        put("finish_reason", json!(reason));
        put("total_duration", self.duration.clone().unwrap_or_else(|| json!(0)));
        result
    }

    /// The vector.
    ///
    /// # Errors
    /// `PROVIDER_ERROR`: there is none.
    pub(super) fn embedded(self, model: &str, server: &Server) -> Result<Map<String, Value>, Failure> {
        let Some(vector) = self.vector else {
            let message = format!("the answer of {} has no embedding", server.shown);
            return Err(Failure::new(Code::ProviderError, message).final_now());
        };
        let mut result = Map::new();
        let dimensions = vector.len();
        result.insert("embedding".to_owned(), Value::Array(vector));
        result.insert("model".to_owned(), json!(self.model.as_deref().unwrap_or(model)));
        result.insert("dimensions".to_owned(), json!(dimensions));
        Ok(result)
    }
}

fn broke_off(server: &Server, complaint: &Complaint) -> Failure {
    let message = format!("the answer of {} broke off: {}", server.shown, complaint.words);
    Failure::new(complaint.code(), message).with("server", server.shown.as_str())
}

fn no_json(server: &Server, error: &serde_json::Error) -> Failure {
    broken(server, &format!("is no JSON: {error}"))
}

fn broken(server: &Server, what: &str) -> Failure {
    let message = format!("the answer of {} {what}", server.shown);
    Failure::new(Code::ProviderError, message).with("server", server.shown.as_str())
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::core::id::{Id, TaskKey};
    use crate::core::priority::Priority;
    use crate::provider::CallCx;
    use crate::provider::llm::http::Reach;
    use crate::provider::llm::ollama::Ollama;
    use crate::provider::llm::openai::OpenAi;
    use crate::provider::tests::answering;

    async fn heard(body: &str, streams: bool) -> Result<Spoken, Failure> {
        heard_by(&Ollama::default(), body, streams, Output::nowhere()).await
    }

    async fn heard_by(
        dialect: &dyn Dialect,
        body: &str,
        streams: bool,
        output: Output,
    ) -> Result<Spoken, Failure> {
        let (url, _answering) = answering("HTTP/1.1 200 OK", body).await;
        let server = Server::new(&Reach::at(&url), 100 << 20).expect("an address");
        let cx = CallCx {
            key: TaskKey::alone(Id::parse("t").expect("an id")),
            attempt: 1,
            timeout: Duration::from_secs(600),
            cancel: CancellationToken::new(),
            traceparent: None,
            priority: Priority::NORMAL,
            output,
        };
        let incoming = server.post(&cx, "/", &json!({})).await.expect("an answer");
        Spoken::hear(dialect, &server, incoming, streams, &cx.output).await
    }

    #[tokio::test]
    async fn what_is_said_in_pieces_goes_to_whoever_follows() {
        let ollama = "{\"response\": \"a \"}\n{\"response\": \"b\", \"done\": true}\n";
        let openai = "data: {\"choices\": [{\"delta\": {\"content\": \"a \"}}]}\n\n\
             data: {\"choices\": [{\"delta\": {\"content\": \"b\"}, \"finish_reason\": \"stop\"}]}\n\ndata: [DONE]\n\n";
        let dialects: [(Box<dyn Dialect>, &str); 2] =
            [(Box::new(Ollama::default()), ollama), (Box::new(OpenAi::default()), openai)];
        for (dialect, body) in dialects {
            for (streams, expected) in [(true, "a b"), (false, "")] {
                let (output, pieces) = Output::new();
                // Whole or not, what was put is what counts here.
                let _ = heard_by(&*dialect, body, streams, output).await;
                let text: String = pieces.take().into_iter().map(|piece| piece.text).collect();
                assert_eq!(text, expected, "{}", dialect.name());
                assert!(pieces.are_copies());
            }
        }
    }

    /// Read again from its beginning with each line, it would take hours.
    #[tokio::test]
    async fn an_answer_of_many_lines_is_read_once() {
        let numbers = vec!["    0.123456789"; 200_000].join(",\n");
        let body = format!("{{\n  \"model\": \"m\",\n  \"embeddings\": [[\n{numbers}\n  ]]\n}}\n");
        let read = timeout(Duration::from_secs(120), heard(&body, false)).await;
        let spoken = read.expect("within two minutes").expect("an answer");
        assert_eq!(spoken.vector.map(|vector| vector.len()), Some(200_000));
    }

    #[tokio::test]
    async fn several_objects_may_share_a_line_and_one_may_need_several() {
        let body =
            "{\"response\": \"a{\\\"\"} {\"response\": \"b]\"}\n{\n\"response\":\n\"c\",\n\"done\": true\n}";
        let spoken = heard(body, true).await.expect("an answer");
        assert_eq!((spoken.content.as_str(), spoken.is_done), ("a{\"b]c", true));
    }

    #[tokio::test]
    async fn what_is_no_json_is_told_from_what_was_cut() {
        for (body, code, part) in [
            ("<html>", Code::ProviderError, "is no JSON"),
            ("5\n", Code::ProviderError, "is no JSON object"),
            ("{\"response\": nonsense\n", Code::ProviderError, "is no JSON"),
            ("{\"response\": nonsense}\n", Code::ProviderError, "is no JSON"),
            ("}\n", Code::ProviderError, "is no JSON"),
            ("{\"response\": \"a\"\n", Code::ConnectionLost, "ended before it was whole"),
            ("", Code::ProviderError, "is empty"),
        ] {
            let failure = heard(body, true).await.expect_err(body);
            assert_eq!(failure.code, code, "{body}: {failure}");
            assert!(failure.message.contains(part), "{body}: {failure}");
        }
    }
}
