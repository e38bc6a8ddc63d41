//! What a call asks for: the parameters of `llm/v1` in a form that the API of any server is made from.
//!
//! The parameters are valid by the method's schema, so that what is read here has the right type.

use serde_json::{Map, Value, json};

use crate::core::code::Code;
use crate::core::failure::Failure;

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// The model's name, as the server knows it.
    pub(super) model: String,
    /// What the model is to do.
    pub(super) wish: Wish,
    /// Sampling temperature, 0 to 2.
    pub(super) temperature: Option<Value>,
    /// Most tokens to generate.
    pub(super) max_tokens: Option<Value>,
    /// Whether the server should answer in pieces.
    pub(super) stream: bool,
    /// What is to be read and put into the request.
    pub(super) attached: Attached,
}

/// What a model is to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wish {
    /// Continue a conversation, about images or not.
    Chat {
        /// Each with `role` and `content`, and whatever else the caller wrote.
        messages: Vec<Map<String, Value>>,
        /// In base64; for the last message of the user.
        images: Vec<String>,
    },
    /// Complete a text.
    Complete {
        /// The text.
        prompt: String,
        /// The system prompt.
        system: Option<String>,
    },
    /// Turn a text into a vector.
    Embed {
        /// The text.
        text: String,
    },
}

/// Files that a call names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Attached {
    /// Texts, in order.
    pub(super) texts: Vec<String>,
    /// Images, in order.
    pub(super) images: Vec<String>,
    /// A folder whose files are to be read after those.
    pub(super) folder: Option<Folder>,
    /// Whether each file is a call of its own.
    pub(super) batch: bool,
}

/// A folder that a call names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    /// Where it is.
    pub(super) path: String,
    /// Which files of it; all unless the call says it.
    pub(super) pattern: String,
    /// Whether pictures are images, and nothing else is looked for.
    pub(super) is_of_images: bool,
}

/// What was read from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// A text, as it is to be appended.
    Text(String),
    /// An image in base64.
    Image(String),
}

impl Attached {
    /// Whether there is nothing to read.
    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.images.is_empty() && self.folder.is_none()
    }
}

impl Request {
    /// Reads the parameters of `method`.
    ///
    /// # Errors
    /// `METHOD_NOT_SUPPORTED`; `INVALID_PARAMS` for what a schema cannot say.
    pub(super) fn read(method: &str, params: Value) -> Result<Request, Failure> {
        let Value::Object(mut params) = params else {
            return Err(invalid("the parameters are no object; name them"));
        };
        let attached = Attached::read(method, &mut params)?;
        let wish = match method {
            "chat" => Wish::Chat { messages: messages(&mut params), images: Vec::new() },
            "vision" => {
                Wish::Chat { messages: messages(&mut params), images: images(&mut params, &attached)? }
            }
            "generate" | "complete" => Wish::Complete {
                prompt: text(&mut params, "prompt").unwrap_or_default(),
                system: text(&mut params, "system"),
            },
            "embed" => Wish::Embed { text: text(&mut params, "text").unwrap_or_default() },
            _ => {
                let message = format!("there is no method {method} of language models");
                return Err(Failure::new(Code::MethodNotSupported, message));
            }
        };
        Ok(Request {
            model: text(&mut params, "model").unwrap_or_default(),
            wish,
            temperature: params.remove("temperature"),
            max_tokens: params.remove("max_tokens"),
            stream: params.remove("stream") == Some(Value::Bool(true)),
            attached,
        })
    }

    /// With a part of a file in it: in the last message of the user, or after the prompt.
    pub(super) fn with(mut self, part: Part) -> Request {
        match (&mut self.wish, part) {
            (Wish::Chat { messages, .. }, Part::Text(addition)) => {
                let message = last_of_user(messages);
                let content = text(message, "content").unwrap_or_default();
                message.insert("content".to_owned(), (content + &addition).into());
            }
            (Wish::Chat { images, .. }, Part::Image(image)) => images.push(image),
            (Wish::Complete { prompt: text, .. } | Wish::Embed { text }, Part::Text(addition)) => {
                text.push_str(&addition);
            }
            // No schema has images for these.
            (Wish::Complete { .. } | Wish::Embed { .. }, Part::Image(_)) => {}
        }
        self
    }
}

impl Attached {
    fn read(method: &str, params: &mut Map<String, Value>) -> Result<Attached, Failure> {
        let (path, pattern) = (text(params, "directory"), text(params, "file_pattern"));
        if path.is_none() && pattern.is_some() {
            return Err(invalid("`file_pattern` chooses among the files of `directory`, which is missing"));
        }
        let folder = path.map(|path| Folder {
            path,
            pattern: pattern.unwrap_or_else(|| "*".to_owned()),
            is_of_images: method == "vision",
        });
        let mut attached = Attached { folder, ..Attached::default() };
        attached.texts.extend(text(params, "file_path"));
        attached.texts.extend(texts(params, "files"));
        attached.images.extend(text(params, "image_path"));
        attached.images.extend(texts(params, "image_paths"));
        attached.batch = params.remove("batch_mode") == Some(Value::Bool(true));
        if attached.batch && attached.is_empty() {
            return Err(invalid("`batch_mode` makes one call for each file, and no file is named"));
        }
        Ok(attached)
    }
}

/// The conversation; `prompt` is short for one message of the user.
fn messages(params: &mut Map<String, Value>) -> Vec<Map<String, Value>> {
    if let Some(prompt) = text(params, "prompt") {
        return vec![message_of_user(&prompt)];
    }
    let Some(Value::Array(messages)) = params.remove("messages") else { return Vec::new() };
    let object = |message| match message {
        Value::Object(message) => Some(message),
        _ => None,
    };
    messages.into_iter().filter_map(object).collect()
}

fn images(params: &mut Map<String, Value>, attached: &Attached) -> Result<Vec<String>, Failure> {
    let mut images = texts(params, "images");
    images.extend(text(params, "image_data"));
    if images.is_empty() && attached.images.is_empty() && attached.folder.is_none() {
        return Err(invalid(
            "there is no image: give `images`, `image_data`, `image_path`, `image_paths` or `directory`",
        ));
    }
    Ok(images)
}

/// The message that files and images are added to; there is always one.
pub(super) fn last_of_user(messages: &mut Vec<Map<String, Value>>) -> &mut Map<String, Value> {
    let is_users = |message: &Map<String, Value>| message.get("role").and_then(Value::as_str) == Some("user");
    let at = messages.iter().rposition(is_users).unwrap_or_else(|| {
        messages.push(message_of_user(""));
        messages.len() - 1
    });
    &mut messages[at]
}

fn message_of_user(content: &str) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("user"));
    message.insert("content".to_owned(), json!(content));
    message
}

fn text(params: &mut Map<String, Value>, key: &str) -> Option<String> {
    match params.remove(key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn texts(params: &mut Map<String, Value>, key: &str) -> Vec<String> {
    let Some(Value::Array(items)) = params.remove(key) else { return Vec::new() };
    items.into_iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn invalid(message: &str) -> Failure {
    Failure::new(Code::InvalidParams, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, params: Value) -> Request {
        Request::read(method, params).expect("a request")
    }

    #[test]
    fn a_prompt_is_one_message_of_the_user() {
        let by_prompt = read("chat", json!({"prompt": "Hi", "model": "m", "temperature": 0.7}));
        let by_messages = read(
            "chat",
            json!({"messages": [{"role": "user", "content": "Hi"}], "model": "m", "temperature": 0.7}),
        );
        assert_eq!(by_prompt, by_messages);
    }

    #[test]
    fn a_file_goes_to_the_last_message_of_the_user() {
        let mut request = read(
            "chat",
            json!({"model": "m", "messages": [
                {"role": "user", "content": "first"}, {"role": "user", "content": "second"},
                {"role": "assistant", "content": "so?"},
            ]}),
        );
        request = request.with(Part::Text(" and a file".to_owned()));
        let Wish::Chat { messages, .. } = &request.wish else { panic!("{request:?}") };
        let contents: Vec<&Value> = messages.iter().map(|message| &message["content"]).collect();
        assert_eq!(contents, ["first", "second and a file", "so?"]);
    }

    #[test]
    fn a_conversation_without_a_user_gets_one() {
        let system = json!({"model": "m", "messages": [{"role": "system", "content": "be kind"}]});
        let mut request = read("chat", system);
        request = request.with(Part::Text("the file".to_owned()));
        let Wish::Chat { messages, .. } = &request.wish else { panic!("{request:?}") };
        assert_eq!(
            messages[1],
            *json!({"role": "user", "content": "the file"}).as_object().expect("an object")
        );
    }

    #[test]
    fn what_a_schema_cannot_say_is_refused() {
        for (method, params, part) in [
            ("vision", json!({"prompt": "What?"}), "there is no image"),
            ("chat", json!({"prompt": "Hi", "batch_mode": true}), "no file is named"),
            ("chat", json!({"prompt": "Hi", "file_pattern": "*.txt"}), "`directory`, which is missing"),
        ] {
            let failure = Request::read(method, params).expect_err(part);
            assert_eq!((failure.code, failure.retryable), (Code::InvalidParams, false));
            assert!(failure.message.contains(part), "{failure}");
        }
        let failure = Request::read("sing", json!({})).expect_err("no such method");
        assert_eq!(failure.code, Code::MethodNotSupported);
    }
}
