//! A suite that any provider can be run through, with what it declares itself: its methods, and the examples of its
//! protocol (or of its own introduction). It changes nothing but what the examples change.
//!
//! Two checks are exact only where the provider has a method `$/echo`, which gives back its parameters; where it has
//! not, they are skipped. Where there are no examples either, no method is called at all, which is said.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::message::ECHO;
use super::{Line, Rpc, Settings, lock};
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::protocol::{ProtocolId, ProtocolSpec, Type};
use crate::provider::guard::{self, Guard};
use crate::provider::{CallCx, Health, Provider};

/// How long any call may take here.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls at once.
const CROWD: usize = 16;
/// A text that is much for a line and little for a result.
const LARGE_BYTES: usize = 1024 * 1024;
/// A method that nobody has.
const UNKNOWN: &str = "conformance.unknown";

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed,
    /// It could not be tried.
    Skipped,
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What became of it.
    pub verdict: Verdict,
    /// What was seen.
    pub text: String,
}

/// A call to try: the method, its parameters, and what comes of it if that is known.
#[derive(Debug, Clone)]
struct Example {
    method: String,
    params: Value,
    result: Option<Value>,
}

/// A suite under way.
struct Suite<'a> {
    rpc: Arc<Rpc>,
    provider: Guard,
    protocol: Option<&'a ProtocolSpec>,
    examples: Vec<Example>,
    has_echo: bool,
    result_bytes_max: usize,
}

/// `Ok`: what was seen. `Err`: what is wrong.
type Seen = Result<String, String>;

/// Runs a provider through the suite. `protocol`: what it is held against. `tell` hears of each check when it is made.
pub async fn run(
    settings: Settings,
    protocol: Option<&ProtocolSpec>,
    clock: Arc<dyn Clock>,
    tell: &mut (dyn FnMut(&Check) + Send),
) {
    let result_bytes_max = settings.result_bytes_max;
    let rpc = Arc::new(Rpc::new(settings, protocol.cloned().unwrap_or_else(nothing), clock));
    let provider = Guard::new(Arc::clone(&rpc) as Arc<dyn Provider>, &guard::Settings::default());
    let mut suite =
        Suite { rpc, provider, protocol, examples: Vec::new(), has_echo: false, result_bytes_max };
    let mut told = |name, seen: Option<Seen>| {
        let (verdict, text) = match seen {
            Some(Ok(text)) => (Verdict::Passed, text),
            Some(Err(text)) => (Verdict::Failed, text),
            None => (Verdict::Skipped, why_skipped(name).to_owned()),
        };
        tell(&Check { name, verdict, text });
        verdict != Verdict::Failed
    };
    if !told("introduction", Some(suite.start().await)) {
        // What has started is not left to whoever comes later.
        suite.provider.stop().await;
        return;
    }
    told("protocol", suite.differences());
    told("examples", suite.examples_hold().await);
    told("unknown method", Some(suite.unknown().await));
    told("bad parameters", suite.bad_parameters().await);
    told("values", suite.values().await);
    told("large values", suite.large().await);
    told("huge output", suite.huge().await);
    told("concurrency", suite.crowd().await);
    told("cancel", suite.cancel().await);
    told("timeout", suite.timeout().await);
    told("health", Some(suite.health().await));
    told("crash while idle", suite.crash_idle().await);
    told("crash in a call", suite.crash_busy().await);
    told("stop", Some(suite.stop().await));
}

fn why_skipped(name: &str) -> &'static str {
    match name {
        "protocol" => "no protocol was named",
        "examples" => "no examples: nothing was called; neither the protocol nor the introduction has any",
        "concurrency" | "cancel" | "timeout" => "no examples: there is nothing to call",
        "bad parameters" => "no method says what its parameters look like",
        "values" | "large values" | "huge output" => "there is no $/echo",
        // Also where there is nothing to call.
        _ => "only for processes that we start",
    }
}

impl Suite<'_> {
    async fn start(&mut self) -> Seen {
        self.provider.start().await.map_err(|failure| told(&failure))?;
        let described = lock(&self.rpc.described).clone();
        self.examples = self.protocol.map(examples_of).unwrap_or_default();
        for method in &described.methods {
            let own = method.examples.iter().filter(|_| self.protocol.is_none());
            self.examples.extend(own.filter_map(|example| {
                let params = example.get("params")?.clone();
                Some(Example { method: method.name.clone(), params, result: example.get("result").cloned() })
            }));
        }
        self.examples.retain(|example| described.serves(&example.method));
        let params = json!({"a": 1});
        self.has_echo = self.call(ECHO, params.clone()).await == Ok(params);
        let (name, version) = (described.name.as_deref(), described.version.as_deref());
        let (Some(name), Some(version)) = (name, version) else {
            return Err("the answer to $/initialize has no name, or no version".to_owned());
        };
        Ok(format!("{name} {version}, {} methods", described.methods.len()))
    }

    fn differences(&self) -> Option<Seen> {
        let protocol = self.protocol?;
        let described = lock(&self.rpc.described).clone();
        if described.methods.is_empty() {
            return Some(Err("the answer to $/initialize names no methods".to_owned()));
        }
        let found = described.differences(protocol);
        Some(if found.is_empty() { Ok(format!("it is {}", protocol.id)) } else { Err(found.join("; ")) })
    }

    /// Also finds out which of them takes longest: the other checks are made with that one.
    async fn examples_hold(&mut self) -> Option<Seen> {
        if self.examples.is_empty() {
            return None;
        }
        let (mut wrong, mut longest) = (Vec::new(), (Duration::ZERO, 0));
        for (place, Example { method, params, result }) in self.examples.iter().enumerate() {
            let began = Instant::now();
            let ended = self.call(method, params.clone()).await;
            longest = longest.max((began.elapsed(), place));
            let declared = self.protocol.and_then(|protocol| protocol.find(method)).map(|(method, _)| method);
            match (ended, result) {
                (Err(failure), _) => wrong.push(format!("{method} {params}: {}", told(&failure))),
                (Ok(found), Some(expected)) if !shows(&found, expected) => {
                    wrong.push(format!("{method} {params}: {found} instead of {expected}"));
                }
                (Ok(found), _) => {
                    let odd = declared.map(|declared| declared.check_result(&found)).unwrap_or_default();
                    wrong.extend(odd.first().map(|violation| format!("{method} {params}: {violation}")));
                }
            }
        }
        self.examples.swap(0, longest.1);
        Some(if wrong.is_empty() {
            Ok(format!("{} give what they should", self.examples.len()))
        } else {
            Err(wrong.join("; "))
        })
    }

    async fn unknown(&self) -> Seen {
        match self.call(UNKNOWN, json!({})).await {
            Err(failure) if failure.code == Code::MethodNotSupported => Ok("is refused".to_owned()),
            Err(failure) => Err(format!("must be error -32601, not {}", told(&failure))),
            Ok(result) => Err(format!("must be error -32601, not the result {result}")),
        }
    }

    async fn bad_parameters(&self) -> Option<Seen> {
        let (method, params) = self.bad_call()?;
        Some(match self.call(&method, params.clone()).await {
            Err(failure) if failure.code == Code::InvalidParams => Ok(format!("{method} refuses {params}")),
            Err(failure) => Err(format!("{method} {params} must be error -32602, not {}", told(&failure))),
            Ok(result) => Err(format!("{method} {params} must be error -32602, not the result {result}")),
        })
    }

    /// A call that its protocol, or what the provider says of itself, does not allow.
    fn bad_call(&self) -> Option<(String, Value)> {
        let odd = json!({"of": "another type"});
        let described = lock(&self.rpc.described).clone();
        let declared = self.protocol.into_iter().flat_map(|protocol| &protocol.methods);
        for method in declared.filter(|method| !method.is_pattern() && described.serves(&method.name)) {
            let typed = method.params.iter().find(|(_, spec)| !spec.may_be(&[Type::Object]));
            if let Some((name, _)) = typed {
                return Some((method.name.clone(), json!({name: odd})));
            }
        }
        described.methods.iter().filter(|_| self.protocol.is_none()).find_map(|method| {
            let properties = method.params.as_ref()?.get("properties")?.as_object()?;
            let (name, _) = properties.iter().find(|(_, schema)| {
                schema.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "object")
            })?;
            Some((method.name.clone(), json!({name: odd})))
        })
    }

    async fn values(&self) -> Option<Seen> {
        let values = json!({
            "text": "\u{e4}\u{f6} \u{4e2d}\u{6587} \u{1f600} \" \\ \n \t \u{0} \u{2028} \u{7f}", "null": null,
            "list": [1, -2.5, true, [], {}], "large": 9007199254740991_i64, "empty": "",
        });
        self.echoes(values, "text of every language, null, numbers and lists come back").await
    }

    async fn large(&self) -> Option<Seen> {
        self.echoes(json!({"text": "\u{e4}".repeat(LARGE_BYTES / 2)}), "1 MiB comes back").await
    }

    async fn echoes(&self, params: Value, well: &str) -> Option<Seen> {
        if !self.has_echo {
            return None;
        }
        Some(match self.call(ECHO, params.clone()).await {
            Ok(result) if result == params => Ok(well.to_owned()),
            Ok(_) => Err("what came back is not what was sent".to_owned()),
            Err(failure) => Err(told(&failure)),
        })
    }

    async fn huge(&self) -> Option<Seen> {
        if !self.has_echo {
            return None;
        }
        let text = "x".repeat(self.result_bytes_max.saturating_add(super::ENVELOPE_BYTES));
        let ended = self.call(ECHO, json!({"text": text})).await;
        let refused = match ended {
            Err(failure) if failure.code == Code::ResultTooLarge => "an answer above the bound is refused",
            Err(failure) => return Some(Err(told(&failure))),
            Ok(_) => return Some(Err("an answer above the bound was taken".to_owned())),
        };
        Some(self.lives().await.map(|()| format!("{refused}, and the next call is answered")))
    }

    async fn crowd(&self) -> Option<Seen> {
        self.example()?;
        Some(self.all_at_once().await)
    }

    async fn all_at_once(&self) -> Seen {
        let calls = (0..CROWD).map(|number| async move {
            match (self.has_echo, self.examples.first()) {
                (true, _) => {
                    let params = json!({"number": number});
                    let ended = self.call(ECHO, params.clone()).await.map_err(|failure| told(&failure))?;
                    if ended == params {
                        Ok(())
                    } else {
                        Err("a call was given the answer of another".to_owned())
                    }
                }
                (false, Some(Example { method, params, .. })) => {
                    self.call(method, params.clone()).await.map(drop).map_err(|failure| told(&failure))
                }
                (false, None) => self.lives().await,
            }
        });
        let ended = futures_util::future::join_all(calls).await;
        ended.into_iter().collect::<Result<Vec<()>, String>>()?;
        Ok(format!("{CROWD} calls at once are all answered"))
    }

    async fn cancel(&self) -> Option<Seen> {
        let (method, params) = self.example()?;
        Some(self.cancelled(method, params).await)
    }

    async fn cancelled(&self, method: String, params: Value) -> Seen {
        let cx = cx(CALL_TIMEOUT);
        let cancel = cx.cancel.clone();
        let began = Instant::now();
        let call = self.provider.call(&cx, &method, params);
        let (ended, ()) = tokio::join!(call, async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            cancel.cancel();
        });
        let took = began.elapsed().as_millis();
        if let Err(failure) = &ended
            && failure.details.contains_key("abandoned")
        {
            return Err("the call did not end after $/cancel, and could not be ended".to_owned());
        }
        self.lives().await?;
        Ok(format!("{method} ended after {took} ms, and the next call is answered"))
    }

    async fn timeout(&self) -> Option<Seen> {
        let (method, params) = self.example()?;
        Some(self.timed_out(method, params).await)
    }

    async fn timed_out(&self, method: String, params: Value) -> Seen {
        let ended = self.provider.call(&cx(Duration::from_millis(1)), &method, params).await;
        let how = match ended {
            Ok(_) => "answered in time",
            Err(failure) if matches!(failure.code, Code::TaskTimeout | Code::ProviderOverloaded) => {
                "was ended"
            }
            Err(failure) if failure.code == Code::MethodNotSupported => "answered in time",
            Err(failure) => return Err(told(&failure)),
        };
        self.lives().await?;
        Ok(format!("{method} with a limit of 1 ms {how}, and the next call is answered"))
    }

    async fn health(&self) -> Seen {
        match self.provider.health().await {
            Health::Up => Ok("$/ping is answered".to_owned()),
            Health::Degraded(why) | Health::Down(why) => Err(why),
        }
    }

    async fn crash_idle(&self) -> Option<Seen> {
        let killed = self.kill().await?;
        Some(self.lives().await.map(|()| format!("{killed} killed, and the next call is answered")))
    }

    async fn crash_busy(&self) -> Option<Seen> {
        let (method, params) = self.any_call();
        let calls = (0..CROWD).map(|_| self.call(&method, params.clone()));
        let (ended, killed) = tokio::join!(futures_util::future::join_all(calls), async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.kill().await
        });
        let killed = killed?;
        let lost = |failure: &Failure| failure.code == Code::ConnectionLost;
        for failure in ended.iter().filter_map(|one| one.as_ref().err()) {
            let known = lost(failure) || failure.code == Code::MethodNotSupported;
            if !(known || failure.not_begun && failure.retryable) {
                return Some(Err(told(failure)));
            }
        }
        let count = ended.iter().filter(|one| one.as_ref().is_err_and(lost)).count();
        let told = format!("{killed} killed, {count} of {CROWD} calls lost, and the next call is answered");
        Some(self.lives().await.map(|()| told))
    }

    async fn stop(&self) -> Seen {
        let began = Instant::now();
        self.provider.stop().await;
        let took = began.elapsed();
        if took >= super::child::STOP_GRACE {
            return Err(
                "it did not end by itself after $/shutdown and the end of its standard input".to_owned()
            );
        }
        Ok(format!("it ended within {} ms", took.as_millis()))
    }

    /// Kills every process there is, and waits for their ends; `None` where none is ours.
    async fn kill(&self) -> Option<usize> {
        let line = self.rpc.line();
        let Some(Line::Processes(pool, _)) = line else { return None };
        let members = pool.members();
        members.iter().for_each(|member| member.kill());
        futures_util::future::join_all(members.iter().map(|member| member.ended())).await;
        Some(members.len())
    }

    /// Whether a call is answered, by whatever.
    async fn lives(&self) -> Result<(), String> {
        let (method, params) = self.any_call();
        match self.call(&method, params).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.code == Code::MethodNotSupported => Ok(()),
            Err(failure) => Err(format!("the next call was not answered: {}", told(&failure))),
        }
    }

    fn any_call(&self) -> (String, Value) {
        self.example().unwrap_or_else(|| (UNKNOWN.to_owned(), json!({})))
    }

    /// A call that does something; `None`: nothing is known that could be called.
    fn example(&self) -> Option<(String, Value)> {
        let example = self.examples.first().map(|example| (example.method.clone(), example.params.clone()));
        example.or_else(|| self.has_echo.then(|| (ECHO.to_owned(), json!({"a": 1}))))
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, Failure> {
        self.provider.call(&cx(CALL_TIMEOUT), method, params).await.map(|answer| answer.result)
    }
}

impl fmt::Debug for Suite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// The examples that the protocol has, with defaults filled in as a worker does.
fn examples_of(protocol: &ProtocolSpec) -> Vec<Example> {
    let mut all = Vec::new();
    for method in protocol.methods.iter().filter(|method| !method.is_pattern()) {
        for example in &method.examples {
            let filled = method.validate(example.params.clone(), crate::core::protocol::Leniency::Exact);
            let params = filled.map_or_else(|_| example.params.clone(), Value::Object);
            all.push(Example { method: method.name.clone(), params, result: example.result.clone() });
        }
    }
    all
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

/// The protocol of who is held against none.
fn nothing() -> ProtocolSpec {
    ProtocolSpec {
        id: "conformance/v1".parse::<ProtocolId>().expect("a protocol's name"),
        description: None,
        extends: None,
        methods: Vec::new(),
        author: None,
        license: None,
        documentation_url: None,
        tags: Vec::new(),
        source: String::new(),
    }
}

fn cx(timeout: Duration) -> CallCx {
    CallCx {
        key: TaskKey::alone(Id::from_idempotency_key("conformance")),
        attempt: 1,
        timeout,
        cancel: CancellationToken::new(),
        traceparent: None,
        priority: Priority::NORMAL,
        output: Default::default(),
    }
}

fn told(failure: &Failure) -> String {
    let printed = failure.details.get("stderr").and_then(Value::as_str).unwrap_or_default().trim();
    let last = printed.lines().last().map(|line| format!(" (it printed: {line})")).unwrap_or_default();
    format!("{} {}{last}", failure.code, failure.message)
}
