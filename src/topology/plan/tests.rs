use super::*;

fn plan(version: &str, types: &QueueTypes) -> Plan {
    let topology = Topology::new([Address::parse("python.v1").expect("valid")]);
    Plan::new(&topology, Release::parse(version).expect("a version"), types)
}

fn arguments(plan: &Plan, queue: &str) -> String {
    let queue = plan.queues.iter().find(|found| found.name == queue).expect("planned");
    queue_definition(queue)["arguments"].to_string()
}

#[test]
fn versions_are_read_and_ordered() {
    let release = |text| Release::parse(text);
    assert_eq!(release("3.10.8"), Some(Release { major: 3, minor: 10 }));
    assert_eq!(release("4.3.0-rc.1"), Some(Release { major: 4, minor: 3 }));
    assert_eq!(release("four"), None);
    assert!(release("3.10.8") > release("3.9.1"));
}

#[test]
fn older_servers_get_classic_queues_with_priorities() {
    for version in ["3.10.8", "3.13.7", "4.0.5", "4.2.1"] {
        let plan = plan(version, &QueueTypes::default());
        let work = r#"{"x-queue-type":"classic","x-queue-version":2,"x-max-priority":9,"x-dead-letter-exchange":"gleitzeit.inbox"}"#;
        assert_eq!(arguments(&plan, "gleitzeit.tasks.python.v1"), work, "{version}");
        assert_eq!(arguments(&plan, "gleitzeit.workflows"), work);
        let dead = r#"{"x-queue-type":"classic","x-queue-version":2}"#;
        assert_eq!(arguments(&plan, "gleitzeit.dead.inbox"), dead);
    }
}

#[test]
fn what_waits_in_the_cascade_is_handed_on_with_a_confirm_on_every_release() {
    let delay = r#"{"x-queue-type":"quorum","x-message-ttl":100,"x-dead-letter-exchange":"gleitzeit.delay.due","x-dead-letter-strategy":"at-least-once","x-overflow":"reject-publish"}"#;
    for version in ["3.10.8", "3.13.7", "4.0.5", "4.2.1", "4.3.6"] {
        let plan = plan(version, &QueueTypes::default());
        assert_eq!(arguments(&plan, "gleitzeit.delay.00.100ms"), delay, "{version}");
    }
    let classic = QueueTypes { all: Some(QueueType::Classic), ..QueueTypes::default() };
    let delay = arguments(&plan("4.3.6", &classic), "gleitzeit.delay.00.100ms");
    assert!(delay.starts_with(r#"{"x-queue-type":"classic""#), "{delay}");
}

#[test]
fn newer_servers_get_quorum_queues_that_lose_nothing() {
    let plan = plan("4.3.6", &QueueTypes::default());
    let work = r#"{"x-queue-type":"quorum","x-dead-letter-exchange":"gleitzeit.inbox","x-dead-letter-strategy":"at-least-once","x-overflow":"reject-publish","x-delivery-limit":-1,"x-consumer-timeout":1800000}"#;
    assert_eq!(arguments(&plan, "gleitzeit.tasks.python.v1"), work);
    let dead = r#"{"x-queue-type":"quorum","x-delivery-limit":-1}"#;
    assert_eq!(arguments(&plan, "gleitzeit.dead.python.v1"), dead);
    let delay = r#"{"x-queue-type":"quorum","x-message-ttl":13421772800,"x-dead-letter-exchange":"gleitzeit.delay.26.77d16h","x-dead-letter-strategy":"at-least-once","x-overflow":"reject-publish"}"#;
    assert_eq!(arguments(&plan, "gleitzeit.delay.27.155d08h"), delay);
}

#[test]
fn the_operator_chooses_the_type_of_one_protocol() {
    let python = Address::parse("python.v1").expect("valid");
    let types = QueueTypes { protocols: [(python, QueueType::Quorum)].into(), ..QueueTypes::default() };
    let plan = plan("3.12.0", &types);
    assert!(arguments(&plan, "gleitzeit.tasks.python.v1").contains("quorum"));
    assert!(!arguments(&plan, "gleitzeit.tasks.python.v1").contains("limit"), "-1 kills at once on 3.x");
    assert!(arguments(&plan, "gleitzeit.workflows").contains("classic"));
}

#[test]
fn every_binding_names_what_is_declared_and_every_queue_is_bound() {
    let plan = plan("4.3.6", &QueueTypes::default());
    let exchange = |name: &str| plan.exchanges.iter().any(|found| found.name == name);
    let queue = |name: &str| plan.queues.iter().any(|found| found.name == name);
    for binding in &plan.bindings {
        assert!(exchange(&binding.source), "{binding:?}");
        let found =
            if binding.to_queue { queue(&binding.destination) } else { exchange(&binding.destination) };
        assert!(found, "{binding:?}");
    }
    for queue in &plan.queues {
        assert!(plan.bindings.iter().any(|binding| binding.destination == queue.name), "{queue:?}");
    }
    let alternates: Vec<&str> = plan
        .exchanges
        .iter()
        .filter(|exchange| exchange.alternate == Some(INBOX))
        .map(|exchange| exchange.name.as_str())
        .collect();
    assert_eq!(alternates, [TASKS, delay::DUE_EXCHANGE]);
}

#[test]
fn each_queue_is_reached_by_its_own_route() {
    let plan = plan("3.10.8", &QueueTypes::default());
    for queue in Topology::new([Address::parse("python.v1").expect("valid")]).queues() {
        let (exchange, key) = route(&queue);
        let is_fanout = exchange == WORKFLOWS;
        let reached: Vec<&str> = plan
            .bindings
            .iter()
            .filter(|binding| binding.source == exchange && (is_fanout || binding.routing_key == key))
            .map(|binding| binding.destination.as_str())
            .collect();
        assert_eq!(reached, [queue.name()]);
    }
}

#[test]
fn a_lane_is_declared_and_bound_as_its_protocols_queue() {
    let python = Address::parse("python.v1").expect("valid");
    let lanes = lane::Lanes { count: 2, ..lane::Lanes::default() };
    let topology = Topology::new([python.clone()]).with_lanes(&[(python.clone(), lanes)].into());
    let release = Release::parse("4.3.6").expect("a version");
    let with = Plan::new(&topology, release, &QueueTypes::default());
    let without = plan("4.3.6", &QueueTypes::default());
    assert_eq!((with.queues.len(), &with.exchanges), (without.queues.len() + 2, &without.exchanges));
    let of = |plan: &Plan, name: &str| -> (String, Vec<(String, String)>) {
        let bindings = plan.bindings.iter().filter(|binding| binding.destination == name);
        let bindings = bindings.map(|binding| (binding.source.clone(), binding.routing_key.clone()));
        (arguments(plan, name), bindings.collect())
    };
    let (base, bound) = of(&without, "gleitzeit.tasks.python.v1");
    let bound = bound.into_iter().map(|(source, key)| (source, format!("{key}.lane.1")));
    assert_eq!(of(&with, "gleitzeit.tasks.python.v1.lane.1"), (base, bound.collect()));
}

#[test]
fn definitions_are_the_same_every_time() {
    let plan = plan("3.10.8", &QueueTypes::default());
    let definitions = plan.definitions();
    assert_eq!(definitions.to_string(), plan.clone().definitions().to_string());
    assert_eq!(definitions["vhosts"], json!([{"name": "/"}]));
    assert!(definitions.get("users").is_none());
    assert_eq!(definitions["exchanges"].as_array().map(Vec::len), Some(8 + 1 + 28));
    assert_eq!(definitions["queues"].as_array().map(Vec::len), Some(5 + 28));
}
