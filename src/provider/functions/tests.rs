use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::core::id::{Id, TaskKey};
use crate::core::protocol::{Leniency, Protocols};

/// How it is asked.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Unit {
    Celsius,
    Kelvin,
}

#[derive(Deserialize, JsonSchema)]
struct Place {
    latitude: f64,
    longitude: f64,
}

/// What the weather will be.
#[derive(Deserialize, JsonSchema)]
struct Forecast {
    /// Where.
    city: Option<String>,
    place: Option<Place>,
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 14))]
    days: u8,
    unit: Unit,
    #[serde(default)]
    words: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Weather {
    text: String,
    days: u8,
}

fn three() -> u8 {
    3
}

async fn forecast(_: CallCx, asked: Forecast) -> Result<Weather, Failure> {
    let unit = match asked.unit {
        Unit::Celsius => "C",
        Unit::Kelvin => "K",
    };
    let place = asked.place.map(|place| format!("{} {}", place.latitude, place.longitude));
    let place = asked.city.or(place).ok_or_else(|| Failure::new(Code::InvalidParams, "where?"))?;
    Ok(Weather { text: format!("{place} {unit} {}", asked.words.join(" ")), days: asked.days })
}

fn weather() -> Functions {
    let any = |_: CallCx, all: BTreeMap<String, Value>| async move { Ok::<usize, Failure>(all.len()) };
    let nothing = |_: CallCx, (): ()| async move { Ok::<(), Failure>(()) };
    let sleep = |_: CallCx, (): ()| async move {
        std::future::pending::<()>().await;
        Ok::<(), Failure>(())
    };
    Functions::new("weather/v1".parse().expect("a protocol"))
        .describe("What it will be like")
        .function("forecast", forecast)
        .function("count", any)
        .function("nothing", nothing)
        .function("sleep", sleep)
}

fn cx() -> CallCx {
    CallCx {
        key: TaskKey::alone(Id::parse("t").expect("an id")),
        attempt: 1,
        timeout: Duration::from_secs(1),
        cancel: CancellationToken::new(),
        traceparent: None,
        priority: crate::core::priority::Priority::NORMAL,
        output: Default::default(),
    }
}

fn violations(method: &str, params: Value) -> Vec<String> {
    let protocols = Protocols::with_files(&[weather().source().expect("derived")]).expect("it loads");
    let id = "weather/v1".parse().expect("a protocol");
    let method = protocols.method(&id, method).expect("the method");
    match method.validate(params, Leniency::Exact) {
        Ok(_) => Vec::new(),
        Err(found) => found.into_iter().map(|one| format!("{}: {}", one.path, one.problem)).collect(),
    }
}

#[test]
fn the_protocol_is_that_of_the_types() {
    let none: [&str; 0] = [];
    assert_eq!(violations("forecast", json!({"city": "Bonn", "unit": "kelvin", "days": 14})), none);
    assert_eq!(violations("forecast", json!({"city": null, "unit": "celsius"})), none);
    assert_eq!(
        violations("forecast", json!({"place": {"latitude": 1, "longitude": 2.5}, "unit": "kelvin"})),
        none
    );
    assert_eq!(violations("count", json!({"anything": [1]})), none);
    assert_eq!(violations("nothing", json!({})), none);
    let wrong =
        json!({"city": 1, "place": {"latitude": "x"}, "days": 15, "unit": "F", "words": [1], "wind": 1});
    let found = violations("forecast", wrong).join("\n");
    for path in ["city", "place.latitude", "place.longitude", "days", "unit", "words[0]", "wind"] {
        assert!(found.contains(&format!("params.{path}: ")), "{path} in\n{found}");
    }
    assert_eq!(violations("nothing", json!({"x": 1})).len(), 1);
}

#[tokio::test]
async fn a_function_gets_its_type_and_gives_its_own() {
    let protocols = Protocols::with_files(&[weather().source().expect("derived")]).expect("it loads");
    let id = "weather/v1".parse().expect("a protocol");
    let method = protocols.method(&id, "forecast").expect("the method");
    let params = json!({"city": "Bonn", "unit": "kelvin", "words": ["a", "b"]});
    let params = method.validate(params, Leniency::Exact).expect("valid");
    let answer = weather().call(&cx(), "forecast", params.into()).await.expect("an answer");
    assert_eq!(answer.result, json!({"text": "Bonn K a b", "days": 3}));
}

#[tokio::test]
async fn what_a_type_does_not_take_is_the_callers_mistake() {
    let params = json!({"city": "Bonn", "unit": "kelvin", "days": 300});
    let failure = weather().call(&cx(), "forecast", params).await.expect_err("refused");
    assert_eq!((failure.code, failure.retryable), (Code::InvalidParams, false));
    assert!(failure.message.starts_with("the parameters: "), "{failure}");
    let failure = weather().call(&cx(), "snow", json!({})).await.expect_err("refused");
    assert_eq!(failure.code, Code::MethodNotSupported);
}

#[tokio::test]
async fn a_call_ends_when_it_is_cancelled() {
    let cx = cx();
    cx.cancel.cancel();
    let failure = weather().call(&cx, "sleep", json!(null)).await.expect_err("cancelled");
    assert_eq!(failure.code, Code::TaskCancelled);
}

#[test]
fn functions_that_no_protocol_can_have_are_named_all_at_once() {
    let text = |_: CallCx, _: String| async move { Ok::<(), Failure>(()) };
    let twice = |_: CallCx, (): ()| async move { Ok::<(), Failure>(()) };
    let functions = Functions::new("odd/v1".parse().expect("a protocol"))
        .function("text", text)
        .function("again", twice)
        .function("again", twice);
    let error = functions.source().expect_err("refused");
    assert_eq!(
        error.to_string(),
        "functions of odd/v1: text: its parameters must be a struct with named fields, or a map; again is there twice"
    );
}
