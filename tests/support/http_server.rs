//! A small HTTP server on a free loopback port, for servers that tests need: what it answers follows from the
//! request and from how often the same was asked before.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Writes the answer to a request. An error ends the connection.
pub(crate) type Answer = fn(&mut &TcpStream, &Told<'_>) -> std::io::Result<()>;

/// The server; it ends with this value.
#[derive(Debug)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    seen: Arc<Seen>,
    listening: Option<JoinHandle<()>>,
}

/// A request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
    /// When.
    pub(crate) at: Instant,
}

/// What an answer is made of.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) asked: &'a Asked,
    /// Every request before it.
    pub(crate) before: &'a [Asked],
    pub(crate) manner: Manner,
}

/// How the server does, whatever is asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Before each answer.
    pub(crate) pause: Duration,
    /// Every request is turned away with 503.
    pub(crate) is_out: bool,
    /// The models that it has; `None`: the usual ones. It answers for others too.
    pub(crate) models: Option<&'static [&'static str]>,
    /// It has none but `models`.
    pub(crate) is_strict: bool,
    /// The key that it asks for.
    pub(crate) key: Option<&'static str>,
    /// Only what was asked before is in memory.
    pub(crate) is_cold: bool,
    /// It is of years ago.
    pub(crate) is_old: bool,
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

impl HttpServer {
    /// With the model `silent` it never answers.
    pub(crate) fn start(answer: Answer) -> HttpServer {
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
                    serve(&client, &shared, answer);
                    // The server has a handle of it too, so that dropping ours would not close it.
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        HttpServer { address, seen, listening: Some(listening) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.seen.asked.lock().expect("no thread panics with it").clone()
    }

    /// From now on.
    pub(crate) fn does(&self, manner: Manner) {
        *self.seen.manner.lock().expect("no thread panics with it") = manner;
    }

    /// How many clients went away without their answer.
    pub(crate) fn left(&self) -> usize {
        *self.seen.left.lock().expect("no thread panics with it")
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.seen.clients.lock().expect("no thread panics with it").len()
    }
}

impl Drop for HttpServer {
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

fn serve(client: &TcpStream, seen: &Seen, answer: Answer) {
    let mut out = client;
    let mut input = BufReader::new(client);
    while let Some(asked) = read(&mut input) {
        let before = {
            let mut all = seen.asked.lock().expect("no thread panics with it");
            let before = all.clone();
            all.push(asked.clone());
            before
        };
        if asked.body["model"] == "silent" {
            // A read ends when the client goes away.
            let _ = input.get_mut().read(&mut [0]);
            *seen.left.lock().expect("no thread panics with it") += 1;
            return;
        }
        let manner = *seen.manner.lock().expect("no thread panics with it");
        std::thread::sleep(manner.pause);
        let answered = match manner.is_out {
            true => whole(&mut out, 503, "", &json!({"error": "out of order"})),
            false => answer(&mut out, &Told { asked: &asked, before: &before, manner }),
        };
        if answered.is_err() {
            return;
        }
    }
}

fn read(input: &mut BufReader<&TcpStream>) -> Option<Asked> {
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
    Some(Asked { method, path, headers, body, at: Instant::now() })
}

impl Told<'_> {
    /// The model that was asked for.
    pub(crate) fn model(&self) -> &str {
        self.asked.body["model"].as_str().unwrap_or_default()
    }

    /// How often that model was asked before.
    pub(crate) fn earlier(&self) -> usize {
        self.before.iter().filter(|one| one.body["model"] == self.asked.body["model"]).count()
    }

    /// Whether an answer is wanted in pieces.
    pub(crate) fn wants_pieces(&self, unless_told: bool) -> bool {
        self.asked.body["stream"].as_bool().unwrap_or(unless_told)
    }
}

/// An answer at once.
pub(crate) fn whole(out: &mut &TcpStream, status: u16, headers: &str, body: &Value) -> std::io::Result<()> {
    out.set_write_timeout(Some(Duration::from_secs(30)))?;
    let body = body.to_string();
    let length = body.len();
    let kind = "Content-Type: application/json; charset=utf-8\r\n";
    write!(out, "HTTP/1.1 {status} Status\r\n{kind}{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// An answer in pieces of this media type; with `is_cut` the connection is closed after the last of them.
pub(crate) fn pieces(
    out: &mut &TcpStream,
    kind: &str,
    pieces: &[String],
    is_cut: bool,
) -> std::io::Result<()> {
    out.set_write_timeout(Some(Duration::from_secs(30)))?;
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for piece in pieces {
        write!(out, "{:x}\r\n{piece}\r\n", piece.len())?;
    }
    if is_cut {
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    write!(out, "0\r\n\r\n")
}

/// A body that does not end.
pub(crate) fn endless(out: &mut &TcpStream) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 200 OK\r\n\r\n")?;
    loop {
        out.write_all(&[b' '; 65_536])?;
    }
}

/// What a model says to a text.
pub(crate) fn answer_to(text: &str) -> String {
    format!("What I think of {} words", text.split_whitespace().count())
}

/// The vector of a text.
pub(crate) fn vector(text: &Value) -> Value {
    let length = text.as_str().unwrap_or_default().len();
    json!([0.5, -0.25, length])
}
