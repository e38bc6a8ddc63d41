//! `echo/v1`: gives back what it gets, and fails on demand; for tests, examples and a first look.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{Answer, CallCx, Provider};
use crate::core::breaker::Ending;
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;

/// The longest `delay`, in seconds.
const DELAY_SECONDS_MAX: f64 = 10.0;

/// The provider of `echo/v1`.
#[derive(Debug)]
pub struct Echo {
    protocol: ProtocolId,
    clock: Arc<dyn Clock>,
}

impl Echo {
    /// Tells the time of `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Echo {
        Echo { protocol: "echo/v1".parse().expect("a protocol's name"), clock }
    }

    fn timestamp(&self) -> Value {
        let now = self.clock.now();
        let seconds = now.as_millis().div_euclid(1000);
        let millis = now.as_millis().rem_euclid(1000);
        // Written as text, as a float would round.
        let unix: Result<Value, _> = serde_json::from_str(&format!("{seconds}.{millis:03}"));
        json!({"timestamp": now.to_string(), "unix": unix.unwrap_or(seconds.into())})
    }
}

#[async_trait]
impl Provider for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }

    fn serves(&self, method: &str) -> bool {
        matches!(method, "echo" | "ping" | "timestamp" | "delay" | "error")
    }

    /// It fails as it is told, and only then.
    fn tells(&self, _: &Failure) -> Ending {
        Ending::Good
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let Value::Object(params) = params else {
            return Err(Failure::new(Code::InvalidParams, "the parameters are no object; name them"));
        };
        let result = match method {
            "echo" => echo(params),
            "ping" => json!({"response": params.get("message").cloned().unwrap_or_else(|| "pong".into())}),
            "timestamp" => self.timestamp(),
            "delay" => delay(cx, &params).await?,
            "error" => return Err(error(&params)?),
            _ => {
                return Err(Failure::new(
                    Code::MethodNotSupported,
                    format!("echo/v1 has no method {method}"),
                ));
            }
        };
        Ok(result.into())
    }
}

fn echo(params: Map<String, Value>) -> Value {
    let Some(message) = params.get("message").cloned() else {
        return json!({"echoed": params});
    };
    json!({"response": message, "result": message, "echoed": params})
}

async fn delay(cx: &CallCx, params: &Map<String, Value>) -> Result<Value, Failure> {
    let delayed = params.get("seconds").cloned().unwrap_or_else(|| 1.into());
    let seconds = delayed.as_f64().filter(|seconds| (0.0..=DELAY_SECONDS_MAX).contains(seconds));
    let Some(seconds) = seconds else {
        let message = format!("`seconds` is {delayed}; it must be from 0 to {DELAY_SECONDS_MAX}");
        return Err(Failure::new(Code::InvalidParams, message));
    };
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
        () = cx.cancel.cancelled() => return Err(Failure::new(Code::TaskCancelled, "the delay was cancelled")),
    }
    Ok(json!({"delayed": delayed, "response": params.get("message")}))
}

/// The failure that was asked for; asking for one that does not exist is a failure too.
fn error(params: &Map<String, Value>) -> Result<Failure, Failure> {
    let message = params.get("message").and_then(Value::as_str).unwrap_or("this error was asked for");
    let code = match params.get("code") {
        None => Code::TaskExecutionFailed,
        Some(value) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Code::find(&text).ok_or_else(|| {
                let what = format!("`code` is {value}; name one of the error codes, such as TASK_TIMEOUT");
                Failure::new(Code::InvalidParams, what)
            })?
        }
    };
    let failure = Failure::new(code, message);
    let retryable = params.get("retryable").and_then(Value::as_bool).unwrap_or(failure.retryable);
    Ok(Failure { retryable, ..failure })
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::core::clock::Timestamp;
    use crate::core::id::{Id, TaskKey};

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

    fn cx() -> CallCx {
        CallCx {
            key: TaskKey::alone(Id::parse("t").expect("an id")),
            attempt: 1,
            timeout: Duration::from_secs(60),
            cancel: CancellationToken::new(),
            traceparent: None,
            priority: crate::core::priority::Priority::NORMAL,
            output: Default::default(),
        }
    }

    async fn call(method: &str, params: Value) -> Result<Value, Failure> {
        let echo = Echo::new(Arc::new(Stopped));
        assert_eq!(echo.serves(method), method != "other");
        echo.call(&cx(), method, params).await.map(|answer| answer.result)
    }

    #[tokio::test(start_paused = true)]
    async fn each_method_answers_as_documented() {
        for (method, params, expected) in [
            (
                "echo",
                json!({"message": "Hello", "n": 12_345_678_901_234_567_890_u64}),
                json!({"response": "Hello", "result": "Hello",
                       "echoed": {"message": "Hello", "n": 12_345_678_901_234_567_890_u64}}),
            ),
            ("echo", json!({}), json!({"echoed": {}})),
            (
                "echo",
                json!({"message": null}),
                json!({"response": null, "result": null, "echoed": {"message": null}}),
            ),
            ("ping", json!({}), json!({"response": "pong"})),
            ("ping", json!({"message": [1]}), json!({"response": [1]})),
            (
                "timestamp",
                json!({}),
                json!({"timestamp": "2026-01-02T03:04:05.060Z", "unix": 1_767_323_045.06}),
            ),
            ("delay", json!({"seconds": 10, "message": "late"}), json!({"delayed": 10, "response": "late"})),
            ("delay", json!({}), json!({"delayed": 1, "response": null})),
        ] {
            let found = call(method, params.clone()).await.expect(method);
            if method == "timestamp" {
                assert_eq!(
                    found.to_string(),
                    r#"{"timestamp":"2026-01-02T03:04:05.060Z","unix":1767323045.060}"#
                );
            } else {
                assert_eq!(found, expected, "{method} {params}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_fails_as_asked() {
        for (method, params, code, retryable, message) in [
            ("error", json!({"message": "boom"}), Code::TaskExecutionFailed, false, "boom"),
            ("error", json!({"code": "task_timeout"}), Code::TaskTimeout, true, "this error was asked for"),
            (
                "error",
                json!({"code": -29003, "retryable": false}),
                Code::TaskTimeout,
                false,
                "this error was asked for",
            ),
            ("error", json!({"code": "NO_SUCH"}), Code::InvalidParams, false, "`code` is \"NO_SUCH\""),
            (
                "delay",
                json!({"seconds": 10.5}),
                Code::InvalidParams,
                false,
                "`seconds` is 10.5; it must be from 0 to 10",
            ),
            ("delay", json!({"seconds": "1"}), Code::InvalidParams, false, "`seconds`"),
            ("echo", json!([]), Code::InvalidParams, false, "no object"),
            ("other", json!({}), Code::MethodNotSupported, false, "no method other"),
        ] {
            let failure = call(method, params).await.expect_err(message);
            assert_eq!((failure.code, failure.retryable), (code, retryable), "{failure}");
            assert!(failure.message.contains(message), "{failure}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_ends_when_it_is_cancelled() {
        let cx = cx();
        cx.cancel.cancel();
        let failure = Echo::new(Arc::new(Stopped)).call(&cx, "delay", json!({"seconds": 10})).await;
        assert_eq!(failure.expect_err("cancelled").code, Code::TaskCancelled);
    }
}
