//! A small server that speaks Ollama's HTTP API, on a free loopback port: `/api/chat`, `/api/generate`,
//! `/api/embed`, `/api/embeddings`, `/api/tags`; whole with `stream: false`, else line by line, as Ollama does.
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

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What looks at its health ask for.
const HEALTH: &str = "/api/tags";

/// The server; it ends with this value.
#[derive(Debug)]
pub(crate) struct Ollama {
    address: SocketAddr,
    seen: Arc<Seen>,
    listening: Option<JoinHandle<()>>,
}

/// A request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
    /// When.
    pub(crate) at: Instant,
}

/// How the server does, whatever is asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Before each answer.
    pub(crate) pause: Duration,
    /// Every request is turned away with 503.
    pub(crate) is_out: bool,
}

#[derive(Debug, Default)]
struct Seen {
    asked: Mutex<Vec<Asked>>,
    /// Requests whose client went away before they were answered.
    left: Mutex<usize>,
    /// Every connection that there was.
    clients: Mutex<Vec<TcpStream>>,
    ends: AtomicBool,
    manner: Mutex<Manner>,
}

impl Ollama {
    pub(crate) fn start() -> Ollama {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let listening = std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&shared);
                shared.clients.lock().expect("no thread panics with it").extend(client.try_clone());
                // It ends with its client or, at the latest, with the server.
                std::thread::spawn(move || {
                    serve(&client, &shared);
                    // The server has a handle of it too, so that dropping ours would not close it.
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Ollama { address, seen, listening: Some(listening) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far, in order, but for looks at its health.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let all = self.seen.asked.lock().expect("no thread panics with it");
        all.iter().filter(|asked| asked.path != HEALTH).cloned().collect()
    }

    /// How often somebody looked at its health.
    pub(crate) fn looks(&self) -> usize {
        let all = self.seen.asked.lock().expect("no thread panics with it");
        all.iter().filter(|asked| asked.path == HEALTH).count()
    }

    /// From now on.
    pub(crate) fn does(&self, manner: Manner) {
        *self.seen.manner.lock().expect("no thread panics with it") = manner;
    }

    /// When conversations were asked for.
    pub(crate) fn chats(&self) -> Vec<Instant> {
        self.asked().iter().filter(|asked| asked.path == "/api/chat").map(|asked| asked.at).collect()
    }

    /// How many clients went away without their answer.
    pub(crate) fn left(&self) -> usize {
        *self.seen.left.lock().expect("no thread panics with it")
    }

    /// What a model says to a text.
    pub(crate) fn answer_to(text: &str) -> String {
        format!("What I think of {} words", text.split_whitespace().count())
    }
}

impl Drop for Ollama {
    fn drop(&mut self) {
        self.seen.ends.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
        for client in self.seen.clients.lock().expect("no thread panics with it").drain(..) {
            // It may have gone already.
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn serve(client: &TcpStream, seen: &Seen) {
    let mut out = client;
    let mut input = BufReader::new(client);
    while let Some((method, asked)) = read(&mut input) {
        let model = asked.body["model"].as_str().unwrap_or_default().to_owned();
        let earlier = {
            let mut all = seen.asked.lock().expect("no thread panics with it");
            let earlier = all.iter().filter(|one| one.body["model"] == asked.body["model"]).count();
            all.push(asked.clone());
            earlier
        };
        if model == "silent" {
            // A read ends when the client goes away.
            let _ = input.get_mut().read(&mut [0]);
            *seen.left.lock().expect("no thread panics with it") += 1;
            return;
        }
        let manner = *seen.manner.lock().expect("no thread panics with it");
        std::thread::sleep(manner.pause);
        let answered = match manner.is_out {
            true => whole(&mut out, 503, "", &json!({"error": "out of order"})),
            false => answer(&mut out, &method, &asked, earlier),
        };
        if answered.is_err() {
            return;
        }
    }
}

fn read(input: &mut BufReader<&TcpStream>) -> Option<(String, Asked)> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some((method, Asked { path, headers, body, at: Instant::now() }))
}

fn answer(out: &mut &TcpStream, method: &str, asked: &Asked, earlier: usize) -> std::io::Result<()> {
    let model = asked.body["model"].as_str().unwrap_or_default();
    match (model, earlier) {
        ("absent", _) => {
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
            return whole(
                out,
                500,
                "",
                &json!({"error": "llama runner process has terminated: signal: killed"}),
            );
        }
        ("choosy", _) => return whole(out, 400, "", &json!({"error": "\"choosy\" does not support chat"})),
        ("garbled", _) => return write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
        ("cut", _) => {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{{\"model\":")?;
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        ("endless", _) => {
            write!(out, "HTTP/1.1 200 OK\r\n\r\n")?;
            loop {
                out.write_all(&[b' '; 65_536])?;
            }
        }
        _ => {}
    }
    match (method, asked.path.as_str()) {
        ("GET", "/api/tags") => {
            let model = |name: &str| json!({"name": name, "model": name, "size": 2_019_393_189_u64});
            whole(
                out,
                200,
                "",
                &json!({"models": [model("llama3.2:latest"), model("nomic-embed-text:latest")]}),
            )
        }
        ("POST", "/api/chat") => {
            let last =
                asked.body["messages"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
            let said = Ollama::answer_to(last["content"].as_str().unwrap_or_default());
            let piece = |content: &str| json!({"message": {"role": "assistant", "content": content}});
            speak(out, asked, &said, piece)
        }
        ("POST", "/api/generate") => {
            let said = Ollama::answer_to(asked.body["prompt"].as_str().unwrap_or_default());
            speak(out, asked, &said, |content| json!({"response": content}))
        }
        ("POST", "/api/embed") => {
            let body = json!({"model": model, "embeddings": [vector(&asked.body["input"])], "total_duration": 14_143_917,
                "load_duration": 1_019_500, "prompt_eval_count": 8});
            whole(out, 200, "", &body)
        }
        ("POST", "/api/embeddings") => {
            whole(out, 200, "", &json!({"embedding": vector(&asked.body["prompt"])}))
        }
        _ => write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\n\r\n404 page not found"),
    }
}

/// An answer of a model, whole or in pieces.
fn speak(
    out: &mut &TcpStream,
    asked: &Asked,
    said: &str,
    piece: impl Fn(&str) -> Value,
) -> std::io::Result<()> {
    let named = |content: &str, done: bool| {
        let mut object = json!({"model": asked.body["model"], "created_at": "2026-01-02T03:04:05.678901Z"});
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
    if asked.body["stream"] == json!(false) {
        return whole(out, 200, "", &counted(said));
    }
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let (first, second) = said.split_at(said.len() / 2);
    let last = match asked.body["model"].as_str() {
        Some("stumbling") => json!({"error": "an error was encountered while running the model"}),
        _ => counted(""),
    };
    for line in [named(first, false), named(second, false), last] {
        let line = format!("{line}\n");
        write!(out, "{:x}\r\n{line}\r\n", line.len())?;
    }
    write!(out, "0\r\n\r\n")
}

fn whole(out: &mut &TcpStream, status: u16, headers: &str, body: &Value) -> std::io::Result<()> {
    out.set_write_timeout(Some(Duration::from_secs(30)))?;
    let body = body.to_string();
    let length = body.len();
    let kind = "Content-Type: application/json; charset=utf-8\r\n";
    write!(out, "HTTP/1.1 {status} Status\r\n{kind}{headers}Content-Length: {length}\r\n\r\n{body}")
}

fn vector(text: &Value) -> Value {
    let length = text.as_str().unwrap_or_default().len();
    json!([0.5, -0.25, length])
}
