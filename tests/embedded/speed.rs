//! How fast the embedded mode is without providers: `cargo test --release --test embedded -- --ignored
//! --nocapture speed`. Prints tasks per second.

use crate::support::{State, complete, head, message, prefetch, store, tasks, text};
use crate::wall_clock::WallClock;
use gleitzeit::broker::{Broker, Consumer, Delivery, Settlement};
use gleitzeit::core::clock::Clock;
use gleitzeit::core::id::Id;
use gleitzeit::sqlite::Database;
use gleitzeit::store::sqlite::SqliteStore;
use gleitzeit::store::{Accepted, Claim, Claimed, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const TASKS: usize = 20_000;
const CONCURRENCY: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn tasks_per_second() {
    let state = State::new();
    let database = state.open().await;
    let store = Arc::new(store(database.clone()));
    let broker = Arc::new(crate::support::broker(database.clone()).await);

    let began = Instant::now();
    let mut producers = JoinSet::new();
    for producer in 0..CONCURRENCY {
        let (broker, store) = (Arc::clone(&broker), Arc::clone(&store));
        producers.spawn(async move {
            for number in (producer..TASKS).step_by(CONCURRENCY) {
                let name = format!("t{number}");
                broker.publish(vec![message(&name)]).await.expect("publishes");
                store
                    .accept(
                        &[Accepted::Task { head: head(&name), digest: None, due: None, sent: None }],
                        WallClock.now(),
                    )
                    .await
                    .expect("accepts");
            }
        });
    }
    producers.join_all().await;
    let submitted = began.elapsed();

    let began = Instant::now();
    let mut consumer = broker.consume(&tasks(), prefetch(CONCURRENCY as u16)).await.expect("consumes");
    drain(&mut consumer, &store).await;
    let drained = began.elapsed();
    report("submit (publish + accept)", submitted);
    report("run (deliver + claim + finish + settle)", drained);
    report("both", submitted + drained);
    println!("{} bytes in the file", std::fs::metadata(state.path()).expect("it exists").len());
    look(&database).await;
}

async fn drain(consumer: &mut Box<dyn Consumer>, store: &Arc<SqliteStore>) {
    let session = Id::parse("s").expect("valid");
    let mut running = JoinSet::new();
    let mut done = 0;
    while done < TASKS {
        tokio::select! {
            delivery = consumer.next() => {
                let delivery = delivery.expect("goes on").expect("no error");
                running.spawn(run(delivery, Arc::clone(store), session.clone()));
            }
            Some(ended) = running.join_next() => {
                ended.expect("no panic");
                done += 1;
            }
        }
    }
}

async fn run(delivery: Delivery, store: Arc<SqliteStore>, session: Id) {
    let claim = Claim {
        head: head(&text(&delivery)),
        attempt: 1,
        session,
        over: None,
        run: None,
        inputs: Vec::new(),
        inputs_bytes_max: 0,
        digest: None,
    };
    let claimed = store.claim(&claim, WallClock.now()).await.expect("claims");
    let Claimed::Run { lease, .. } = claimed else { panic!("{claimed:?}") };
    complete(&store, &lease).await;
    delivery.settle(Settlement::Done).await.expect("settles");
}

/// How long a single step takes when nothing else is done.
async fn look(database: &Database) {
    let store = store(database.clone());
    let began = Instant::now();
    for _ in 0..1000 {
        store.ping().await.expect("answers");
    }
    println!("one step alone: {:?}", began.elapsed() / 1000);
}

fn report(what: &str, took: Duration) {
    println!("{what}: {:.0} tasks/s", TASKS as f64 / took.as_secs_f64());
}
