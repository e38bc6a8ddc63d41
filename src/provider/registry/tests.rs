mod health;
mod life;
mod limited;

use async_trait::async_trait;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::core::balance::Traits;
use crate::core::breaker::Policy;
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::provider::Health;

/// Answers with its own name, or as it is told.
#[derive(Debug)]
struct Named {
    name: &'static str,
    protocol: ProtocolId,
    /// How the next calls end.
    fails: Mutex<VecDeque<Failure>>,
    health: Mutex<Health>,
    cannot_start: Mutex<bool>,
    hangs: Mutex<bool>,
    takes: Mutex<Duration>,
    stock: Mutex<Option<Stock>>,
    is_silent: Mutex<bool>,
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
        if self.name.starts_with("slow") {
            sleep(Duration::from_secs(10)).await;
        }
        if *self.cannot_start.lock().expect("no panic") {
            return Err(Failure::new(Code::ProviderInitializationFailed, "python3 is missing"));
        }
        Ok(())
    }
    async fn call(&self, cx: &CallCx, _: &str, _: Value) -> Result<Answer, Failure> {
        let hangs = *self.hangs.lock().expect("no panic");
        if hangs {
            cx.cancel.cancelled().await;
            return Err(Failure::new(Code::TaskCancelled, "as it was told"));
        }
        let takes = *self.takes.lock().expect("no panic");
        sleep(takes).await;
        let failure = self.fails.lock().expect("no panic").pop_front();
        failure.map_or_else(|| Ok(json!(self.name).into()), Err)
    }
    /// Waits for calls that hang.
    async fn renew(&self) -> Result<bool, Failure> {
        let hangs = *self.hangs.lock().expect("no panic");
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(false)
    }
    fn stock(&self, _: &str) -> Stock {
        self.stock.lock().expect("no panic").unwrap_or(Stock::Unknown)
    }
    async fn health(&self) -> Health {
        let is_silent = *self.is_silent.lock().expect("no panic");
        if is_silent {
            std::future::pending::<()>().await;
        }
        self.health.lock().expect("no panic").clone()
    }
}

impl Named {
    fn fails(&self, times: usize, failure: &Failure) {
        self.fails.lock().expect("no panic").extend(std::iter::repeat_n(failure.clone(), times));
    }

    fn is(&self, health: Health) {
        *self.health.lock().expect("no panic") = health;
    }

    /// Nobody learns how it is.
    fn silent(&self) {
        *self.is_silent.lock().expect("no panic") = true;
    }

    fn has(&self, stock: Stock) {
        *self.stock.lock().expect("no panic") = Some(stock);
    }

    fn hangs(&self, hangs: bool) {
        *self.hangs.lock().expect("no panic") = hangs;
    }

    fn can_start(&self, can: bool) {
        *self.cannot_start.lock().expect("no panic") = !can;
    }
}

/// Always the same luck.
#[derive(Debug)]
struct Luck(f64);

impl Clock for Luck {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }
    fn chance(&self) -> f64 {
        self.0
    }
    fn new_id(&self) -> Id {
        Id::parse("new").expect("an id")
    }
}

fn protocol(text: &str) -> ProtocolId {
    text.parse().expect("a protocol")
}

fn named(name: &'static str) -> Arc<Named> {
    Arc::new(Named {
        name,
        protocol: protocol("a/v1"),
        fails: Mutex::default(),
        health: Mutex::new(Health::Up),
        cannot_start: Mutex::new(name.starts_with("broken")),
        hangs: Mutex::default(),
        takes: Mutex::default(),
        stock: Mutex::default(),
        is_silent: Mutex::default(),
    })
}

fn in_turn() -> Settings {
    Settings { strategy: Strategy::RoundRobin, ..Settings::default() }
}

async fn started<const N: usize>(names: [&'static str; N]) -> (Providers, [Arc<Named>; N]) {
    let mut providers = Providers::new(in_turn());
    let all = names.map(named);
    for one in &all {
        providers.register(Arc::clone(one) as Arc<dyn Provider>).expect("its own name");
    }
    providers.start().await;
    (providers, all)
}

async fn ask_for(providers: &Providers, of: &str, method: &str, wish: Wish) -> Called {
    let cx = CallCx {
        key: TaskKey::alone(Id::parse("t").expect("an id")),
        attempt: 1,
        timeout: Duration::from_secs(1),
        cancel: CancellationToken::new(),
        traceparent: None,
        priority: crate::core::priority::Priority::NORMAL,
        output: Default::default(),
    };
    let protocol = protocol(of);
    let ask = Ask { protocol: &protocol, method, wish };
    providers.call(&cx, &ask, Value::Null, &Luck(0.0)).await
}

/// Who was asked, and whether it answered.
async fn who(providers: &Providers) -> Option<(String, bool)> {
    match ask_for(providers, "a/v1", "who", Wish::default()).await {
        Called::Made { by, outcome } => Some((by, outcome.is_ok())),
        Called::NotNow { .. } => None,
        Called::Elsewhere(failure) | Called::Never(failure) => panic!("{failure}"),
    }
}

fn answered(name: &str) -> Option<(String, bool)> {
    Some((name.to_owned(), true))
}

fn lost() -> Failure {
    Failure::new(Code::ConnectionLost, "the connection broke")
}

fn refused() -> Failure {
    Failure::new(Code::ConnectionRefused, "nobody listens").not_begun()
}

#[tokio::test]
async fn calls_go_round_among_those_that_started() {
    let (providers, _) = started(["one", "broken", "two"]).await;
    for name in ["one", "two", "one", "two"] {
        assert_eq!(who(&providers).await, answered(name));
    }
}

#[tokio::test]
async fn who_cannot_be_served_is_told_why() {
    let (providers, _) = started(["one"]).await;
    let vision = Wish { labels: vec!["vision".to_owned()], ..Wish::default() };
    for (of, method, wish, part) in [
        ("b/v1", "who", Wish::default(), "no provider for who of b/v1 in this worker: configure one"),
        ("a/v1.2", "who", Wish::default(), "configure one"),
        ("a/v1", "what", Wish::default(), "one does not serve this method"),
        ("a/v1", "who", vision, "one has not what it asks for: label \"vision\""),
    ] {
        let called = ask_for(&providers, of, method, wish).await;
        let Called::Elsewhere(failure) = called else { panic!("{called:?}") };
        assert_eq!((failure.code, failure.retryable), (Code::ProviderNotAvailable, true));
        assert!(failure.message.contains(part), "{failure}");
    }
}

#[tokio::test]
async fn a_name_is_given_once() {
    let (mut providers, _) = started(["one"]).await;
    assert_eq!(providers.register(named("one")), Err(DuplicateName("one".to_owned())));
    assert_eq!(providers.protocols(), [protocol("a/v1")]);
}

#[tokio::test]
async fn a_call_that_did_not_start_is_made_elsewhere_in_the_same_attempt() {
    let (providers, [one, two]) = started(["one", "two"]).await;
    one.fails(1, &refused());
    assert_eq!(who(&providers).await, answered("two"));
    one.fails(1, &refused());
    two.fails(1, &refused());
    assert_eq!(who(&providers).await, None, "nobody is left, and nothing was begun");
    one.fails(1, &lost());
    two.fails(1, &lost());
    let mut asked = [who(&providers).await, who(&providers).await];
    asked.sort();
    assert_eq!(asked, ["one", "two"].map(|name| Some((name.to_owned(), false))), "it may have started");
}

#[tokio::test(start_paused = true)]
async fn who_fails_is_left_alone_and_tried_again() {
    let (providers, [one, two]) = started(["one", "two"]).await;
    one.fails(5, &lost());
    for _ in 0..5 {
        assert_eq!(who(&providers).await, Some(("one".to_owned(), false)));
        assert_eq!(who(&providers).await, answered("two"));
    }
    for _ in 0..4 {
        assert_eq!(who(&providers).await, answered("two"));
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    one.fails(1, &lost());
    let mut asked = [who(&providers).await, who(&providers).await, who(&providers).await];
    asked.sort();
    let probe = Some(("one".to_owned(), false));
    assert_eq!(asked.iter().filter(|one| **one == probe).count(), 1, "one probe, which fails");
    two.fails(5, &lost());
    for _ in 0..5 {
        who(&providers).await;
    }
    assert_eq!(who(&providers).await, None, "nobody is left");
    assert!(providers.is_shut(&protocol("a/v1")));
    let opened = providers.opened(&protocol("a/v1")).await;
    assert_eq!(opened, NonZeroU16::new(1), "for one probe");
    assert_eq!(who(&providers).await, answered("two"));
    assert_eq!(providers.opened(&protocol("a/v1")).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_callers_mistakes_never_count() {
    let (providers, [one]) = started(["one"]).await;
    let codes = [
        Code::InvalidParams,
        Code::TaskExecutionFailed,
        Code::TaskCancelled,
        Code::TaskTimeout,
        Code::ResourceExhausted,
    ];
    for code in codes {
        one.fails(50, &Failure::new(code, "wrong"));
    }
    for _ in 0..250 {
        assert_eq!(who(&providers).await, Some(("one".to_owned(), false)));
    }
    assert_eq!(who(&providers).await, answered("one"));
}

#[tokio::test(start_paused = true)]
async fn who_asks_to_be_left_alone_is() {
    let (providers, [one, _two]) = started(["one", "two"]).await;
    let wait = Some(Duration::from_secs(7));
    one.fails(1, &Failure { retry_after: wait, ..refused() });
    for _ in 0..4 {
        assert_eq!(who(&providers).await, answered("two"));
    }
    tokio::time::advance(Duration::from_secs(7)).await;
    let asked = [who(&providers).await, who(&providers).await];
    assert!(asked.contains(&answered("one")), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_down_or_could_not_start_is_looked_at_until_it_is_fit() {
    let (providers, [one, broken]) = started(["one", "broken"]).await;
    let stop = CancellationToken::new();
    let looking = providers.look_after(stop.clone());
    let story = async {
        one.is(Health::Down("no disk".to_owned()));
        broken.can_start(true);
        tokio::time::sleep(Duration::from_secs(61)).await;
        for _ in 0..3 {
            assert_eq!(who(&providers).await, answered("broken"), "it started, the other one is down");
        }
        one.is(Health::Degraded("slow".to_owned()));
        tokio::time::sleep(Duration::from_secs(2)).await;
        for _ in 0..3 {
            assert_eq!(who(&providers).await, answered("broken"), "a healthy one is preferred");
        }
        broken.is(Health::Down("gone".to_owned()));
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(who(&providers).await, answered("one"), "degraded is better than nobody");
        one.is(Health::Down("gone too".to_owned()));
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(who(&providers).await, None);
        one.is(Health::Up);
        assert_eq!(providers.opened(&protocol("a/v1")).await, None);
        assert_eq!(who(&providers).await, answered("one"));
        stop.cancel();
    };
    tokio::join!(looking, story);
}

#[tokio::test(start_paused = true)]
async fn where_waiting_helps_nobody_the_failure_tells_why() {
    let mut providers = Providers::new(Settings { is_last_resort: true, ..in_turn() });
    let (one, broken) = (named("one"), named("broken"));
    providers.register(Arc::clone(&one) as Arc<dyn Provider>).expect("its own name");
    providers.start().await;
    one.is(Health::Down("no disk".to_owned()));
    let stop = CancellationToken::new();
    let story = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        one.fails(9, &lost());
        for _ in 0..9 {
            assert_eq!(who(&providers).await, Some(("one".to_owned(), false)));
        }
        assert!(!providers.is_shut(&protocol("a/v1")));
        one.is(Health::Up);
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.cancel();
    };
    tokio::join!(providers.look_after(stop.clone()), story);
    assert_eq!(who(&providers).await, answered("one"), "by a probe");

    let mut providers = Providers::new(Settings { is_last_resort: true, ..in_turn() });
    providers.register(broken).expect("its own name");
    assert_eq!(providers.start().await[0].0, "broken");
    let called = ask_for(&providers, "a/v1", "who", Wish::default()).await;
    let Called::Never(failure) = called else { panic!("{called:?}") };
    assert!(failure.message.contains("broken could not start: python3 is missing"), "{failure}");
}

#[tokio::test]
async fn fallbacks_are_asked_in_their_order_and_weights_of_zero_never() {
    let mut providers = Providers::new(in_turn());
    let all = ["second", "first", "never", "main"].map(named);
    for (one, (rank, weight)) in all.iter().zip([(2, 1), (1, 1), (0, 0), (0, 1)]) {
        let traits = Traits { rank, weight, ..Traits::default() };
        let settings = InstanceSettings { traits, breaker: Policy { failures: 1, ..Policy::default() } };
        providers.register_as(Arc::clone(one) as Arc<dyn Provider>, settings).expect("its own name");
    }
    providers.start().await;
    for name in ["main", "first", "second"] {
        assert_eq!(who(&providers).await, answered(name));
        all.iter().find(|one| one.name == name).expect("one of them").fails(1, &lost());
        who(&providers).await;
    }
    assert_eq!(who(&providers).await, None);
}

#[tokio::test]
async fn a_wait_is_as_long_as_somebody_asked_for() {
    let (providers, [one]) = started(["one"]).await;
    one.fails(1, &Failure { retry_after: Some(Duration::from_secs(7)), ..refused() });
    let called = ask_for(&providers, "a/v1", "who", Wish::default()).await;
    assert!(
        matches!(called, Called::NotNow { wait: Some(wait), .. } if wait == Duration::from_secs(7)),
        "{called:?}"
    );
    let called = ask_for(&providers, "a/v1", "who", Wish::default()).await;
    let Called::NotNow { wait: Some(wait), why } = called else { panic!("{called:?}") };
    assert!(
        (6..=7).contains(&wait.as_secs()) && why.starts_with("one is left alone: it has asked for it"),
        "{wait:?} {why}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_tells_nothing_and_leaves_nothing_behind() {
    let (providers, [one]) = started(["one"]).await;
    one.fails(5, &lost());
    for _ in 0..5 {
        who(&providers).await;
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    one.hangs(true);
    for _ in 0..3 {
        let probe = who(&providers);
        tokio::pin!(probe);
        assert!(futures_util::poll!(&mut probe).is_pending(), "it is admitted, and given up");
    }
    one.hangs(false);
    assert_eq!(who(&providers).await, answered("one"), "the probe's place is free again");
    assert_eq!(providers.opened(&protocol("a/v1")).await, None, "and its success closed the breaker");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_probe_goes_on_when_that_has_told() {
    let (providers, [one]) = started(["one"]).await;
    let of = protocol("a/v1");
    one.fails(6, &lost());
    for _ in 0..5 {
        who(&providers).await;
    }
    assert_eq!(providers.opened(&of).await, NonZeroU16::new(1));
    let probed = providers.probed(&of);
    tokio::pin!(probed);
    assert!(futures_util::poll!(&mut probed).is_pending(), "nobody has tried it yet");
    assert_eq!(who(&providers).await, Some(("one".to_owned(), false)));
    probed.await;
    assert!(providers.is_shut(&of), "the probe has failed");
    assert_eq!(providers.opened(&of).await, NonZeroU16::new(1));
    assert_eq!(who(&providers).await, answered("one"));
    providers.probed(&of).await;
    assert!(!providers.is_shut(&of));
}

#[tokio::test]
async fn who_lacks_a_model_is_asked_only_where_all_lack_it() {
    let (providers, [one, two]) = started(["one", "two"]).await;
    let wish = || Wish { model: Some("m".to_owned()), ..Wish::default() };
    let asked = async || match ask_for(&providers, "a/v1", "who", wish()).await {
        Called::Made { by, outcome } => (by, outcome.is_ok()),
        called => panic!("{called:?}"),
    };
    one.has(Stock::Missing);
    for _ in 0..3 {
        assert_eq!(asked().await, ("two".to_owned(), true), "who does not tell may have it");
    }
    two.has(Stock::Missing);
    let mut both = [asked().await, asked().await];
    both.sort();
    assert_eq!(both, ["one", "two"].map(|name| (name.to_owned(), true)), "a list may be old");

    let absent = Failure::new(Code::InvalidParams, "no such model").not_begun();
    one.fails(1, &absent);
    two.fails(1, &absent);
    let called = ask_for(&providers, "a/v1", "who", wish()).await;
    assert_eq!(called, Called::Elsewhere(absent.clone()), "another worker's may have it");

    for (first, second) in [(&absent, &refused()), (&refused(), &absent)] {
        one.fails(1, first);
        two.fails(1, second);
        let called = ask_for(&providers, "a/v1", "who", wish()).await;
        assert!(matches!(called, Called::NotNow { .. }), "one of them can do it later: {called:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn before_the_first_choice_by_model_everybody_is_looked_at_but_not_for_long() {
    let (providers, [one, _two]) = started(["one", "two"]).await;
    one.is(Health::Down("no disk".to_owned()));
    let wish = Wish { model: Some("m".to_owned()), ..Wish::default() };
    let called = ask_for(&providers, "a/v1", "who", wish.clone()).await;
    assert!(matches!(&called, Called::Made { by, .. } if by == "two"), "{called:?}");

    let (providers, [three, _four]) = started(["three", "four"]).await;
    three.silent();
    let before = Instant::now();
    let called = ask_for(&providers, "a/v1", "who", wish).await;
    assert!(matches!(called, Called::Made { outcome: Ok(_), .. }), "{called:?}");
    assert_eq!(before.elapsed(), FIRST_LOOK_MAX);
}

#[tokio::test(start_paused = true)]
async fn all_start_at_once_and_every_failure_is_told() {
    let mut providers = Providers::new(in_turn());
    for name in ["slow one", "slow two", "broken one", "fast", "broken two"] {
        providers.register(named(name)).expect("its own name");
    }
    let before = Instant::now();
    let mut failed: Vec<String> = providers.start().await.into_iter().map(|(name, _)| name).collect();
    failed.sort();
    assert_eq!(failed, ["broken one", "broken two"]);
    assert_eq!(before.elapsed(), Duration::from_secs(10));
}
