//! Limits of single providers among others of their protocol.

use super::*;
use crate::core::limit::{Cost, Pace, Rule, Scope};

/// A limit of `one`, of this worker's calls.
fn limit(per_second: f64, burst: f64, cost: Cost) -> Rule {
    Rule {
        name: "l".to_owned(),
        protocol: protocol("a/v1"),
        method: None,
        provider: Some("one".to_owned()),
        key: None,
        pace: Pace { per_second, burst },
        scope: Scope::Local,
        cost,
    }
}

async fn limited<const N: usize>(names: [&'static str; N], rule: Rule) -> (Providers, [Arc<Named>; N]) {
    let (providers, all) = started(names).await;
    (providers.with_limits(Limits::here(vec![rule])), all)
}

/// A call with these parameters, and until it is given up.
async fn call(providers: &Providers, params: Value, cancel: CancellationToken) -> Called {
    let cx = CallCx {
        key: TaskKey::alone(Id::parse("t").expect("an id")),
        attempt: 1,
        timeout: Duration::from_secs(60),
        cancel,
        traceparent: None,
        priority: crate::core::priority::Priority::NORMAL,
        output: Default::default(),
    };
    let protocol = protocol("a/v1");
    let ask = Ask { protocol: &protocol, method: "who", wish: Wish::default() };
    providers.call(&cx, &ask, params, &Luck(0.0)).await
}

fn never() -> Failure {
    Failure::new(Code::ProviderNotAvailable, "it has no such tool").not_begun().final_now()
}

#[tokio::test(start_paused = true)]
async fn who_has_reached_a_limit_is_waited_for_only_where_nobody_else_can() {
    let (providers, [_, two]) = limited(["one", "two"], limit(2.0, 1.0, Cost::One)).await;
    let began = Instant::now();
    for name in ["one", "two", "two", "two"] {
        assert_eq!(who(&providers).await, answered(name));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    two.fails(1, &refused());
    assert_eq!(who(&providers).await, answered("one"));
    assert_eq!(began.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_reached_limit_is_remembered_while_another_one_is_asked() {
    let (providers, [_, two]) = limited(["one", "two"], limit(0.1, 1.0, Cost::One)).await;
    for name in ["one", "two"] {
        assert_eq!(who(&providers).await, answered(name));
    }
    *two.takes.lock().expect("no panic") = Duration::from_millis(100);
    two.fails(1, &never());
    // One has reached its limit, two can never do it, and then another task finds that one is to be left alone.
    let rests = async {
        sleep(Duration::from_millis(50)).await;
        let one = providers.instances().into_iter().find(|one| one.name() == "one").expect("there");
        one.rest(providers.now() + Duration::from_secs(3));
    };
    let (called, ()) = tokio::join!(call(&providers, Value::Null, CancellationToken::new()), rests);
    let Called::NotNow { wait: Some(wait), why } = called else { panic!("{called:?}") };
    assert!(wait <= Duration::from_secs(10) && why.contains("one: limit l is reached"), "{wait:?} {why}");
}

#[tokio::test(start_paused = true)]
async fn who_was_asked_after_a_wait_has_not_reached_its_limit() {
    let (providers, [one]) = limited(["one"], limit(2.0, 1.0, Cost::One)).await;
    assert_eq!(who(&providers).await, answered("one"));
    one.fails(1, &never());
    let called = call(&providers, Value::Null, CancellationToken::new()).await;
    assert!(matches!(called, Called::Elsewhere(_)), "{called:?}");
}

#[tokio::test(start_paused = true)]
async fn who_has_only_asked_to_be_left_alone_may_still_do_what_another_one_can_never() {
    let (providers, [one, two]) = started(["one", "two"]).await;
    one.fails(1, &Failure { retry_after: Some(Duration::from_secs(5)), ..lost() });
    assert_eq!(who(&providers).await, Some(("one".to_owned(), false)));
    two.fails(1, &never());
    let called = call(&providers, Value::Null, CancellationToken::new()).await;
    let Called::NotNow { wait: Some(wait), why } = called else { panic!("{called:?}") };
    assert_eq!(wait, Duration::from_secs(5));
    assert!(why.contains("one is left alone"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_waits_no_longer_and_takes_nothing() {
    let (providers, _) = limited(["one"], limit(2.0, 1.0, Cost::One)).await;
    assert_eq!(who(&providers).await, answered("one"));
    let (began, cancel) = (Instant::now(), CancellationToken::new());
    let gives_up = async {
        sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    };
    let (called, ()) = tokio::join!(call(&providers, Value::Null, cancel.clone()), gives_up);
    assert!(matches!(&called, Called::NotNow { why, .. } if why.contains("given up")), "{called:?}");
    assert_eq!(began.elapsed(), Duration::from_millis(100));
    assert_eq!(who(&providers).await, answered("one"));
    assert_eq!(began.elapsed(), Duration::from_millis(500), "the place was given back");
}

#[tokio::test(start_paused = true)]
async fn a_dear_call_goes_to_another_one_before_it_waits_for_the_rest_of_its_cost() {
    let dear = limit(1.0, 50.0, Cost::Param(vec!["size".to_owned()]));
    let (providers, [_, two]) = limited(["one", "two"], dear).await;
    let (began, size) = (Instant::now(), json!({"size": 40}));
    for name in ["one", "two", "two"] {
        let called = call(&providers, size.clone(), CancellationToken::new()).await;
        assert!(matches!(&called, Called::Made { by, .. } if by == name), "{name}: {called:?}");
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    two.fails(1, &refused());
    let called = call(&providers, size, CancellationToken::new()).await;
    assert!(matches!(&called, Called::Made { by, .. } if by == "one"), "{called:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(30), "40 of 50 were used, and one comes in a second");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_quiet_shuts_its_limit_whatever_is_given_back() {
    let (providers, [one]) = limited(["one"], limit(1.0, 10.0, Cost::One)).await;
    let busy = Failure { retry_after: Some(Duration::from_secs(5)), ..refused() };
    one.fails(1, &busy);
    let called = call(&providers, Value::Null, CancellationToken::new()).await;
    assert!(matches!(called, Called::NotNow { .. }), "{called:?}");
    let wants = providers.limits().of_provider("one", &protocol("a/v1"), "who", &Value::Null);
    let admitted =
        providers.limits().admit(wants, Duration::ZERO, Duration::ZERO).await.expect("nobody is asked");
    let crate::provider::limit::Admission::Refused { wait, .. } = admitted else { panic!("{admitted:?}") };
    assert_eq!(wait, Duration::from_secs(5));
}
