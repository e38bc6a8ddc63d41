//! Ollama's own API: `/api/chat`, `/api/generate`, `/api/embed` (`/api/embeddings` before 0.3); `/api/tags` and
//! `/api/ps` list its models.
//!
//! An answer is one JSON object, or with `stream` one per piece and line; the last one has `done` and the counts.
//! Models are never pulled from here: that takes gigabytes and minutes, and is the operator's decision.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use super::dialect::{Dialect, Line, Written, names};
use super::refusal::Reply;
use super::request::{Request, Wish, last_of_user};
use super::spoken::{Spoken, Usage};

/// Servers of this kind.
#[derive(Debug, Default)]
pub(super) struct Ollama {
    /// It has no `/api/embed`.
    is_old: AtomicBool,
}

impl Dialect for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn base(&self, url: &str) -> String {
        url.to_owned()
    }

    fn written(&self, request: &Request) -> Written {
        let mut body = json!({"model": request.model});
        let path = match &request.wish {
            Wish::Chat { messages, images } => {
                let mut messages = messages.clone();
                if !images.is_empty() {
                    let images: Vec<&str> = images.iter().map(|image| without_scheme(image)).collect();
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
            Wish::Embed { text } if self.is_old.load(Ordering::Relaxed) => {
                body["prompt"] = json!(text);
                return Written { path: "/api/embeddings", body };
            }
            Wish::Embed { text } => {
                body["input"] = json!(text);
                return Written { path: "/api/embed", body };
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
        Written { path, body }
    }

    fn line<'a>(&self, line: &'a [u8]) -> Line<'a> {
        Line::Json(line)
    }

    fn hear(&self, spoken: &mut Spoken, mut piece: Map<String, Value>) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let vector = piece.get_mut("embeddings").and_then(|all| all.get_mut(0)).map(Value::take);
        if let Some(Value::Array(vector)) = vector.or_else(|| piece.remove("embedding")) {
            spoken.vector = Some(vector);
        }
        let message = piece.get("message");
        let content = message.map_or(piece.get("response"), |message| message.get("content"));
        spoken.is_answer |= content.is_some() || spoken.vector.is_some();
        spoken.content.push_str(content.and_then(Value::as_str).unwrap_or_default());
        spoken.role = text(message.and_then(|message| message.get("role"))).or(spoken.role.take());
        spoken.model = text(piece.get("model")).or(spoken.model.take());
        // The seed's word for an answer that ends without `done`.
        spoken.may_end_early = true;
        if piece.get("done") == Some(&Value::Bool(true)) {
            spoken.is_done = true;
            spoken.finish_reason = Some(text(piece.get("done_reason")).unwrap_or_else(|| "stop".to_owned()));
        }
        let count = |key: &str| piece.get(key).and_then(Value::as_u64);
        if spoken.is_done || count("prompt_eval_count").is_some() {
            // What it had in its cache it does not count.
            let (prompt, completion) = (count("prompt_eval_count"), count("eval_count"));
            spoken.usage = Some(Usage { prompt: prompt.unwrap_or(0), completion: completion.unwrap_or(0) });
        }
        spoken.duration = piece.remove("total_duration").or(spoken.duration.take());
    }

    /// An address that is not there: an embedding is asked for as it was before 0.3.
    fn learn(&self, request: &Request, reply: &Reply) -> bool {
        let is_missing = reply.status == 404 && !self.lacks_model(reply);
        let is_embed = matches!(request.wish, Wish::Embed { .. });
        is_embed && is_missing && !self.is_old.swap(true, Ordering::Relaxed)
    }

    fn lacks_model(&self, reply: &Reply) -> bool {
        let words = reply.error().words;
        reply.status == 404 && words.contains("model") && words.contains("not found")
    }

    fn fetch(&self, model: &str) -> String {
        format!("run `ollama pull {model}` there")
    }

    fn lists(&self) -> (&'static str, Option<&'static str>) {
        ("/api/tags", Some("/api/ps"))
    }

    fn models(&self, list: &Value) -> Option<Vec<String>> {
        names(list, "models", "name")
    }

    /// A name without a tag means `latest`.
    fn full_name(&self, model: &str) -> String {
        let name = model.rsplit('/').next().unwrap_or(model);
        if name.contains(':') { model.to_owned() } else { format!("{model}:latest") }
    }
}

/// An image of a data URI as the base64 in it.
fn without_scheme(image: &str) -> &str {
    match image.strip_prefix("data:").and_then(|rest| rest.split_once("base64,")) {
        Some((_, data)) => data,
        None => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        for (model, full) in [
            ("llama3.2", "llama3.2:latest"),
            ("llama3.2:1b", "llama3.2:1b"),
            ("hub:5000/me/model", "hub:5000/me/model:latest"),
        ] {
            assert_eq!(Ollama::default().full_name(model), full);
        }
    }

    #[test]
    fn an_image_may_be_a_data_uri() {
        for image in ["iVBORw0KGgo=", "data:image/png;base64,iVBORw0KGgo="] {
            assert_eq!(without_scheme(image), "iVBORw0KGgo=");
        }
    }
}
