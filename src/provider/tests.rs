//! What the protocols promise, held against the providers that serve them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::CallCx;
use super::echo::Echo;
use super::guard::{Guard, Settings};
use super::mcp_tools::McpTools;
use super::python::{self, Python};
use super::registry::{Ask, Called, Providers};
use crate::core::balance::Wish;
use crate::core::clock::{Clock, Timestamp};
use crate::core::id::{Id, TaskKey};
use crate::core::protocol::{Leniency, Protocols};

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_767_323_045_060)
    }
    fn chance(&self) -> f64 {
        0.0
    }
    fn new_id(&self) -> Id {
        Id::parse("new").expect("an id")
    }
}

/// The address of a server that answers everybody with this head (without the length) and body, while the set lives.
pub(super) async fn answering(head: &str, body: &str) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let answer = format!("{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a client");
            // A request that is small is there whole.
            let mut request = vec![0; 64 * 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, tasks)
}

/// Whether `found` has everything that `expected` has; an object may have more keys.
fn shows(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(key, value)| found.get(key).is_some_and(|found| shows(found, value)))
        }
        _ => found == expected,
    }
}

#[tokio::test]
async fn the_examples_of_every_protocol_are_true() {
    #[allow(clippy::disallowed_methods, reason = "the machine's python3, wherever it is")]
    let search_path = std::env::var_os("PATH").expect("a search path");
    let python = Python::new(python::Settings { search_path, site: false, ..python::Settings::default() });
    let mut providers = Providers::default();
    let guard = |provider| Arc::new(Guard::new(provider, &Settings::default()));
    providers.register(guard(Arc::new(Echo::new(Arc::new(Stopped))))).expect("its own name");
    providers.register(guard(Arc::new(McpTools::new()))).expect("its own name");
    providers.register(guard(Arc::new(python))).expect("its own name");
    assert_eq!(providers.start().await, []);

    let protocols = Protocols::builtin().expect("they load");
    let mut run = 0;
    for protocol in protocols.iter() {
        for method in protocol.methods.iter().filter(|method| providers.serves(&protocol.id, &method.name)) {
            let shown = format!("{} of {}", method.name, protocol.id);
            for example in &method.examples {
                let params = method.validate(example.params.clone(), Leniency::Exact).expect(&shown);
                let cx = CallCx {
                    key: TaskKey::alone(Id::parse("t").expect("an id")),
                    attempt: 1,
                    timeout: Duration::from_secs(60),
                    cancel: CancellationToken::new(),
                    traceparent: None,
                    priority: crate::core::priority::Priority::NORMAL,
                    output: Default::default(),
                };
                let ask = Ask { protocol: &protocol.id, method: &method.name, wish: Wish::default() };
                let called = providers.call(&cx, &ask, params.into(), &Stopped).await;
                let Called::Made { outcome: ended, .. } = called else { panic!("{shown}: {called:?}") };
                run += 1;
                // It fails on demand; the others ask a server, and none is configured here.
                let asks = ["resources/read", "resource.*", "prompts/get", "prompt.*"];
                if shown == "error of echo/v1" || asks.contains(&method.name.as_str()) {
                    ended.expect_err(&shown);
                    continue;
                }
                let result = ended.unwrap_or_else(|failure| panic!("{shown}: {failure}")).result;
                assert_eq!(method.check_result(&result), [], "{shown}: {result}");
                if let Some(expected) = &example.result {
                    assert!(shows(&result, expected), "{shown}: {result} instead of {expected}");
                }
            }
        }
    }
    assert!(run >= 20, "{run}");
    providers.stop().await;
}
