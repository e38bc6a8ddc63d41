//! The suite of the store port: every case with every adapter, each declared once.

#[path = "../support/store_backends.rs"]
mod backends;
#[path = "store/cancel.rs"]
mod cancel;
#[path = "store/graph.rs"]
mod graph;
#[path = "store/large.rs"]
mod large;
#[path = "store/lease.rs"]
mod lease;
#[path = "../support/store_model.rs"]
mod model;
#[path = "store/property.rs"]
mod property;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "store/redis_only.rs"]
mod redis_only;
#[path = "../support/store_stand.rs"]
mod stand;
#[path = "store/watch.rs"]
mod watch;

use futures_util::future::BoxFuture;
use libtest_mimic::{Failed, Trial};
use std::time::Duration;
use tokio::task::JoinSet;

use backends::{BACKENDS, Backend, environment};
use stand::Stand;

/// The longest that a case may take; a case that waits for ever fails.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// A case of the suite.
struct Case {
    name: &'static str,
    /// The lines of the law that it proves.
    law: &'static [u8],
    /// The one adapter that it is for.
    only: Option<&'static str>,
    run: fn(Stand) -> BoxFuture<'static, ()>,
}

/// A table of cases: `module::name [law, ...];`.
macro_rules! cases {
    ($only:expr; $($module:ident::$name:ident [$($law:literal),+];)+) => {
        [$(Case {
            name: stringify!($name),
            law: &[$($law),+],
            only: $only,
            run: |stand| Box::pin($module::$name(stand)),
        }),+]
    };
}

const CASES: &[Case] = &cases! { None;
    lease::a_task_on_its_own_lives [1, 8];
    lease::every_step_of_a_task_can_be_repeated [2, 5];
    lease::a_late_finisher_is_refused [3, 4];
    lease::a_takeover_counts_a_crash_of_that_task_only [3];
    lease::a_retry_is_decided_once [2, 3];
    lease::an_abandoned_attempt_did_not_take_place [3];
    lease::a_session_that_asks_again_is_held [3];
    lease::fifty_sessions_get_one_lease [1, 3];
    lease::an_end_is_recorded_once [5];
    lease::a_message_knows_better_than_a_store_that_forgot [2];
    lease::the_history_keeps_the_last_hundred [1];
    lease::a_result_that_nobody_wants_is_not_kept [8];
    lease::what_was_accepted_is_known_until_somebody_knows_better [1];
    lease::the_list_is_newest_first [1];
    lease::a_session_lives_from_beat_to_beat [10];
    graph::create_can_be_repeated [2, 6];
    graph::a_step_of_a_workflow_can_be_repeated [2, 6];
    graph::a_task_is_not_ready_before_its_dependencies [6];
    graph::a_workflow_that_nobody_knows [1];
    graph::a_refused_plan_ends_with_the_reason [1, 5];
    graph::a_diamond_is_released_by_one_of_eight [1, 6];
    graph::a_failure_cascades [6];
    graph::a_workflow_with_two_failures_ends_once [5, 6];
    graph::inputs_come_in_the_order_asked [8];
    graph::the_document_has_the_order_of_the_file [6, 8];
    graph::an_unwanted_result_is_left_out_of_the_document [8];
    graph::a_retry_keeps_the_workflow_waiting [6];
    large::a_fan_in_of_five_hundred [6];
    large::a_fan_out_of_two_thousand [6];
    large::a_failure_before_two_thousand [6];
    cancel::a_queued_task_is_cancelled [7];
    cancel::a_running_task_is_cancelled [4, 7];
    cancel::an_ended_task_is_not_cancelled [5, 7];
    cancel::a_mark_is_obeyed_by_claim [7];
    cancel::a_mark_is_obeyed_by_create [7];
    cancel::an_accepted_workflow_is_cancelled [7];
    cancel::a_workflow_is_cancelled_with_all_its_tasks [4, 6, 7];
    cancel::cancel_and_finish_race_to_one_end [1, 5];
    watch::every_end_is_told [9];
    watch::an_end_right_after_the_subscription_is_told [9];
    watch::watchers_do_not_disturb_each_other [9];
    watch::what_ends_unrun_is_told [9];
    watch::another_process_is_told [9];
    property::a_random_graph_ends_as_the_model_says [1, 2, 5, 6];
};

const REDIS_CASES: &[Case] = &cases! { Some("redis");
    redis_only::results_are_plain_and_told_by_key [9];
    redis_only::all_of_a_root_is_in_one_slot [1];
    redis_only::what_ends_has_a_ttl [8];
    redis_only::a_document_too_large_omits_results [8];
    redis_only::a_script_that_the_server_forgot_is_sent_again [2];
    redis_only::a_watcher_hears_of_a_lost_connection [9];
    redis_only::a_broken_connection_heals [2];
    redis_only::a_connection_refused_says_why [1];
    redis_only::an_id_is_a_task_or_a_workflow [1];
    redis_only::ten_thousand_dependents_in_one_step [6];
};

/// Every case with every adapter.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test("store::every_line_of_the_law_has_a_case", law_is_covered)];
    for backend in BACKENDS {
        let absent = (backend.absent)();
        for case in CASES.iter().chain(REDIS_CASES) {
            if case.only.is_some_and(|only| only != backend.name) {
                continue;
            }
            let name = format!("store::{}::{}", backend.name, case.name);
            trials.push(match &absent {
                None => Trial::test(name, || run(backend, case)),
                Some(_) if environment("CI").is_none() => {
                    Trial::test(name, || Ok(())).with_ignored_flag(true)
                }
                Some(reason) => {
                    let reason = reason.clone();
                    Trial::test(name, move || Err(Failed::from(reason)))
                }
            });
        }
    }
    trials
}

fn law_is_covered() -> Result<(), Failed> {
    for line in 1..=10 {
        if !CASES.iter().any(|case| case.law.contains(&line)) {
            return Err(format!("no case proves line {line}").into());
        }
    }
    Ok(())
}

fn run(backend: &'static Backend, case: &'static Case) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let place = (backend.place)().await;
        let stand = Stand::new(place.clone()).await;
        let mut running = JoinSet::new();
        running.spawn((case.run)(stand));
        let result = tokio::time::timeout(CASE_TIMEOUT, running.join_next()).await;
        running.shutdown().await;
        place.remove().await;
        match result {
            Ok(Some(Err(error))) => Err(panic_text(error).into()),
            Ok(_) => Ok(()),
            Err(_) => Err(format!("no end within {} s", CASE_TIMEOUT.as_secs()).into()),
        }
    })
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "the case was stopped".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "the case panicked".to_owned())
}
