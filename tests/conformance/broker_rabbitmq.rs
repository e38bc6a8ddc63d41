//! What only RabbitMQ can show: lost connections, permissions, other people's queues, its own headers.

use bytes::Bytes;
use futures_util::StreamExt;
use gleitzeit::broker::rabbitmq::{Declare, RabbitBroker, Settings};
use gleitzeit::broker::{
    Broker, BrokerError, Delivery, Depth, Heard, Outgoing, Properties, Settlement, Target,
};
use gleitzeit::topology::{Address, Queue, Topology};
use serde_json::json;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::cases::{SOON, consume, depth_becomes, done, next, outgoing, ready};
use super::rabbitmq_server::{Server, VirtualHost, eventually};
use super::{Run, Started};
use crate::proxy::Proxy;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// Every case of this adapter alone.
        pub(crate) const CASES: &[(&str, fn() -> Run)] = &[$((stringify!($name), || Box::pin($name()))),*];
    };
}

cases![
    a_lost_connection_is_healed,
    every_confirmed_message_survives_lost_connections,
    a_deleted_queue_is_reported_once_and_found_again,
    a_listener_hears_again_after_a_lost_connection,
    a_listener_that_was_too_slow_says_that_it_missed_broadcasts,
    a_half_open_connection_is_noticed_and_replaced,
    a_publish_that_is_not_confirmed_in_time_is_an_error,
    messages_and_replies_are_persistent,
    a_node_that_is_away_is_passed_over,
    a_refused_login_is_waited_out,
    a_queue_of_another_kind_is_reported_and_left,
    a_worker_needs_no_right_to_configure,
    a_missing_topology_names_the_command,
    declaring_may_be_forbidden,
    a_wrong_login_is_told_from_nobody_there,
    what_the_broker_ends_is_in_the_inbox,
    a_dead_message_can_be_replayed_again_and_again,
    a_foreign_producers_message_is_understood,
    a_reply_reaches_a_queue_that_its_owner_has_bound,
    a_direct_reply_reaches_its_requester,
    an_event_reaches_who_listens_for_its_kind,
];

/// Whether a server is named.
pub(crate) fn is_here() -> Result<(), String> {
    let missing = "GLEITZEIT_AMQP_URL and GLEITZEIT_RABBITMQ_API name no server; run scripts/stack start";
    Server::from_environment().map(|_| ()).ok_or_else(|| missing.to_owned())
}

/// A broker on a virtual host of its own.
pub(crate) async fn start() -> Started {
    let vhost = server().vhost();
    (connect(&vhost.url()).await, Box::new(vhost))
}

fn server() -> Server {
    Server::from_environment().expect("is_here has looked")
}

async fn connect(url: &str) -> Arc<dyn Broker> {
    Arc::new(RabbitBroker::connect(Settings::new(url, "gleitzeit test")).await.expect("connects"))
}

async fn fresh() -> (VirtualHost, Arc<dyn Broker>, Queue) {
    let vhost = server().vhost();
    let broker = connect(&vhost.url()).await;
    let tasks = ready(&broker, &python()).await;
    (vhost, broker, tasks)
}

fn python() -> Address {
    Address::parse("python.v1").expect("valid")
}

// Laws 3, 9.
async fn a_lost_connection_is_healed() {
    let (vhost, broker, tasks) = fresh().await;
    broker.publish(vec![outgoing(&tasks, "1")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 5).await;
    let held = next(&mut consumer).await;
    assert!(!held.redelivered);

    assert_eq!(vhost.close_connections(2), 2);
    let again = next(&mut consumer).await;
    assert!(again.redelivered && again.body == "1");
    let error = held.settle(Settlement::Done).await.expect_err("its connection is gone");
    assert_eq!(error, BrokerError::DeliveryLost);
    done(again).await;

    broker.publish(vec![outgoing(&tasks, "2")]).await.expect("the publisher is back too");
    let second = next(&mut consumer).await;
    assert_eq!(second.body, "2");
    done(second).await;
    depth_becomes(&broker, &tasks, Depth { ready: 0, consumers: 1 }).await;
    broker.close().await;
}

// Laws 1, 9: publishing goes on while connections are cut; what was confirmed is there.
async fn every_confirmed_message_survives_lost_connections() {
    let (vhost, broker, tasks) = fresh().await;
    let vhost = Arc::new(vhost);
    let cutter = tokio::task::spawn_blocking({
        let vhost = Arc::clone(&vhost);
        move || (0..3).map(|_| vhost.close_connections(1)).sum::<usize>()
    });
    let (mut confirmed, mut round) = (Vec::new(), 0);
    while !cutter.is_finished() || round < 50 {
        let bodies: Vec<String> = (0..20).map(|index| format!("{round}-{index}")).collect();
        let messages = bodies.iter().map(|body| outgoing(&tasks, body.clone())).collect();
        match tokio::time::timeout(SOON, broker.publish(messages)).await.expect("fails in time, or not") {
            Ok(()) => confirmed.extend(bodies),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        round += 1;
    }
    assert!(cutter.await.expect("cut") >= 3);
    let mut consumer = consume(&broker, &tasks, 500).await;
    let mut missing: std::collections::HashSet<String> = confirmed.iter().cloned().collect();
    while !missing.is_empty() {
        let delivery = next(&mut consumer).await;
        missing.remove(&String::from_utf8_lossy(&delivery.body).into_owned());
        done(delivery).await;
    }
    broker.close().await;
}

// Law 9: an error for a person, once; then the consumer goes on.
async fn a_deleted_queue_is_reported_once_and_found_again() {
    let (vhost, broker, tasks) = fresh().await;
    let mut consumer = consume(&broker, &tasks, 1).await;
    vhost.delete_queue(&tasks.name());
    let error = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
    let error = error.expect("goes on").expect_err("the queue is gone");
    assert_eq!(error, BrokerError::NoQueue { queue: tasks.name() });
    let quiet = tokio::time::timeout(Duration::from_millis(700), consumer.next()).await;
    assert!(quiet.is_err(), "reported again");
    ready(&broker, &python()).await;
    broker.publish(vec![outgoing(&tasks, "after")]).await.expect("confirmed");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.body, "after");
    done(delivery).await;
    broker.close().await;
}

// Laws 8, 9.
async fn a_listener_hears_again_after_a_lost_connection() {
    let (vhost, broker, _) = fresh().await;
    let mut listener = broker.listen().await.expect("listens");
    vhost.close_connections(2);
    // At most once: what is sent while nobody listens is not heard; that there was such a time is.
    let heard = async {
        loop {
            let _ = broker.broadcast("again".into()).await;
            let wait = Duration::from_millis(200);
            if let Ok(heard) = tokio::time::timeout(wait, listener.next()).await {
                return heard;
            }
        }
    };
    let heard = tokio::time::timeout(SOON, heard).await.expect("in time");
    assert_eq!(heard.expect("goes on"), Heard::Gap);
    let heard = async {
        loop {
            broker.broadcast("again".into()).await.expect("sent");
            let wait = Duration::from_millis(200);
            if let Ok(heard) = tokio::time::timeout(wait, listener.next()).await {
                return heard;
            }
        }
    };
    let heard = tokio::time::timeout(SOON, heard).await.expect("in time");
    assert_eq!(heard.expect("goes on"), Heard::Broadcast("again".into()));
    broker.close().await;
}

// Law 8: the server drops what is too much, and tells nobody.
async fn a_listener_that_was_too_slow_says_that_it_missed_broadcasts() {
    let (_vhost, broker, tasks) = fresh().await;
    let mut listener = broker.listen().await.expect("listens");
    let (mut sent, mut were_missed) = (0, false);
    for count in [500, 1_500, 100] {
        for _ in 0..count {
            // Each has a channel of its own; one that could not be opened is no matter of this case.
            while broker.broadcast(sent.to_string().into()).await.is_err() {}
            sent += 1;
        }
        // Nobody knows when a broadcast has arrived; what is sent after it on the same connection says so.
        broker.publish(vec![outgoing(&tasks, "1")]).await.expect("confirmed");
        let (mut gaps, mut received) = (0, 0);
        loop {
            let heard = tokio::time::timeout(SOON, listener.next()).await.expect("in time");
            match heard.expect("goes on") {
                Heard::Gap => gaps += 1,
                Heard::Broadcast(body) if body == (sent - 1).to_string().as_bytes() => break,
                Heard::Broadcast(_) => received += 1,
            }
        }
        let is_whole = received >= count - 1;
        assert!(is_whole || gaps > 0, "{received} of {count} without a word");
        assert!(count > 1_000 || (is_whole && gaps == 0), "{received} of {count}, {gaps} gaps");
        were_missed |= !is_whole;
    }
    assert!(were_missed, "the queue was never full");
    broker.close().await;
}

// Law 9: neither end is told, nothing passes in either direction.
async fn a_half_open_connection_is_noticed_and_replaced() {
    let (vhost, admin, tasks) = fresh().await;
    let proxy = Proxy::start(&vhost.url()).await;
    let settings = Settings {
        heartbeat: Duration::from_secs(1),
        publish_timeout: Duration::from_secs(20),
        ..Settings::new(&proxy.url, "gleitzeit test")
    };
    let broker: Arc<dyn Broker> = Arc::new(RabbitBroker::connect(settings).await.expect("connects"));
    broker.publish(vec![outgoing(&tasks, "1")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    let held = next(&mut consumer).await;
    proxy.freeze();
    // What is published meanwhile may be held, and is not confirmed until a connection stands again.
    let published = async {
        while let Err(error) = broker.publish(vec![outgoing(&tasks, "2")]).await {
            assert!(error.is_transient(), "{error}");
        }
    };
    tokio::time::timeout(SOON, published).await.expect("in time");
    assert_eq!(held.settle(Settlement::Done).await, Err(BrokerError::DeliveryLost));
    // The server has noticed in its own time, and an unconfirmed publish may have come twice.
    let (mut first, mut second) = (false, false);
    while !(first && second) {
        let delivery = next(&mut consumer).await;
        first |= delivery.body == "1" && delivery.redelivered;
        second |= delivery.body == "2";
        done(delivery).await;
    }
    broker.close().await;
    admin.close().await;
}

// Law 1: nothing says whether the server has it.
async fn a_publish_that_is_not_confirmed_in_time_is_an_error() {
    let (vhost, admin, tasks) = fresh().await;
    let proxy = Proxy::start(&vhost.url()).await;
    let publish_timeout = Duration::from_secs(1);
    let settings = Settings { publish_timeout, ..Settings::new(&proxy.url, "gleitzeit test") };
    let broker: Arc<dyn Broker> = Arc::new(RabbitBroker::connect(settings).await.expect("connects"));
    broker.publish(vec![outgoing(&tasks, "1")]).await.expect("confirmed");
    proxy.freeze();
    let error = broker.publish(vec![outgoing(&tasks, "2")]).await.expect_err("nobody has answered");
    assert!(matches!(error, BrokerError::Unconfirmed { .. }), "{error}");
    proxy.cut();
    broker.close().await;
    admin.close().await;
}

// Law 1: held means across a restart of the server too.
async fn messages_and_replies_are_persistent() {
    let (vhost, broker, tasks) = fresh().await;
    vhost.declare_queue("answers", &json!({}));
    vhost.bind("gleitzeit.replies", "answers", "answers");
    let reply = Outgoing { target: Target::Reply("answers".to_owned()), ..outgoing(&tasks, "reply") };
    let delayed = Outgoing { delay: Some(Duration::from_millis(100)), ..outgoing(&tasks, "delayed") };
    let others = [Queue::Workflows, Queue::Inbox, Queue::Dead(python())];
    let mut messages: Vec<Outgoing> = others.iter().map(|queue| outgoing(queue, "held")).collect();
    messages.extend([delayed, reply]);
    broker.publish(messages).await.expect("confirmed");
    let queues = others.iter().map(Queue::name).chain([tasks.name(), "answers".to_owned()]);
    for queue in queues {
        let found = eventually("a message", || vhost.take(&queue).into_iter().next());
        assert_eq!(found["properties"]["delivery_mode"], 2, "{queue}: {found}");
    }
    broker.close().await;
}

// Law 9: the addresses are those of one cluster.
async fn a_node_that_is_away_is_passed_over() {
    let vhost = server().vhost();
    let (first, second) = (Proxy::start(&vhost.url()).await, Proxy::start(&vhost.url()).await);
    let urls = vec![first.url.clone(), second.url.clone()];
    let settings = Settings { urls, ..Settings::new("", "gleitzeit test") };
    first.refuse(true);
    let broker: Arc<dyn Broker> = Arc::new(RabbitBroker::connect(settings).await.expect("to the second"));
    let tasks = ready(&broker, &python()).await;
    broker.publish(vec![outgoing(&tasks, "1")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    done(next(&mut consumer).await).await;
    first.refuse(false);
    second.refuse(true);
    second.cut();
    let published = async { while broker.publish(vec![outgoing(&tasks, "2")]).await.is_err() {} };
    tokio::time::timeout(SOON, published).await.expect("to the first");
    let delivery = next(&mut consumer).await;
    done(delivery).await;
    broker.close().await;
}

// Law 9: a password that was changed, and put back.
async fn a_refused_login_is_waited_out() {
    let (mut vhost, admin, tasks) = fresh().await;
    let user = vhost.user(".*", ".*", ".*");
    let broker = connect(&vhost.url_of(&user, "secret")).await;
    let mut consumer = consume(&broker, &tasks, 1).await;
    let password = |word: &str| {
        vhost.call("PUT", &format!("/api/users/{user}"), &json!({"password": word, "tags": ""}));
    };
    password("another");
    vhost.close_connections(3);
    let refused = async {
        loop {
            match broker.publish(vec![outgoing(&tasks, "0")]).await {
                Err(BrokerError::LoginRefused { .. }) => return,
                Err(error) => assert!(error.is_transient(), "{error}"),
                // The server was not that quick.
                Ok(()) => done(next(&mut consumer).await).await,
            }
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("in time");
    let quiet = tokio::time::timeout(Duration::from_millis(700), consumer.next()).await;
    assert!(quiet.is_err(), "the link tells of it, not each consumer: {quiet:?}");
    assert!(!consumer.is_subscribed());
    password("secret");
    let published = async { while broker.publish(vec![outgoing(&tasks, "1")]).await.is_err() {} };
    tokio::time::timeout(SOON, published).await.expect("let in again");
    let delivery = next(&mut consumer).await;
    assert!(consumer.is_subscribed());
    done(delivery).await;
    broker.close().await;
    admin.close().await;
}

// Law 7.
async fn a_queue_of_another_kind_is_reported_and_left() {
    let vhost = server().vhost();
    let broker = connect(&vhost.url()).await;
    let arguments = json!({"x-queue-type": "classic", "x-max-priority": 3});
    vhost.declare_queue("gleitzeit.tasks.python.v1", &arguments);
    let tasks = ready(&broker, &python()).await;
    let before = vhost.queue(&tasks.name())["arguments"].clone();
    for _ in 0..2 {
        let findings = broker.check(&Topology::new([python()])).await.expect("checked");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].what, "queue gleitzeit.tasks.python.v1");
        assert!(findings[0].problem.contains("has another x-"), "{findings:?}");
    }
    assert_eq!(vhost.queue(&tasks.name())["arguments"], before);
    broker.publish(vec![outgoing(&tasks, "usable")]).await.expect("it is bound like ours");
    broker.close().await;
}

// Law 7: nothing is missing, so nothing is needed.
async fn a_worker_needs_no_right_to_configure() {
    let (mut vhost, admin, tasks) = fresh().await;
    let user =
        vhost.user("^amq\\.gen-", "^(gleitzeit\\.|amq\\.gen-|amq\\.default$)", "^(gleitzeit\\.|amq\\.gen-)");
    let worker = connect(&vhost.url_of(&user, "secret")).await;
    worker.declare(&Topology::new([python()])).await.expect("nothing to do");
    let mut listener = worker.listen().await.expect("listens");
    worker.broadcast("hello".into()).await.expect("sent");
    assert_eq!(
        tokio::time::timeout(SOON, listener.next()).await.expect("in time").expect("goes on"),
        Heard::Broadcast("hello".into())
    );
    let delayed = Outgoing { delay: Some(Duration::from_millis(100)), ..outgoing(&tasks, "2") };
    worker.publish(vec![outgoing(&tasks, "1"), delayed]).await.expect("confirmed");
    let mut consumer = consume(&worker, &tasks, 1).await;
    for expected in ["1", "2"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.body, expected);
        done(delivery).await;
    }
    let findings = worker.check(&Topology::new([python()])).await.expect("as far as it may");
    assert!(findings[0].problem.contains("configure permission"), "{findings:?}");
    worker.close().await;
    admin.close().await;
}

// Law 7.
async fn a_missing_topology_names_the_command() {
    let mut vhost = server().vhost();
    let user = vhost.user("^$", "gleitzeit", "gleitzeit");
    let worker = connect(&vhost.url_of(&user, "secret")).await;
    let error = worker.declare(&Topology::new([python()])).await.expect_err("it may not");
    assert!(matches!(error, BrokerError::AccessRefused { .. }), "{error}");
    assert!(error.to_string().contains("`gleitzeit topology apply`"), "{error}");

    let stranger = vhost.user("^$", "^$", "^$");
    let admin = connect(&vhost.url()).await;
    let tasks = ready(&admin, &python()).await;
    let stranger = connect(&vhost.url_of(&stranger, "secret")).await;
    let error = stranger.publish(vec![outgoing(&tasks, "x")]).await.expect_err("it may not write");
    assert!(matches!(error, BrokerError::AccessRefused { .. }), "{error}");
    let error = stranger.consume(&tasks, NonZeroU16::MIN).await.expect_err("it may not read");
    assert!(matches!(error, BrokerError::AccessRefused { .. }), "{error}");
    for broker in [worker, stranger, admin] {
        broker.close().await;
    }
}

async fn declaring_may_be_forbidden() {
    let vhost = server().vhost();
    let with = |declare| Settings { declare, ..Settings::new(&vhost.url(), "gleitzeit test") };
    let never = RabbitBroker::connect(with(Declare::Never)).await.expect("connects");
    never.declare(&Topology::new([python()])).await.expect("nothing is done");
    let check = RabbitBroker::connect(with(Declare::Check)).await.expect("connects");
    let error = check.declare(&Topology::new([python()])).await.expect_err("nothing is there");
    assert!(matches!(error, BrokerError::Mismatch { .. }), "{error}");
    let auto = RabbitBroker::connect(with(Declare::Auto)).await.expect("connects");
    auto.declare(&Topology::new([python()])).await.expect("created");
    check.declare(&Topology::new([python()])).await.expect("all is there");
    for broker in [never, check, auto] {
        broker.close().await;
    }
}

async fn a_wrong_login_is_told_from_nobody_there() {
    let vhost = server().vhost();
    let error = |url: String| async move {
        let error = RabbitBroker::connect(Settings::new(&url, "gleitzeit test")).await.expect_err("refused");
        assert!(!error.to_string().contains("s3cr"), "{error}");
        error
    };
    let password = error(vhost.url_of("guest", "s3cr%2Fet")).await;
    assert!(matches!(password, BrokerError::LoginRefused { .. }), "{password}");
    let missing = error(server().url("guest", "guest", "no-such-vhost")).await;
    assert!(matches!(missing, BrokerError::LoginRefused { .. }), "{missing}");
    // A port that was free a moment ago.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("known").port();
    let nobody = error(format!("amqp://guest:s3cret@127.0.0.1:{port}/%2f")).await;
    assert!(matches!(nobody, BrokerError::Unreachable { .. }), "{nobody}");
    let patient = Settings {
        wait: true,
        ..Settings::new(&format!("amqp://guest:guest@127.0.0.1:{port}/%2f"), "gleitzeit test")
    };
    let waiting = tokio::time::timeout(Duration::from_secs(1), RabbitBroker::connect(patient)).await;
    assert!(waiting.is_err(), "it waits for the server when asked to");
    let unknown = error("amqp://guest:s3cret@no-such-host.invalid/%2f".to_owned()).await;
    assert!(matches!(unknown, BrokerError::Unreachable { .. }), "{unknown}");
}

async fn from_inbox(broker: &Arc<dyn Broker>) -> Delivery {
    let mut consumer = consume(broker, &Queue::Inbox, 1).await;
    next(&mut consumer).await
}

async fn what_the_broker_ends_is_in_the_inbox() {
    let (vhost, broker, tasks) = fresh().await;
    assert!(vhost.publish("gleitzeit.tasks", "nobody.v1", "{}", &json!({"message_id": "a"})));
    let unroutable = from_inbox(&broker).await;
    assert_eq!(unroutable.deaths.len(), 1);
    let death = &unroutable.deaths[0];
    assert_eq!((death.reason.as_str(), death.queue.as_str()), ("unroutable", ""));
    assert_eq!((death.exchange.as_str(), death.routing_key.as_str()), ("gleitzeit.tasks", "nobody.v1"));
    done(unroutable).await;

    assert!(vhost.publish(
        "gleitzeit.tasks",
        "python.v1",
        "{}",
        &json!({"message_id": "b", "expiration": "1"})
    ));
    let expired = from_inbox(&broker).await;
    let death = &expired.deaths[0];
    assert_eq!((death.reason.as_str(), death.queue.as_str()), ("expired", "gleitzeit.tasks.python.v1"));
    assert_eq!((death.exchange.as_str(), death.routing_key.as_str()), ("gleitzeit.tasks", "python.v1"));
    assert_eq!(expired.properties.message_id.as_deref(), Some("b"));
    done(expired).await;

    // A delayed message whose queue goes meanwhile is not lost either.
    let delayed = Outgoing { delay: Some(Duration::from_millis(500)), ..outgoing(&tasks, "c") };
    broker.publish(vec![delayed]).await.expect("confirmed");
    vhost.delete_queue(&tasks.name());
    let orphan = from_inbox(&broker).await;
    let death = &orphan.deaths[0];
    assert_eq!((death.reason.as_str(), death.routing_key.as_str()), ("unroutable", "python.v1"));
    assert_eq!(orphan.body, "c");
    done(orphan).await;
    broker.close().await;
}

// Law 6: RabbitMQ 3.10 drops a message with marks of an earlier pass without a word.
async fn a_dead_message_can_be_replayed_again_and_again() {
    let (vhost, broker, tasks) = fresh().await;
    let headers =
        json!({"headers": {"traceparent": "00-1"}, "expiration": "1", "message_id": "m", "priority": 7});
    assert!(vhost.publish("gleitzeit.tasks", "python.v1", "again", &headers));
    let dead = from_inbox(&broker).await;
    let mut properties = dead.properties.clone();
    assert_eq!(properties.headers, [("traceparent".to_owned(), "00-1".to_owned())].into());
    done(dead).await;
    let mut consumer = consume(&broker, &tasks, 1).await;
    for _ in 0..4 {
        let delay = Some(Duration::from_millis(300));
        broker
            .publish(vec![Outgoing { properties, delay, ..outgoing(&tasks, "again") }])
            .await
            .expect("confirmed");
        let delivery = next(&mut consumer).await;
        properties = delivery.properties.clone();
        assert_eq!((properties.message_id.as_deref(), properties.priority), (Some("m"), Some(7)));
        assert_eq!(properties.headers.len(), 1);
        done(delivery).await;
    }
    broker.close().await;
}

async fn a_foreign_producers_message_is_understood() {
    let (vhost, broker, tasks) = fresh().await;
    let properties =
        json!({"priority": 200, "headers": {"number": 5, "text": "kept", "list": [1]}, "type": "x"});
    assert!(vhost.publish("gleitzeit.tasks", "python.v1", "not even json", &properties));
    assert!(vhost.publish("gleitzeit.workflows", "whatever", "{}", &json!({})));
    let mut consumer = consume(&broker, &tasks, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.body, "not even json");
    assert_eq!(delivery.properties.priority, Some(9));
    assert_eq!(delivery.properties.headers, [("text".to_owned(), "kept".to_owned())].into());
    assert_eq!(json!(delivery.properties.other_headers), json!({"number": 5}));
    assert!(delivery.deaths.is_empty());
    done(delivery).await;
    let mut consumer = consume(&broker, &Queue::Workflows, 1).await;
    done(next(&mut consumer).await).await;
    broker.close().await;
}

async fn a_reply_reaches_a_queue_that_its_owner_has_bound() {
    let (vhost, broker, tasks) = fresh().await;
    vhost.declare_queue("answers", &json!({}));
    vhost.bind("gleitzeit.replies", "answers", "answers");
    let properties = Properties { correlation_id: Some("call 1".to_owned()), ..Properties::default() };
    let target = Target::Reply("answers".to_owned());
    broker.publish(vec![Outgoing { target, properties, ..outgoing(&tasks, "42") }]).await.expect("confirmed");
    let answers = vhost.take("answers");
    assert_eq!(answers.len(), 1);
    assert_eq!(
        (&answers[0]["payload"], &answers[0]["properties"]["correlation_id"]),
        (&json!("42"), &json!("call 1"))
    );
    // A name is not a key to every queue of the server.
    let target = Target::Reply(tasks.name());
    broker.publish(vec![Outgoing { target, ..outgoing(&tasks, "no task") }]).await.expect("dropped");
    assert_eq!(broker.depth(&tasks).await.expect("counted").ready, 0);
    broker.close().await;
}

// The requester is a plain AMQP client, as it would be in another language.
#[expect(clippy::disallowed_methods, reason = "the requester is not ours, and publishes as it likes")]
async fn a_direct_reply_reaches_its_requester() {
    let (vhost, broker, tasks) = fresh().await;
    let requester = lapin::Connection::connect(&vhost.url(), Default::default()).await.expect("connects");
    let channel = requester.create_channel().await.expect("a channel");
    let pseudo_queue = "amq.rabbitmq.reply-to";
    let no_ack = lapin::options::BasicConsumeOptions { no_ack: true, ..Default::default() };
    let listening = channel.basic_consume(pseudo_queue.into(), "".into(), no_ack, Default::default());
    let mut answers = listening.await.expect("consumes");
    let wish = lapin::BasicProperties::default().with_reply_to(pseudo_queue.into());
    let (exchange, key) = ("gleitzeit.tasks".into(), "python.v1".into());
    channel.basic_publish(exchange, key, Default::default(), b"21", wish).await.expect("written");

    let mut consumer = consume(&broker, &tasks, 1).await;
    let request = next(&mut consumer).await;
    let name = request.properties.reply_to.clone().expect("the server has put the true name");
    assert!(name.starts_with("amq.rabbitmq.reply-to.") && name.len() > 22, "{name}");
    let target = Target::Reply(name);
    broker.publish(vec![Outgoing { target, ..outgoing(&tasks, "42") }]).await.expect("confirmed");
    done(request).await;
    let answer = tokio::time::timeout(SOON, answers.next()).await.expect("in time");
    assert_eq!(answer.expect("goes on").expect("an answer").data, b"42");
    requester.close(200, "done".into()).await.expect("closed");
    broker.close().await;
}

// Law 8.
async fn an_event_reaches_who_listens_for_its_kind() {
    let (vhost, broker, _) = fresh().await;
    vhost.declare_queue("events", &json!({}));
    vhost.bind("gleitzeit.events", "events", "task.*");
    for event in ["task.completed", "workflow.completed", "task.failed"] {
        broker.emit(event, Bytes::from(format!("{{\"type\":\"{event}\"}}")));
    }
    // Closing writes what waits.
    broker.close().await;
    let mut kinds = Vec::new();
    eventually("both events", || {
        for event in vhost.take("events") {
            kinds.push((event["routing_key"].clone(), event["properties"]["delivery_mode"].clone()));
        }
        (kinds.len() >= 2).then_some(())
    });
    assert_eq!(kinds, [(json!("task.completed"), json!(1)), (json!("task.failed"), json!(1))]);
}
