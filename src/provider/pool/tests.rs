use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use tokio::time::{advance, sleep};

use super::*;

/// Makes members that do what the test says.
#[derive(Debug, Clone, Default)]
struct Made(Arc<State>);

#[derive(Debug, Default)]
struct State {
    next: AtomicU64,
    stopped: AtomicU64,
    /// Whether the next starts fail.
    fails: Mutex<VecDeque<bool>>,
    takes: Mutex<Duration>,
    holds: AtomicU64,
}

#[derive(Debug)]
struct Fake {
    number: u64,
    end: CancellationToken,
}

#[async_trait]
impl Maker for Made {
    type Member = Fake;

    async fn start(&self) -> Result<Fake, Failure> {
        let takes = *self.0.takes.lock().expect("no panic");
        sleep(takes).await;
        if self.0.fails.lock().expect("no panic").pop_front() == Some(true) {
            return Err(Failure::new(Code::ProviderInitializationFailed, "no licence"));
        }
        let number = self.0.next.fetch_add(1, Ordering::SeqCst);
        Ok(Fake { number, end: CancellationToken::new() })
    }
    async fn ended(&self, fake: &Fake) -> String {
        fake.end.cancelled().await;
        "its process was killed".to_owned()
    }
    fn has_ended(&self, fake: &Fake) -> bool {
        fake.end.is_cancelled()
    }
    async fn stop(&self, fake: &Fake) {
        self.0.stopped.fetch_add(1, Ordering::SeqCst);
        fake.end.cancel();
    }
    async fn held(&self, members: &[Arc<Fake>]) -> Vec<Option<u64>> {
        members.iter().map(|_| Some(self.0.holds.load(Ordering::SeqCst))).collect()
    }
}

impl Made {
    fn started(&self) -> u64 {
        self.0.next.load(Ordering::SeqCst)
    }
    fn stopped(&self) -> u64 {
        self.0.stopped.load(Ordering::SeqCst)
    }
    fn fails(&self, times: usize) {
        self.0.fails.lock().expect("no panic").extend(std::iter::repeat_n(true, times));
    }
}

async fn pool(policy: Policy) -> (Made, Pool<Made>) {
    let made = Made::default();
    let pool = Pool::start("fake".to_owned(), made.clone(), policy).await.expect("it starts");
    settle().await;
    (made, pool)
}

/// Lets every task do what it can do now.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn later(time: Duration) {
    // In steps, so that what waits for one thing after the other does.
    for _ in 0..10 {
        advance(time / 10).await;
        settle().await;
    }
}

fn one() -> Policy {
    Policy { min: 1, max: 1, ..Policy::default() }
}

#[tokio::test(start_paused = true)]
async fn members_are_warm_and_the_one_used_last_is_used_again() {
    let (made, pool) = pool(Policy { min: 3, max: 3, ..Policy::default() }).await;
    assert_eq!(made.started(), 3);
    let first = pool.acquire(Priority::NORMAL).await.expect("room").member().number;
    for _ in 0..5 {
        later(Duration::from_secs(1)).await;
        assert_eq!(pool.acquire(Priority::NORMAL).await.expect("room").member().number, first);
    }
    pool.stop().await;
    assert_eq!(made.stopped(), 3);
    let refused = pool.acquire(Priority::NORMAL).await.expect_err("it has stopped");
    assert_eq!((refused.code, refused.not_begun), (Code::SystemShutdown, true));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_by_priority_then_by_time() {
    let (_, pool) = pool(one()).await;
    let held = pool.acquire(Priority::NORMAL).await.expect("room");
    let order = Mutex::new(Vec::new());
    let wait = |name, priority| {
        let (pool, order) = (&pool, &order);
        async move {
            let _lease = pool.acquire(priority).await.expect("room");
            order.lock().expect("no panic").push(name);
        }
    };
    let free = async {
        settle().await;
        drop(held);
    };
    let given_up = pool.acquire(Priority::URGENT);
    tokio::pin!(given_up);
    assert!(futures_util::poll!(&mut given_up).is_pending());
    let queue = futures_util::future::join_all([
        wait("low", Priority::LOW).boxed(),
        wait("one", Priority::NORMAL).boxed(),
        wait("urgent", Priority::URGENT).boxed(),
        wait("two", Priority::NORMAL).boxed(),
    ]);
    tokio::join!(queue, free, async {
        settle().await;
        // It waited first, and the one member was given to it and came back.
        drop(given_up.await.expect("room"));
    });
    assert_eq!(*order.lock().expect("no panic"), ["urgent", "one", "two", "low"]);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_takes_nobodys_place() {
    let (_, pool) = pool(Policy { queue_max: 1, ..one() }).await;
    let held = pool.acquire(Priority::NORMAL).await.expect("room");
    {
        let waiting = pool.acquire(Priority::NORMAL);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let full = pool.acquire(Priority::NORMAL).await.expect_err("the queue is full");
        assert_eq!((full.code, full.not_begun), (Code::ProviderOverloaded, true));
        // It is given the member, and goes away without having taken it.
        drop(held);
    }
    assert_eq!(pool.standing().waiting, 0);
    pool.acquire(Priority::NORMAL).await.expect("the room came back");
}

#[tokio::test(start_paused = true)]
async fn it_grows_with_those_who_wait_and_shrinks_when_they_have_gone() {
    let policy = Policy { min: 1, max: 4, idle: Duration::from_secs(30), ..Policy::default() };
    let (made, pool) = pool(policy).await;
    let waiting = (0..6).map(|_| async {
        let _lease = pool.acquire(Priority::NORMAL).await.expect("room");
        sleep(Duration::from_secs(10)).await;
    });
    let growth = async {
        settle().await;
        assert_eq!(made.started(), 1, "not before they have waited");
        later(Duration::from_millis(100)).await;
        assert_eq!(made.started(), 2);
        later(Duration::from_millis(600)).await;
        assert_eq!(made.started(), 4, "doubled after the cooldown");
    };
    tokio::join!(futures_util::future::join_all(waiting), growth);
    assert_eq!((made.started(), made.stopped()), (4, 0));
    later(Duration::from_secs(31)).await;
    assert_eq!((pool.standing().members, made.stopped()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_dies_is_replaced_and_who_waits_does_not_notice() {
    let (made, pool) = pool(one()).await;
    let lease = pool.acquire(Priority::NORMAL).await.expect("room");
    lease.member().end.cancel();
    let next = pool.acquire(Priority::NORMAL);
    let release = async {
        settle().await;
        lease.died();
        drop(lease);
    };
    let (next, ()) = tokio::join!(next, release);
    assert_eq!(next.expect("a new one").member().number, 1);
    later(Duration::from_secs(1)).await;
    assert_eq!((made.started(), pool.standing().failures), (2, None));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_start_is_not_started_in_a_loop_and_who_waits_is_told() {
    let (made, pool) = pool(one()).await;
    made.fails(8);
    let lease = pool.acquire(Priority::NORMAL).await.expect("room");
    lease.member().end.cancel();
    drop(lease);
    settle().await;
    let refused = pool.acquire(Priority::NORMAL).await.expect_err("it does not start");
    assert_eq!((refused.code, refused.not_begun), (Code::ProviderInitializationFailed, true));
    assert!(refused.message.contains("no licence"), "{refused}");
    later(Duration::from_secs(60)).await;
    let left = made.0.fails.lock().expect("no panic").len();
    assert!((0..=2).contains(&left), "a handful of starts in a minute, not {}", 8 - left);
    later(Duration::from_secs(90)).await;
    let lease = pool.acquire(Priority::NORMAL).await.expect("it starts again");
    lease.proved();
    assert_eq!(pool.standing().failures, None);
}

#[tokio::test(start_paused = true)]
async fn worn_out_members_are_replaced_after_their_call() {
    let policy = Policy { uses_max: Some(2), age_max: Some(Duration::from_secs(100)), ..one() };
    let (made, pool) = pool(policy).await;
    for number in [0, 0, 1, 1, 2] {
        assert_eq!(pool.acquire(Priority::NORMAL).await.expect("room").member().number, number);
    }
    let lease = pool.acquire(Priority::NORMAL).await.expect("room");
    later(Duration::from_secs(101)).await;
    assert_eq!((lease.member().number, made.stopped()), (2, 2), "not during its call");
    drop(lease);
    settle().await;
    assert_eq!(pool.acquire(Priority::NORMAL).await.expect("room").member().number, 3);
    later(Duration::from_secs(101)).await;
    assert_eq!(pool.acquire(Priority::NORMAL).await.expect("room").member().number, 4, "too old");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_holds_too_much_is_replaced() {
    let (made, pool) = pool(Policy { memory_bytes_max: Some(1000), ..one() }).await;
    made.0.holds.store(1000, Ordering::SeqCst);
    later(Duration::from_secs(3)).await;
    assert_eq!(made.stopped(), 0);
    made.0.holds.store(1001, Ordering::SeqCst);
    later(Duration::from_millis(1500)).await;
    made.0.holds.store(0, Ordering::SeqCst);
    later(Duration::from_secs(3)).await;
    assert_eq!(pool.acquire(Priority::NORMAL).await.expect("room").member().number, made.started() - 1);
    assert!(made.stopped() >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_takes_as_many_calls_at_once_as_it_may() {
    let (made, pool) = pool(Policy { concurrency: 3, ..one() }).await;
    let leases: Vec<_> = futures_util::future::join_all((0..3).map(|_| pool.acquire(Priority::NORMAL))).await;
    assert!(leases.iter().all(Result::is_ok));
    let fourth = pool.acquire(Priority::NORMAL);
    tokio::pin!(fourth);
    assert!(futures_util::poll!(&mut fourth).is_pending());
    drop(leases);
    fourth.await.expect("room");
    assert_eq!(made.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_pool_starts_with_the_first_call() {
    let policy = Policy { min: 0, max: 2, idle: Duration::from_secs(5), ..Policy::default() };
    let (made, pool) = pool(policy).await;
    later(Duration::from_secs(10)).await;
    assert_eq!((pool.standing().members, made.stopped()), (0, 1), "it has shown that it works");
    pool.acquire(Priority::NORMAL).await.expect("started for it");
    assert_eq!(made.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_pool_that_stops_is_told() {
    let (_, pool) = pool(one()).await;
    let _held = pool.acquire(Priority::NORMAL).await.expect("room");
    let waiting = pool.acquire(Priority::NORMAL);
    let stop = async {
        settle().await;
        pool.stop().await;
    };
    let (refused, ()) = tokio::join!(waiting, stop);
    assert_eq!(refused.expect_err("it stops").code, Code::SystemShutdown);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_starts_while_the_pool_stops_is_stopped_too() {
    let (made, pool) = pool(Policy { min: 1, max: 2, ..Policy::default() }).await;
    *made.0.takes.lock().expect("no panic") = Duration::from_secs(1);
    let lease = pool.acquire(Priority::NORMAL).await.expect("room");
    lease.member().end.cancel();
    drop(lease);
    later(Duration::from_millis(500)).await;
    pool.stop().await;
    assert_eq!(pool.standing().members, 0);
    assert_eq!(made.started(), 1, "the second one was given up");
}

#[tokio::test(start_paused = true)]
async fn members_are_replaced_by_new_ones_first_and_their_calls_end_where_they_began() {
    let (made, pool) = pool(Policy { min: 2, max: 3, ..Policy::default() }).await;
    let held = pool.acquire(Priority::NORMAL).await.expect("room");
    let renewing = pool.renew();
    tokio::pin!(renewing);
    for _ in 0..3 {
        assert!(futures_util::poll!(&mut renewing).is_pending(), "one is at a call");
        settle().await;
    }
    assert_eq!(
        (made.started(), made.stopped()),
        (4, 1),
        "the idle one went, the busy one waits for its call"
    );
    assert_eq!(pool.standing().members, 2, "there were two at any time");
    assert!(
        pool.acquire(Priority::NORMAL).await.expect("room").member().number >= 2,
        "calls go to the new ones"
    );
    drop(held);
    assert!(renewing.await.expect("all are new"));
    assert_eq!((made.started(), made.stopped()), (4, 2));
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_the_old_one_goes_first_and_calls_wait() {
    let (made, pool) = pool(one()).await;
    let held = pool.acquire(Priority::NORMAL).await.expect("room");
    let next = pool.acquire(Priority::NORMAL);
    let release = async {
        settle().await;
        assert_eq!((made.started(), made.stopped()), (1, 0));
        drop(held);
    };
    let (renewed, next, ()) = tokio::join!(pool.renew(), next, release);
    assert!(renewed.expect("it is new"));
    assert_eq!((next.expect("the new one").member().number, made.stopped()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_start_keeps_the_old_ones_in_place() {
    let (made, pool) = pool(Policy { min: 2, max: 3, ..Policy::default() }).await;
    made.fails(1);
    let failure = pool.renew().await.expect_err("it does not start");
    assert!(failure.message.contains("no licence"), "{failure}");
    settle().await;
    assert_eq!((pool.standing().members, made.stopped()), (2, 0));
    pool.stop().await;
    assert_eq!(pool.renew().await.map_err(|failure| failure.code), Err(Code::SystemShutdown));
}

#[tokio::test(start_paused = true)]
async fn a_pool_grows_and_shrinks_to_the_size_that_it_is_told() {
    let (made, pool) = pool(one()).await;
    pool.scale(4, 4);
    settle().await;
    assert_eq!((pool.standing().members, pool.standing().bounds), (4, (4, 4)));
    let leases: Vec<_> = futures_util::future::join_all((0..4).map(|_| pool.acquire(Priority::NORMAL))).await;
    pool.scale(2, 2);
    settle().await;
    assert_eq!((pool.standing().members, made.stopped()), (2, 0), "those at a call end it first");
    drop(leases);
    settle().await;
    assert_eq!((pool.standing().members, made.stopped()), (2, 2));
}
