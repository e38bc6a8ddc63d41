use super::super::life::Ordered::{Restart, Scale, Start, Stop};
use super::*;

const GRACE: Duration = Duration::from_secs(10);

fn states(providers: &Providers) -> Vec<(String, &'static str)> {
    providers.standings(None).into_iter().map(|one| (one.name, one.state)).collect()
}

fn state(providers: &Providers, name: &str) -> &'static str {
    providers.standings(Some(name))[0].state
}

#[tokio::test(start_paused = true)]
async fn who_is_stopped_gets_no_calls_and_the_others_do_until_it_is_started_again() {
    let (providers, _) = started(["one", "two"]).await;
    for _ in 0..2 {
        providers.order("one", Stop, GRACE).await.expect("a repeat does no harm");
    }
    assert_eq!(states(&providers), [("one".to_owned(), "stopped"), ("two".to_owned(), "up")]);
    for _ in 0..3 {
        assert_eq!(who(&providers).await, answered("two"));
    }
    providers.order("two", Stop, GRACE).await.expect("it stops");
    assert_eq!(who(&providers).await, None);
    assert!(providers.is_shut(&protocol("a/v1")), "its queue is left alone");
    let of = protocol("a/v1");
    let (opened, _) = tokio::join!(providers.opened(&of), providers.order("one", Start, GRACE));
    assert_eq!(opened, None);
    assert_eq!(who(&providers).await, answered("one"));
    providers.order("two", Restart, GRACE).await.expect("what is stopped is started");
    assert_eq!(state(&providers, "two"), "up");
}

#[tokio::test(start_paused = true)]
async fn a_restart_does_not_wait_for_a_call_that_hangs() {
    let (providers, [one]) = started(["one"]).await;
    one.hangs(true);
    let long = ask_for(&providers, "a/v1", "who", Wish::default());
    let restart = async {
        tokio::task::yield_now().await;
        providers.order("one", Restart, GRACE).await.expect("it is new");
        one.hangs(false);
        assert_eq!(who(&providers).await, answered("one"));
    };
    let (called, ()) = tokio::join!(long, restart);
    assert!(matches!(&called, Called::NotNow { why, .. } if why == "one is stopped"), "{called:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_go_on_for_the_grace_and_are_given_back_when_it_is_over() {
    let (providers, [one]) = started(["one"]).await;
    one.hangs(true);
    let long = async {
        let cx_time = tokio::time::Instant::now();
        let called = ask_for(&providers, "a/v1", "who", Wish::default()).await;
        (called, cx_time.elapsed())
    };
    let stop = async {
        tokio::task::yield_now().await;
        let stopping = providers.order("one", Stop, GRACE);
        tokio::pin!(stopping);
        assert!(futures_util::poll!(&mut stopping).is_pending());
        assert_eq!((state(&providers, "one"), providers.standings(None)[0].running), ("stopping", 1));
        assert_eq!(who(&providers).await, None, "no more calls");
        stopping.await.expect("it stops");
    };
    let ((called, took), ()) = tokio::join!(long, stop);
    assert!(matches!(&called, Called::NotNow { why, .. } if why == "one is stopped"), "{called:?}");
    assert_eq!(took, GRACE);
    assert_eq!(state(&providers, "one"), "stopped");
    one.hangs(false);
    providers.order("one", Start, GRACE).await.expect("it starts");
    assert_eq!(who(&providers).await, answered("one"), "that counts for nothing");
}

#[tokio::test(start_paused = true)]
async fn what_was_stopped_is_asked_by_nobody_and_started_by_nobody_by_itself() {
    let mut providers = Providers::new(Settings { is_last_resort: true, ..in_turn() });
    providers.register(named("one")).expect("its own name");
    providers.start().await;
    providers.order("one", Stop, GRACE).await.expect("it stops");
    let stop = CancellationToken::new();
    let story = async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!((state(&providers, "one"), who(&providers).await), ("stopped", None));
        assert!(providers.is_shut(&protocol("a/v1")), "waiting does help");
        providers.instance("one").expect("there").wake().await.expect("it may start");
        assert_eq!((state(&providers, "one"), who(&providers).await), ("starting", None));
        assert!(providers.is_shut(&protocol("a/v1")), "it is being started");
        stop.cancel();
    };
    tokio::join!(providers.look_after(stop.clone()), story);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_is_told() {
    let (providers, [one]) = started(["one"]).await;
    let unknown = providers.order("on", Start, GRACE).await.expect_err("nobody has this name");
    assert_eq!((unknown.code, &unknown.details["known"]), (Code::ProviderNotFound, &json!(["one"])));
    assert!(unknown.message.contains("did you mean"), "{unknown}");
    let scaled = providers.order("one", Scale(2), GRACE).await.expect_err("it has no pool");
    assert!(scaled.message.contains("no pool"), "{scaled}");
    assert!(providers.order("one", Scale(0), GRACE).await.is_err());
    providers.order("one", Stop, GRACE).await.expect("it stops");
    one.can_start(false);
    let failed = providers.order("one", Start, GRACE).await.expect_err("it cannot start");
    assert_eq!((failed.code, state(&providers, "one")), (Code::ProviderInitializationFailed, "failed"));
}

#[tokio::test(start_paused = true)]
async fn who_comes_is_called_and_looked_after_and_who_goes_is_not() {
    let (providers, [_one, two]) = started(["one", "two"]).await;
    two.is(Health::Degraded("slow".to_owned()));
    let stop = CancellationToken::new();
    let story = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let three = named("three");
        let idle =
            InstanceSettings { traits: Traits { weight: 0, ..Traits::default() }, ..Default::default() };
        let change = Change {
            added: vec![(Arc::clone(&three) as Arc<dyn Provider>, InstanceSettings::default())],
            removed: vec!["one".to_owned()],
            settings: vec![("two".to_owned(), idle)],
        };
        assert_eq!(providers.change(change, GRACE).await, []);
        assert_eq!(states(&providers), [("three".to_owned(), "up"), ("two".to_owned(), "degraded")]);
        three.is(Health::Down("no disk".to_owned()));
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(state(&providers, "three"), "down", "it is looked after");
        assert_eq!(who(&providers).await, None, "two has no weight any more");
        let all = Change { removed: vec!["two".to_owned(), "three".to_owned()], ..Change::default() };
        providers.change(all, GRACE).await;
        assert!(providers.is_shut(&protocol("a/v1")), "the queue is left alone");
        let back = Change { added: vec![(named("one"), InstanceSettings::default())], ..Change::default() };
        let of = protocol("a/v1");
        let (opened, _) = tokio::join!(providers.opened(&of), providers.change(back, GRACE));
        assert_eq!((opened, who(&providers).await), (None, answered("one")));
        stop.cancel();
    };
    tokio::join!(providers.look_after(stop.clone()), story);
}

/// Also where nobody else serves its tasks: somebody may be configured again.
#[tokio::test(start_paused = true)]
async fn where_the_last_one_has_gone_what_was_on_its_way_goes_back() {
    for is_last_resort in [false, true] {
        let mut providers = Providers::new(Settings { is_last_resort, ..in_turn() });
        providers.register(named("one")).expect("its own name");
        providers.start().await;
        let gone = Change { removed: vec!["one".to_owned()], ..Change::default() };
        providers.change(gone, GRACE).await;
        assert_eq!(who(&providers).await, None);
        assert!(providers.is_shut(&protocol("a/v1")), "to a queue that is left alone");
    }
}

#[tokio::test(start_paused = true)]
async fn other_thresholds_hold_for_who_is_there() {
    let (providers, [one]) = started(["one"]).await;
    let strict =
        InstanceSettings { breaker: Policy { failures: 1, ..Policy::default() }, ..Default::default() };
    providers.change(Change { settings: vec![("one".to_owned(), strict)], ..Change::default() }, GRACE).await;
    one.fails(1, &lost());
    who(&providers).await;
    assert_eq!((who(&providers).await, state(&providers, "one")), (None, "open"));
}
