//! A virtual host of its own for each test, through RabbitMQ's management API, and what an operator or a
//! producer in another language would do to it.
//!
//! The HTTP client is the least that does: one request a connection, blocking.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where a server is, from the environment.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// `HOST:PORT` of the management API.
    api: String,
    /// `HOST:PORT` of AMQP.
    amqp: String,
}

impl Server {
    /// The server that `GLEITZEIT_AMQP_URL` and `GLEITZEIT_RABBITMQ_API` name, if they do.
    #[allow(clippy::disallowed_methods, reason = "tests learn their servers from the environment")]
    pub(crate) fn from_environment() -> Option<Server> {
        let amqp = std::env::var("GLEITZEIT_AMQP_URL").ok()?;
        let api = std::env::var("GLEITZEIT_RABBITMQ_API").ok()?;
        Server::at(&amqp, &api)
    }

    /// The server with these addresses.
    pub(crate) fn at(amqp: &str, api: &str) -> Option<Server> {
        let amqp = amqp.rsplit_once('@')?.1.split('/').next()?.to_owned();
        let api = api.strip_prefix("http://")?.trim_end_matches('/').to_owned();
        Some(Server { api, amqp })
    }

    /// An address with any login and virtual host.
    pub(crate) fn url(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{user}:{password}@{}/{vhost}", self.amqp)
    }

    /// Creates a virtual host. It is deleted when the value is dropped.
    pub(crate) fn vhost(&self) -> VirtualHost {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("gleitzeit-test-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let vhost = VirtualHost { server: self.clone(), name, users: Vec::new() };
        vhost.call("PUT", &format!("/api/vhosts/{}", vhost.name), &json!({}));
        vhost.allow("guest", ".*", ".*", ".*");
        vhost
    }
}

/// A virtual host of one test.
#[derive(Debug)]
pub(crate) struct VirtualHost {
    server: Server,
    /// Its name.
    pub(crate) name: String,
    users: Vec<String>,
}

impl VirtualHost {
    /// Its address for the user `guest`.
    pub(crate) fn url(&self) -> String {
        self.url_of("guest", "guest")
    }

    /// Its address for another login.
    pub(crate) fn url_of(&self, user: &str, password: &str) -> String {
        self.server.url(user, password, &self.name)
    }

    /// A user (the password is `secret`) with these permissions on this virtual host.
    pub(crate) fn user(&mut self, configure: &str, write: &str, read: &str) -> String {
        let name = format!("{}-{}", self.name, self.users.len());
        self.call("PUT", &format!("/api/users/{name}"), &json!({"password": "secret", "tags": ""}));
        self.users.push(name.clone());
        self.allow(&name, configure, write, read);
        name
    }

    /// Closes every connection to this virtual host, once there are at least `expected`. Returns how many.
    pub(crate) fn close_connections(&self, expected: usize) -> usize {
        let path = format!("/api/vhosts/{}/connections", self.name);
        let names = eventually("the connections to be listed", || {
            let listed = self.call("GET", &path, &Value::Null);
            let names: Vec<String> =
                listed.as_array()?.iter().filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect();
            (names.len() >= expected).then_some(names)
        });
        for name in &names {
            // It may have gone meanwhile, and that is as good.
            let path = format!("/api/connections/{}", percent_encoded(name));
            let _ = request(&self.server.api, "DELETE", &path, &Value::Null);
        }
        names.len()
    }

    /// Declares a durable queue.
    pub(crate) fn declare_queue(&self, name: &str, arguments: &Value) {
        let path = format!("/api/queues/{}/{name}", self.name);
        self.call("PUT", &path, &json!({"durable": true, "arguments": arguments}));
    }

    /// What the server says of a queue.
    pub(crate) fn queue(&self, name: &str) -> Value {
        self.call("GET", &format!("/api/queues/{}/{name}", self.name), &Value::Null)
    }

    /// Binds a queue to an exchange.
    pub(crate) fn bind(&self, exchange: &str, queue: &str, routing_key: &str) {
        let path = format!("/api/bindings/{}/e/{exchange}/q/{queue}", self.name);
        self.call("POST", &path, &json!({"routing_key": routing_key}));
    }

    /// Deletes a queue.
    pub(crate) fn delete_queue(&self, name: &str) {
        self.call("DELETE", &format!("/api/queues/{}/{name}", self.name), &Value::Null);
    }

    /// Takes up to 100 messages out of a queue.
    pub(crate) fn take(&self, queue: &str) -> Vec<Value> {
        let wish = json!({"count": 100, "ackmode": "ack_requeue_false", "encoding": "auto"});
        let taken = self.call("POST", &format!("/api/queues/{}/{queue}/get", self.name), &wish);
        taken.as_array().cloned().unwrap_or_default()
    }

    /// Publishes as a foreign producer does; tells whether a queue took it.
    pub(crate) fn publish(&self, exchange: &str, routing_key: &str, body: &str, properties: &Value) -> bool {
        let path = format!("/api/exchanges/{}/{exchange}/publish", self.name);
        let message = json!({
            "routing_key": routing_key, "payload": body, "payload_encoding": "string", "properties": properties,
        });
        self.call("POST", &path, &message)["routed"].as_bool().unwrap_or(false)
    }

    /// The messages that wait in a queue, at most 100, without taking them; none where there is no queue.
    pub(crate) fn peek(&self, queue: &str) -> Vec<Value> {
        let path = format!("/api/queues/{}/{queue}/get", self.name);
        let how = json!({"count": 100, "ackmode": "ack_requeue_true", "encoding": "auto"});
        match request(&self.server.api, "POST", &path, &how) {
            Ok((200, Value::Array(messages))) => messages,
            Ok((404, _)) => Vec::new(),
            other => panic!("POST {path}: {other:?}"),
        }
    }

    fn allow(&self, user: &str, configure: &str, write: &str, read: &str) {
        let rights = json!({"configure": configure, "write": write, "read": read});
        self.call("PUT", &format!("/api/permissions/{}/{user}", self.name), &rights);
    }

    /// One request to the management API; the answer's body.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        match request(&self.server.api, method, path, body) {
            Ok((status, answer)) if status < 300 => answer,
            Ok((status, answer)) => panic!("{method} {path}: {status} {answer}"),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }
}

impl Drop for VirtualHost {
    fn drop(&mut self) {
        let _ = request(&self.server.api, "DELETE", &format!("/api/vhosts/{}", self.name), &Value::Null);
        for user in &self.users {
            let _ = request(&self.server.api, "DELETE", &format!("/api/users/{user}"), &Value::Null);
        }
    }
}

/// After so long something hangs, however busy the machine is.
const HANGS: Duration = Duration::from_secs(240);

/// Asks until there is an answer; fails when it hangs.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + HANGS;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {HANGS:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn request(api: &str, method: &str, path: &str, body: &Value) -> std::io::Result<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(api)?;
    stream.set_read_timeout(Some(Duration::from_secs(100)))?;
    // guest:guest
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {api}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { joined_chunks(body) } else { body.to_owned() };
    Ok((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
}

fn joined_chunks(mut body: &str) -> String {
    let mut joined = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || size > rest.len() {
            break;
        }
        joined.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    joined
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
