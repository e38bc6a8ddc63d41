use serde_json::json;

use super::*;
use crate::core::limit::{Key, Pace};

fn local(name: &str, per_second: f64, burst: f64) -> Rule {
    Rule {
        name: name.to_owned(),
        protocol: protocol(),
        method: None,
        provider: None,
        key: None,
        pace: Pace { per_second, burst },
        scope: Scope::Local,
        cost: Cost::One,
    }
}

fn protocol() -> ProtocolId {
    "llm/v1".parse().expect("valid")
}

impl Limits {
    /// These, without a store.
    pub(crate) fn here(rules: Vec<Rule>) -> Limits {
        let limits = Limits::default();
        limits.replace(rules);
        limits
    }
}

fn limits(rules: Vec<Rule>) -> Limits {
    Limits::here(rules)
}

fn size() -> Cost {
    Cost::Param(vec!["size".to_owned()])
}

#[tokio::test(start_paused = true)]
async fn other_rules_hold_at_once_and_what_was_taken_of_those_before_goes_back_to_its_bucket() {
    let limits = limits(vec![local("all", 0.1, 2.0), local("other", 1.0, 9.0)]);
    let Admission::Granted { permits, .. } = ask(&limits, json!({})).await else { panic!("it is full") };
    assert_eq!(wait_of(&ask(&limits, json!({})).await), Ok(0));
    limits.pause(&protocol(), Duration::from_secs(600));
    let protocol = protocol();
    let opened = limits.opened(&protocol);
    tokio::pin!(opened);
    assert!(futures_util::poll!(&mut opened).is_pending());
    limits.replace(vec![local("all", 0.5, 2.0)]);
    assert!(opened.await.is_some(), "what is held back is asked again");
    let wait = wait_of(&ask(&limits, json!({})).await).expect_err("the bucket is as empty as it was");
    limits.settle(permits, Used::Nothing).await;
    assert!(wait_of(&ask(&limits, json!({})).await).map_or_else(|next| next < wait, |_| true));
}

#[tokio::test(start_paused = true)]
async fn a_slower_limit_is_not_opened_by_calls_that_the_faster_one_took_in() {
    let limits = limits(vec![local("all", 10.0, 10.0)]);
    let Admission::Granted { permits, .. } = ask(&limits, json!({})).await else { panic!("it is full") };
    limits.replace(vec![local("all", 0.1, 10.0)]);
    while wait_of(&ask(&limits, json!({})).await).is_ok() {}
    limits.settle(permits, Used::Nothing).await;
    wait_of(&ask(&limits, json!({})).await).expect("what was given back");
    wait_of(&ask(&limits, json!({})).await).expect_err("and no more");
}

async fn ask(limits: &Limits, params: Value) -> Admission {
    let wants = limits.early(&protocol(), "chat", &params, &|_| None);
    limits.admit(wants, HOLD, AHEAD).await.expect("nobody is asked")
}

fn wait_of(admission: &Admission) -> Result<u128, u128> {
    match admission {
        Admission::Granted { wait, .. } => Ok(wait.as_millis()),
        Admission::Refused { wait, .. } => Err(wait.as_millis()),
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_limit_gave_goes_back_where_another_refuses() {
    let wide = local("wide", 100.0, 2.0);
    let narrow = Rule { key: Some(Key::Param(vec!["model".to_owned()])), ..local("narrow", 0.1, 1.0) };
    let limits = limits(vec![wide, narrow]);
    assert_eq!(wait_of(&ask(&limits, json!({"model": "a"})).await), Ok(0));
    for _ in 0..50 {
        assert_eq!(wait_of(&ask(&limits, json!({"model": "a"})).await), Err(10_000));
    }
    assert_eq!(wait_of(&ask(&limits, json!({"model": "b"})).await), Ok(0), "the wide one has one left");
}

#[tokio::test(start_paused = true)]
async fn what_was_reserved_is_settled_with_what_was_used() {
    let limits = limits(vec![Rule { cost: Cost::Tokens { estimate: 9.0 }, ..local("tokens", 10.0, 100.0) }]);
    let params = json!({"max_tokens": 100});
    let Admission::Granted { permits, .. } = ask(&limits, params).await else { panic!("it is full") };
    let mut answer = Answer::from(json!({"content": "a", "prompt_tokens": 1}));
    assert_eq!(Used::told(&answer), Used::Tokens(1.0));
    answer.metadata.insert("usage".to_owned(), json!({"prompt_tokens": 3, "completion_tokens": 7}));
    assert_eq!(Used::told(&answer), Used::Tokens(10.0));
    assert_eq!(Used::told(&Answer::from(json!("text"))), Used::Reserve);
    limits.settle(permits, Used::told(&answer)).await;
    assert_eq!(wait_of(&ask(&limits, json!({"max_tokens": 90})).await), Ok(0), "90 of 100 are there again");
}

#[tokio::test(start_paused = true)]
async fn a_protocol_is_left_alone_as_long_as_it_is_told_and_then_tried_with_a_few() {
    let limits = limits(vec![local("all", 2.0, 3.0)]);
    assert_eq!(limits.opened(&protocol()).await, None);
    assert!(!limits.is_paused(&protocol()));
    limits.pause(&protocol(), Duration::from_secs(3));
    assert!(limits.is_paused(&protocol()));
    let began = Instant::now();
    assert_eq!(limits.opened(&protocol()).await, Some(5));
    assert_eq!(began.elapsed().as_secs(), 3);
    assert!(!limits.is_paused(&protocol()));
    assert_eq!(limits.opened(&protocol()).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_told_too_late_counts_for_the_key_in_the_header_too() {
    let key = Some(Key::Header("x-tenant".to_owned()));
    let limits =
        limits(vec![Rule { key, cost: size(), ..local("tenants", 0.1, 1.0) }, local("all", 9.0, 9.0)]);
    let (written, filled) = (json!({}), json!({"size": 1}));
    let wants = |written: Option<&Value>, tenant: &'static str| {
        limits.late(&protocol(), "chat", written, &filled, &|name| {
            (name == "x-tenant").then(|| tenant.to_owned())
        })
    };
    let mut told = Vec::new();
    for tenant in ["a", "a", "b"] {
        let admitted = limits.admit(wants(Some(&written), tenant), HOLD, HOLD).await;
        told.push(wait_of(&admitted.expect("nobody is asked")));
    }
    assert_eq!(told, [Ok(0), Err(10_000), Ok(0)]);
    assert_eq!((wants(Some(&written), "a").len(), wants(Some(&filled), "a").len()), (1, 0), "told before");
    assert_eq!(wants(None, "a").len(), 2, "who was asked for nothing is asked for all");
}

#[tokio::test(start_paused = true)]
async fn what_was_used_is_a_debt_for_a_day_at_the_most() {
    let limits = limits(vec![Rule { cost: Cost::Tokens { estimate: 1.0 }, ..local("tokens", 1.0, 1.0) }]);
    let Admission::Granted { permits, .. } = ask(&limits, json!({"max_tokens": 1})).await else {
        panic!("it is full")
    };
    limits.settle(permits, Used::Tokens(1e300)).await;
    let day = 24 * 3600 * 1_000;
    assert_eq!(wait_of(&ask(&limits, json!({"max_tokens": 1})).await), Err(day));
}

#[tokio::test(start_paused = true)]
async fn the_wait_of_a_place_that_is_not_taken_along_is_no_reason_to_go() {
    let dear = Rule { cost: size(), ..local("all", 1.0, 50.0) };
    let limits = limits(vec![dear]);
    ask(&limits, json!({"size": 40})).await;
    let Admission::Granted { wait, ahead, .. } = ask(&limits, json!({"size": 40})).await else {
        panic!("a cheap one would be let in")
    };
    assert_eq!((wait.as_secs(), ahead), (30, Duration::ZERO));
}

#[test]
fn a_place_in_line_is_carried_with_the_message() {
    let global =
        |name: &str| Rule { scope: Scope::Global, method: Some("chat".to_owned()), ..local(name, 1.0, 1.0) };
    let limits = limits(vec![global("a"), local("here", 1.0, 1.0)]);
    let wants = limits.early(&protocol(), "chat", &json!({}), &|_| None);
    assert!(limits.early(&protocol(), "embed", &json!({}), &|_| None).len() == 1);
    let (told, rest) = limits.carry(Permits { taken: wants.clone() });
    assert_eq!((told.as_str(), rest.taken.len()), ("a=1", 1));
    let (permits, left) = limits.carried(&told, wants.clone());
    assert_eq!((permits.taken.len(), left.len()), (1, 1));
    assert_eq!(limits.carried("nonsense,a=x", wants.clone()), (Permits::default(), wants));
}
