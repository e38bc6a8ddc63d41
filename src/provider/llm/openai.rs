//! The API of OpenAI, which vLLM, llama.cpp's server, LM Studio and many others speak: `/chat/completions`,
//! `/completions`, `/embeddings`; `/models` lists the models.
//!
//! With `stream` an answer comes as server-sent events, each `data:` an object, the last one `[DONE]`.
//! What servers of this kind do not share is learned from their refusals, for each model once:
//!
//! | a refusal says that there is no        | then                                                       |
//! |----------------------------------------|------------------------------------------------------------|
//! | `stream_options`                       | usage is not asked for in streams                          |
//! | `max_tokens`, but `max_completion_tokens` | the latter is sent                                      |
//! | `temperature` but the model's own      | 0.7, which is the schema's default, is left out; another one is refused |
//! | `/completions`, or not for the model   | the prompt is sent as a message                            |

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::dialect::{Dialect, Line, Written, names};
use super::refusal::Reply;
use super::request::{Request, Wish, last_of_user};
use super::spoken::{Spoken, Usage};

/// The temperature that the schema fills in.
const TEMPERATURE_DEFAULT: f64 = 0.7;
/// Of how much is remembered what was learned.
const LEARNED_MAX: usize = 1000;

/// Servers of this kind.
#[derive(Debug, Default)]
pub(super) struct OpenAi {
    /// By model.
    learned: Mutex<BTreeSet<(String, Lack)>>,
}

/// What a server has not for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    StreamOptions,
    MaxTokens,
    Temperature,
    Completions,
}

impl OpenAi {
    fn lacks(&self, request: &Request, lack: Lack) -> bool {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.contains(&(request.model.clone(), lack))
    }

    /// Whether that is news.
    fn keep(&self, request: &Request, lack: Lack) -> bool {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.len() >= LEARNED_MAX {
            learned.clear();
        }
        learned.insert((request.model.clone(), lack))
    }

    /// What the model is to do, and how it is to do it.
    fn fill(&self, body: &mut Value, request: &Request, is_chat: bool) {
        if let Some(temperature) = &request.temperature
            && !(is_default(temperature) && self.lacks(request, Lack::Temperature))
        {
            body["temperature"] = temperature.clone();
        }
        if let Some(max) = &request.max_tokens {
            let is_new = is_chat && self.lacks(request, Lack::MaxTokens);
            body[if is_new { "max_completion_tokens" } else { "max_tokens" }] = max.clone();
        }
        body["stream"] = json!(request.stream);
        if request.stream && !self.lacks(request, Lack::StreamOptions) {
            body["stream_options"] = json!({"include_usage": true});
        }
    }
}

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    /// `/v1` is added unless the path has a version already.
    fn base(&self, url: &str) -> String {
        let url = url.trim_end_matches('/');
        let path = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').skip(1);
        let is_version = |part: &str| {
            part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        };
        if path.into_iter().any(is_version) { url.to_owned() } else { format!("{url}/v1") }
    }

    fn written(&self, request: &Request) -> Written {
        let mut body = json!({"model": request.model});
        let mut messages = match &request.wish {
            Wish::Embed { text } => {
                body["input"] = json!(text);
                return Written { path: "/embeddings", body };
            }
            // There is no system prompt for a plain completion.
            Wish::Complete { prompt, system: None } if !self.lacks(request, Lack::Completions) => {
                body["prompt"] = json!(prompt);
                self.fill(&mut body, request, false);
                return Written { path: "/completions", body };
            }
            Wish::Complete { prompt, system } => {
                let mut messages = Vec::new();
                messages.extend(system.as_ref().map(|system| message("system", system)));
                messages.push(message("user", prompt));
                messages
            }
            Wish::Chat { messages, .. } => messages.clone(),
        };
        if let Wish::Chat { images, .. } = &request.wish
            && !images.is_empty()
        {
            show(&mut messages, images);
        }
        body["messages"] = json!(messages);
        self.fill(&mut body, request, true);
        Written { path: "/chat/completions", body }
    }

    fn line<'a>(&self, line: &'a [u8]) -> Line<'a> {
        let line = line.trim_ascii();
        // llama.cpp's server names the field `error` instead of putting the error into `data`.
        if let Some(error) = line.strip_prefix(b"error:") {
            return Line::Error(error.trim_ascii());
        }
        match line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) {
            Some(b"[DONE]") => Line::End,
            Some(data) => Line::Json(data),
            None if [&b":"[..], b"event:", b"id:", b"retry:"].iter().any(|other| line.starts_with(other)) => {
                Line::Nothing
            }
            // No event: an answer that is whole.
            None => Line::Json(line),
        }
    }

    fn hear(&self, spoken: &mut Spoken, mut piece: Map<String, Value>) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        spoken.model = text(piece.get("model")).or(spoken.model.take());
        if let Some(usage) = piece.get("usage").filter(|usage| usage.is_object()) {
            let count = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0);
            spoken.usage =
                Some(Usage { prompt: count("prompt_tokens"), completion: count("completion_tokens") });
        }
        if let Some(choice) = piece.get("choices").and_then(|all| all.get(0)) {
            let message = choice.get("message").or_else(|| choice.get("delta"));
            let content = message.map_or(choice.get("text"), |message| {
                let said = |key: &str| message.get(key).filter(|text| text.is_string());
                said("content").or_else(|| said("refusal"))
            });
            spoken.content.push_str(content.and_then(Value::as_str).unwrap_or_default());
            spoken.role = text(message.and_then(|message| message.get("role"))).or(spoken.role.take());
            spoken.finish_reason = text(choice.get("finish_reason")).or(spoken.finish_reason.take());
            spoken.is_answer = true;
            spoken.is_done |= choice.get("message").is_some();
        }
        let first = piece.get_mut("data").and_then(|all| all.get_mut(0));
        if let Some(Value::Array(vector)) =
            first.and_then(|first| first.get_mut("embedding")).map(Value::take)
        {
            spoken.vector = Some(vector);
            spoken.is_answer = true;
        }
    }

    fn learn(&self, request: &Request, reply: &Reply) -> bool {
        let error = reply.error();
        let is_about = |param: &str| error.param.as_deref() == Some(param) || error.words.contains(param);
        if matches!(request.wish, Wish::Complete { system: None, .. }) {
            let is_for_chat = error.words.contains("chat") && error.words.contains("completions");
            let is_missing = matches!(reply.status, 404 | 405 | 501) && !self.lacks_model(reply);
            if is_for_chat || is_missing {
                return self.keep(request, Lack::Completions);
            }
        }
        if !matches!(reply.status, 400 | 422) {
            return false;
        }
        if request.stream && is_about("stream_options") {
            return self.keep(request, Lack::StreamOptions);
        }
        if request.max_tokens.is_some() && error.words.contains("max_completion_tokens") {
            return self.keep(request, Lack::MaxTokens);
        }
        let is_given = request.temperature.as_ref().is_some_and(is_default);
        is_given && is_about("temperature") && self.keep(request, Lack::Temperature)
    }

    fn lacks_model(&self, reply: &Reply) -> bool {
        let error = reply.error();
        let is_missing =
            ["not found", "not exist", "does not have"].iter().any(|part| error.words.contains(part));
        let is_told = error.words.to_lowercase().contains("model") && is_missing;
        matches!(reply.status, 400 | 404)
            && (error.is(&["model_not_found"]) || (reply.status == 404 && is_told))
    }

    fn fetch(&self, _model: &str) -> String {
        "its list is at /models".to_owned()
    }

    fn lists(&self) -> (&'static str, Option<&'static str>) {
        ("/models", None)
    }

    fn models(&self, list: &Value) -> Option<Vec<String>> {
        names(list, "data", "id")
    }

    fn full_name(&self, model: &str) -> String {
        model.to_owned()
    }
}

/// Puts the images behind the text of the last message of the user.
fn show(messages: &mut Vec<Map<String, Value>>, images: &[String]) {
    let message = last_of_user(messages);
    let mut parts = Vec::new();
    if let Some(text) = message.get("content").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        parts.push(json!({"type": "text", "text": text}));
    }
    for image in images {
        let url = match image.starts_with("data:") {
            true => image.clone(),
            false => format!("data:{};base64,{image}", media_type(image)),
        };
        parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
    }
    message.insert("content".to_owned(), Value::Array(parts));
}

/// What kind of image it is, by how it begins in base64.
fn media_type(image: &str) -> &'static str {
    let kinds =
        [("iVBORw0KGgo", "image/png"), ("R0lGOD", "image/gif"), ("UklGR", "image/webp"), ("Qk", "image/bmp")];
    let found = kinds.iter().find(|(begin, _)| image.starts_with(begin));
    found.map_or("image/jpeg", |(_, kind)| *kind)
}

fn message(role: &str, content: &str) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("role".to_owned(), json!(role));
    message.insert("content".to_owned(), json!(content));
    message
}

fn is_default(temperature: &Value) -> bool {
    temperature.as_f64() == Some(TEMPERATURE_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_its_version_or_not() {
        for (url, base) in [
            ("http://h:8000", "http://h:8000/v1"),
            ("http://h:8000/", "http://h:8000/v1"),
            ("http://h:8000/v1", "http://h:8000/v1"),
            ("http://h:8000/v1/", "http://h:8000/v1"),
            ("https://h/llm", "https://h/llm/v1"),
            ("https://h/v1beta/openai", "https://h/v1beta/openai"),
            ("https://v2.example.org", "https://v2.example.org/v1"),
            ("https://h/vllm", "https://h/vllm/v1"),
        ] {
            assert_eq!(OpenAi::default().base(url), base);
        }
    }

    #[test]
    fn a_line_is_an_event_a_comment_or_a_whole_answer() {
        let cases: [(&str, Line<'_>); 8] = [
            ("data: {\"a\":1}\r\n", Line::Json(b"{\"a\":1}")),
            ("data:{\"a\":1}\n", Line::Json(b"{\"a\":1}")),
            ("data: [DONE]\n", Line::End),
            ("error: {\"code\":500}\n", Line::Error(b"{\"code\":500}")),
            (": keep-alive\n", Line::Nothing),
            ("event: message\n", Line::Nothing),
            ("\n", Line::Json(b"")),
            ("  \"model\": \"m\",\n", Line::Json(b"\"model\": \"m\",")),
        ];
        for (line, expected) in cases {
            assert_eq!(OpenAi::default().line(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn an_image_is_a_data_uri_of_its_kind() {
        for (image, url) in [
            ("iVBORw0KGgoAAA", "data:image/png;base64,iVBORw0KGgoAAA"),
            ("/9j/4AAQ", "data:image/jpeg;base64,/9j/4AAQ"),
            ("data:image/webp;base64,UklGR", "data:image/webp;base64,UklGR"),
        ] {
            let mut messages = vec![message("user", "What?"), message("assistant", "so?")];
            show(&mut messages, &[image.to_owned()]);
            let parts =
                json!([{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]);
            assert_eq!(messages[0]["content"], parts);
        }
    }
}
