use proptest::prelude::*;

use super::*;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn idle_for(count: u64) -> Member {
    Member { age: seconds(count), idle: seconds(count), ..Member::default() }
}

fn busy() -> Member {
    Member { running: 1, uses: 1, ..Member::default() }
}

fn need(members: &[Member]) -> Need<'_> {
    Need {
        members,
        starting: 0,
        waiting: 0,
        waited: Duration::ZERO,
        used: 0.0,
        since_growth: None,
        failures: 0,
        since_failure: Duration::ZERO,
    }
}

fn policy() -> Policy {
    Policy { min: 1, max: 8, ..Policy::default() }
}

#[test]
fn a_pool_has_its_least_members_and_lets_idle_ones_go() {
    let policy = Policy { min: 2, ..policy() };
    assert_eq!(policy.decide(&need(&[])).start, 2);
    assert_eq!(policy.decide(&need(&[idle_for(1)])).start, 1);
    let plan = policy.decide(&need(&[idle_for(70), idle_for(90), idle_for(10)]));
    assert_eq!((plan.leave, plan.start), (vec![(1, Why::Idle)], 0), "the longest idle one, and no more");
    let plan = policy.decide(&need(&[idle_for(10), idle_for(20), idle_for(5)]));
    assert_eq!((plan.leave, plan.again), (Vec::new(), Some(seconds(40))));
}

#[test]
fn who_is_beyond_the_most_goes_the_least_busy_first() {
    let policy = Policy { max: 2, ..policy() };
    let members = [busy(), idle_for(5), idle_for(9), busy()];
    let waiting = Need { waiting: 3, waited: seconds(9), ..need(&members) };
    let plan = policy.decide(&waiting);
    assert_eq!((plan.leave, plan.start), (vec![(2, Why::Surplus), (1, Why::Surplus)], 0));
}

#[test]
fn calls_that_wait_start_more_by_need_and_with_a_cooldown() {
    let members = [busy(), busy()];
    let waiting =
        |waited, used, since_growth| Need { waiting: 5, waited, used, since_growth, ..need(&members) };
    let start = |need: &Need<'_>| policy().decide(need).start;
    assert_eq!(start(&waiting(Duration::from_millis(49), 0.5, None)), 0, "not yet");
    assert_eq!(start(&waiting(Duration::from_millis(50), 0.5, None)), 2, "they have waited: doubled");
    assert_eq!(start(&waiting(Duration::ZERO, 0.8, None)), 2, "the members are busy");
    assert_eq!(start(&waiting(seconds(1), 0.9, Some(Duration::from_millis(499)))), 0, "it grew just now");
    let plan = policy().decide(&waiting(seconds(1), 0.9, Some(Duration::from_millis(400))));
    assert_eq!(plan.again, Some(Duration::from_millis(100)));
    let few = Need { waiting: 1, ..waiting(seconds(1), 0.9, None) };
    assert_eq!(start(&few), 1, "no more than they need");
    assert_eq!(start(&Need { starting: 5, ..waiting(seconds(1), 0.9, None) }), 0, "they are coming");
    let nobody = Need { waiting: 1, ..need(&[]) };
    assert_eq!(Policy { min: 0, ..policy() }.decide(&nobody).start, 1, "at once where nobody is");
}

#[test]
fn who_is_worn_out_leaves_and_is_replaced() {
    let policy =
        Policy { uses_max: Some(3), age_max: Some(seconds(100)), memory_bytes_max: Some(1000), ..policy() };
    for (member, why) in [
        (Member { uses: 3, ..Member::default() }, Why::Uses),
        (Member { age: seconds(100), ..Member::default() }, Why::Age),
        (Member { memory_bytes: Some(1001), running: 1, ..Member::default() }, Why::Memory),
    ] {
        let plan = policy.decide(&need(&[member]));
        assert_eq!((plan.leave, plan.start), (vec![(0, why)], 1));
    }
    let leaving = Member { is_leaving: true, running: 1, ..Member::default() };
    assert_eq!(Policy { max: 1, ..policy }.decide(&need(&[leaving])).start, 0, "its place is still taken");
}

#[test]
fn what_cannot_start_is_tried_seldom_and_who_waits_is_told() {
    let policy = Policy { min: 0, ..policy() };
    let failed = |failures, since_failure| Need { failures, since_failure, waiting: 2, ..need(&[]) };
    let plan = policy.decide(&failed(1, Duration::from_millis(150)));
    assert_eq!((plan.start, plan.again, plan.give_up), (0, Some(Duration::from_millis(50)), false));
    assert_eq!(policy.decide(&failed(1, Duration::from_millis(200))).start, 1);
    assert!(policy.decide(&failed(3, Duration::from_millis(799))).give_up);
    let quiet = Need { waiting: 0, ..failed(3, Duration::from_millis(800)) };
    assert_eq!(policy.decide(&quiet).start, 1, "tried again although nobody asks");
    assert_eq!(policy.pause(40), policy.restart_max);
}

#[test]
fn after_a_failure_nobody_is_stopped_for_idleness_to_be_started_again() {
    let policy = Policy { min: 0, ..policy() };
    let member = Member { age: policy.idle, idle: policy.idle, ..Member::default() };
    let members = [member];
    let plan = policy.decide(&Need { failures: 1, since_failure: seconds(1), ..need(&members) });
    assert_eq!((plan.leave, plan.start), (vec![], 0));
    assert_eq!(policy.decide(&need(&members)).leave, [(0, Why::Idle)], "without one it goes");
}

#[test]
fn use_follows_what_is_taken() {
    let mut used = Use::default();
    used.observe(1, 1, seconds(0));
    assert!(used.at(seconds(1)) < 0.2 && used.at(seconds(20)) > 0.95);
    used.observe(0, 1, seconds(20));
    assert!(used.at(seconds(20)) > 0.95 && used.at(seconds(40)) < 0.05);
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let worn =
        (proptest::option::of(1_u64..5), proptest::option::of(1_u64..50), proptest::option::of(1_u64..50));
    ((0_u32..4), (1_u32..9), (1_u32..4), worn).prop_map(|(min, max, concurrency, (uses, age, memory))| {
        Policy {
            min: min.min(max),
            max,
            concurrency,
            uses_max: uses,
            age_max: age.map(seconds),
            memory_bytes_max: memory,
            idle: seconds(10),
            ..Policy::default()
        }
    })
}

fn any_member() -> impl Strategy<Value = Member> {
    (0_u64..60, 0_u32..4, 0_u64..6, proptest::option::of(0_u64..60), any::<bool>()).prop_map(
        |(age, running, uses, memory_bytes, is_leaving)| Member {
            age: seconds(age),
            running,
            idle: if running == 0 { seconds(age) } else { Duration::ZERO },
            uses,
            memory_bytes,
            is_leaving,
        },
    )
}

proptest! {
    #[test]
    fn the_bounds_are_kept_whatever_happens(
        policy in any_policy(),
        members in proptest::collection::vec(any_member(), 0..8),
        starting in 0_u32..4,
        waiting in 0_usize..20,
        waited in 0_u64..3,
        used in 0.0..1.0_f64,
        failures in 0_u32..6,
        since_failure in 0_u64..40,
    ) {
        let need = Need {
            starting, waiting, waited: seconds(waited), used, failures, since_failure: seconds(since_failure),
            ..need(&members)
        };
        let plan = policy.decide(&need);
        let everybody = u32::try_from(members.len()).expect("few") + starting;
        prop_assert!(plan.start == 0 || everybody + plan.start <= policy.max, "never more than max");
        let paused = failures > 0 && seconds(since_failure) < policy.pause(failures);
        prop_assert!(!paused || plan.start == 0, "nothing is started in the pause");
        prop_assert!(failures == 0 || plan.start + starting <= starting.max(1), "one at a time after a failure");
        for (place, why) in &plan.leave {
            let member = &members[*place];
            prop_assert!(!member.is_leaving, "nobody leaves twice");
            prop_assert!(*why != Why::Idle || (member.running == 0 && waiting == 0 && member.idle >= policy.idle));
        }
        let stay = |member: &&Member| !member.is_leaving && policy.worn(member).is_none();
        let fit = members.iter().filter(stay).count();
        let idle = plan.leave.iter().filter(|(_, why)| *why == Why::Idle).count();
        prop_assert!(idle == 0 || fit - idle >= policy.min as usize, "idleness leaves min");
        if !paused && waiting > 0 && fit == 0 && starting == 0 && everybody < policy.max {
            prop_assert!(plan.start >= 1, "who waits is served by somebody");
        }
        prop_assert!(plan.start == 0 || waiting > 0 || fit + (starting as usize) < policy.min.max(1) as usize);
        for (place, member) in members.iter().enumerate() {
            let leaves = member.is_leaving || plan.leave.iter().any(|(left, _)| *left == place);
            prop_assert!(leaves || policy.worn(member).is_none(), "who is worn out leaves");
        }
    }

    /// A pool whose members start at once and serve one call a second, under a load that comes and goes.
    #[test]
    fn a_pool_serves_its_load_and_shrinks_to_min_after_it(
        policy in any_policy(),
        load in proptest::collection::vec(0_usize..12, 1..40),
    ) {
        let policy = Policy { memory_bytes_max: None, ..policy };
        let (mut members, mut waiting): (Vec<Member>, usize) = (Vec::new(), 0);
        let (total, mut served, quiet) = (load.iter().sum::<usize>(), 0, 600 + load.len());
        for calls in load.into_iter().chain(std::iter::repeat_n(0, quiet)) {
            waiting += calls;
            let plan = policy.decide(&Need { waiting, waited: seconds(1), used: 0.5, ..need(&members) });
            plan.leave.iter().for_each(|(place, _)| members[*place].is_leaving = true);
            members.extend(std::iter::repeat_n(Member::default(), plan.start as usize));
            members.retain(|member| !member.is_leaving);
            prop_assert!(members.len() <= policy.max as usize);
            for member in &mut members {
                member.age += seconds(1);
                member.idle += seconds(1);
                while waiting > 0 && policy.has_room(member) {
                    (waiting, served, member.running) = (waiting - 1, served + 1, member.running + 1);
                    member.uses += 1;
                    member.idle = Duration::ZERO;
                }
                member.running = 0;
            }
        }
        prop_assert_eq!((served, waiting), (total, 0), "every call was served");
        prop_assert!(members.len() <= policy.min as usize, "{} members of {}", members.len(), policy.min);
    }
}
