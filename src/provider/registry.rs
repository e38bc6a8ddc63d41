//! The providers of this worker, by protocol.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Provider;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;

/// Every provider of this worker. Calls go to those that serve the method and have started, in turn.
#[derive(Debug, Default)]
pub struct Providers {
    by_protocol: HashMap<ProtocolId, Lane>,
}

/// The providers of one protocol.
#[derive(Debug, Default)]
struct Lane {
    entries: Vec<Entry>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Entry {
    provider: Arc<dyn Provider>,
    state: State,
}

#[derive(Debug)]
enum State {
    New,
    Started,
    Failed(Failure),
}

/// Two providers have the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is already a provider named {0:?}; give each its own name")]
pub struct DuplicateName(String);

impl Providers {
    /// Adds a provider.
    ///
    /// # Errors
    /// [`DuplicateName`], across all protocols.
    pub fn register(&mut self, provider: Arc<dyn Provider>) -> Result<(), DuplicateName> {
        if self.entries().any(|entry| entry.provider.name() == provider.name()) {
            return Err(DuplicateName(provider.name().to_owned()));
        }
        let lane = self.by_protocol.entry(provider.protocol().clone()).or_default();
        lane.entries.push(Entry { provider, state: State::New });
        Ok(())
    }

    /// Starts every provider that has not started. One that fails does not keep the others from working.
    ///
    /// Returns the names of those that failed, with the reasons; calls to them answer with the reason too.
    pub async fn start(&mut self) -> Vec<(String, Failure)> {
        let mut failed = Vec::new();
        for entry in self.by_protocol.values_mut().flat_map(|lane| &mut lane.entries) {
            entry.state = match entry.provider.start().await {
                Ok(()) => State::Started,
                Err(failure) => {
                    failed.push((entry.provider.name().to_owned(), failure.clone()));
                    State::Failed(failure)
                }
            };
        }
        failed
    }

    /// Stops every provider, all at once.
    pub async fn stop(&self) {
        futures_util::future::join_all(self.entries().map(|entry| entry.provider.stop())).await;
    }

    /// The protocols that at least one provider is registered for, in order.
    #[must_use]
    pub fn protocols(&self) -> Vec<ProtocolId> {
        let mut protocols: Vec<ProtocolId> = self.by_protocol.keys().cloned().collect();
        protocols.sort();
        protocols
    }

    /// Whether some provider of the protocol has started.
    #[must_use]
    pub fn has_started(&self, protocol: &ProtocolId) -> bool {
        self.by_protocol.get(protocol).is_some_and(|lane| lane.entries.iter().any(Entry::is_started))
    }

    /// Whether a call of this method would find a provider.
    #[must_use]
    pub fn serves(&self, protocol: &ProtocolId, method: &str) -> bool {
        self.choose(protocol, method).is_ok()
    }

    /// The provider for one call. `method` comes without the protocol's prefix.
    ///
    /// # Errors
    /// `PROVIDER_NOT_AVAILABLE` if nothing here serves it.
    pub fn choose(&self, protocol: &ProtocolId, method: &str) -> Result<&Arc<dyn Provider>, Failure> {
        let unavailable = |reason: String| {
            let message = format!("no provider for {method} of {protocol} in this worker: {reason}");
            Failure::new(Code::ProviderNotAvailable, message)
        };
        let Some(lane) = self.by_protocol.get(protocol) else {
            return Err(unavailable("configure one for this protocol".to_owned()));
        };
        let serving: Vec<&Entry> =
            lane.entries.iter().filter(|entry| entry.provider.serves(method)).collect();
        if serving.is_empty() {
            let names: Vec<&str> = lane.entries.iter().map(|entry| entry.provider.name()).collect();
            return Err(unavailable(format!("{} does not serve this method", names.join(", "))));
        }
        let started: Vec<&Entry> = serving.iter().copied().filter(|entry| entry.is_started()).collect();
        if started.is_empty() {
            let reasons: Vec<String> = serving.into_iter().map(Entry::reason).collect();
            return Err(unavailable(reasons.join("; ")));
        }
        let turn = lane.turn.fetch_add(1, Ordering::Relaxed);
        Ok(&started[turn % started.len()].provider)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.by_protocol.values().flat_map(|lane| &lane.entries)
    }
}

impl Entry {
    fn is_started(&self) -> bool {
        match &self.state {
            State::Started => true,
            State::New | State::Failed(_) => false,
        }
    }

    fn reason(&self) -> String {
        let name = self.provider.name();
        match &self.state {
            State::New | State::Started => format!("{name} is not started"),
            State::Failed(failure) => format!("{name} could not start: {}", failure.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::core::id::{Id, TaskKey};
    use crate::provider::{Answer, CallCx};

    /// Answers with its own name.
    #[derive(Debug)]
    struct Named {
        name: &'static str,
        protocol: ProtocolId,
        is_broken: bool,
    }

    #[async_trait]
    impl Provider for Named {
        fn name(&self) -> &str {
            self.name
        }
        fn protocol(&self) -> &ProtocolId {
            &self.protocol
        }
        fn serves(&self, method: &str) -> bool {
            method == "who"
        }
        async fn start(&self) -> Result<(), Failure> {
            if self.is_broken {
                return Err(Failure::new(Code::ProviderInitializationFailed, "python3 is missing"));
            }
            Ok(())
        }
        async fn call(&self, _: &CallCx, _: &str, _: Value) -> Result<Answer, Failure> {
            Ok(json!(self.name).into())
        }
    }

    fn protocol(text: &str) -> ProtocolId {
        text.parse().expect("a protocol")
    }

    fn named(name: &'static str, of: &str) -> Arc<Named> {
        Arc::new(Named { name, protocol: protocol(of), is_broken: name.starts_with("broken") })
    }

    async fn started(names: &[&'static str]) -> (Providers, Vec<(String, Failure)>) {
        let mut providers = Providers::default();
        for name in names {
            providers.register(named(name, "a/v1")).expect("its own name");
        }
        let failed = providers.start().await;
        (providers, failed)
    }

    async fn ask(providers: &Providers, of: &str, method: &str) -> Result<Value, Failure> {
        let cx = CallCx {
            key: TaskKey::alone(Id::parse("t").expect("an id")),
            attempt: 1,
            timeout: std::time::Duration::from_secs(1),
            cancel: CancellationToken::new(),
            traceparent: None,
        };
        let provider = providers.choose(&protocol(of), method)?;
        provider.call(&cx, method, Value::Null).await.map(|answer| answer.result)
    }

    #[tokio::test]
    async fn calls_go_round_among_those_that_started() {
        let (providers, failed) = started(&["one", "broken", "two"]).await;
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].0, "broken");
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(ask(&providers, "a/v1.0", "who").await.expect("an answer"));
        }
        assert_eq!(answers, ["one", "two", "one", "two"].map(Value::from));
    }

    #[tokio::test]
    async fn who_cannot_be_served_is_told_why() {
        let (providers, _) = started(&["broken"]).await;
        for (of, method, part) in [
            ("b/v1", "who", "no provider for who of b/v1 in this worker: configure one"),
            ("a/v1.2", "who", "configure one"),
            ("a/v1", "what", "broken does not serve this method"),
            ("a/v1", "who", "broken could not start: python3 is missing"),
        ] {
            let failure = ask(&providers, of, method).await.expect_err(part);
            assert_eq!((failure.code, failure.retryable), (Code::ProviderNotAvailable, true));
            assert!(failure.message.contains(part), "{failure}");
            assert!(!providers.serves(&protocol(of), method));
        }
    }

    #[tokio::test]
    async fn a_name_is_given_once() {
        let (mut providers, _) = started(&["one"]).await;
        assert_eq!(providers.register(named("one", "b/v1")), Err(DuplicateName("one".to_owned())));
        assert_eq!(providers.protocols(), [protocol("a/v1")]);
    }
}
