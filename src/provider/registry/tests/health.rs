//! When providers are looked at, and what is known of each.

use super::*;

/// One that is well is looked at after 0, 2, 6, 14, 30, 60, 90, 120 s.
#[tokio::test(start_paused = true)]
async fn who_is_well_is_looked_at_seldom_and_who_is_not_every_second() {
    let (providers, [one]) = started(["one"]).await;
    let stop = CancellationToken::new();
    let story = async {
        sleep(Duration::from_secs(100)).await;
        one.is(Health::Down("no disk".to_owned()));
        sleep(Duration::from_secs(10)).await;
        assert_eq!(who(&providers).await, answered("one"), "nobody has looked yet");
        sleep(Duration::from_secs(15)).await;
        assert_eq!(who(&providers).await, None, "it was looked at");
        one.is(Health::Up);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(who(&providers).await, answered("one"), "in doubt it is looked at each second");
        stop.cancel();
    };
    tokio::join!(providers.look_after(stop.clone()), story);
}

fn vitals(providers: &Providers) -> Vitals {
    providers.standings(Some("one"))[0].vitals.clone()
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_has_done_is_told_with_its_own_failures_only() {
    let (providers, [one]) = started(["one"]).await;
    assert_eq!(vitals(&providers), Vitals::default(), "nothing is known yet");
    *one.takes.lock().expect("no panic") = Duration::from_millis(100);
    for _ in 0..98 {
        assert_eq!(who(&providers).await, answered("one"));
    }
    *one.takes.lock().expect("no panic") = Duration::from_millis(700);
    assert_eq!(who(&providers).await, answered("one"));
    one.fails(1, &Failure::new(Code::InvalidParams, "no such model"));
    who(&providers).await;
    let told = vitals(&providers);
    assert_eq!((told.calls, told.failures, told.last_failure), (100, 0, None), "it was the caller's doing");
    let near = |share: f64| (told.latency.quantile(share).expect("calls went well") + 5_000) / 10_000;
    assert_eq!((near(0.5), near(0.95)), (10, 10), "hundredths of a second");
    assert_eq!(told.latency.max().map(|max| max / 10_000), Some(70));
    assert!(told.expected.is_some_and(|time| (500..=700).contains(&time.as_millis())), "{:?}", told.expected);

    one.fails(2, &lost().with("stdout", "much"));
    for _ in 0..2 {
        who(&providers).await;
    }
    sleep(Duration::from_secs(7)).await;
    let told = vitals(&providers);
    assert_eq!((told.calls, told.failures, told.consecutive_failures), (102, 2, 2));
    let (failure, ago) = told.last_failure.expect("it failed");
    assert_eq!((failure, ago), (lost(), Duration::from_secs(7)), "without what is with the task");
    assert_eq!(who(&providers).await, answered("one"));
    let told = vitals(&providers);
    assert_eq!((told.failures, told.consecutive_failures), (2, 0), "the last one is remembered");
}

#[tokio::test(start_paused = true)]
async fn a_look_is_told_with_its_time_and_when_the_next_one_is() {
    let (providers, [one]) = started(["one"]).await;
    let stop = CancellationToken::new();
    let story = async {
        sleep(Duration::from_millis(1_500)).await;
        let told = vitals(&providers);
        assert_eq!(told.last_check, Some((Duration::from_millis(1_500), Duration::ZERO)));
        assert_eq!(told.next_check, Some(Duration::from_millis(500)));
        one.silent();
        // Looked at after 2 s, until it is given up after 5 s more; then again a second later.
        sleep(Duration::from_secs(6)).await;
        let told = vitals(&providers);
        assert_eq!(told.last_check, Some((Duration::from_millis(5_500), Duration::from_secs(5))));
        assert_eq!(told.next_check, Some(Duration::from_millis(500)));
        stop.cancel();
    };
    tokio::join!(providers.look_after(stop.clone()), story);
}
