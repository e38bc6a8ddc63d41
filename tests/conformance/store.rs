//! The suite of the store port: every case with every adapter, each declared once.

#[path = "../support/store_answers.rs"]
mod answers;
#[path = "../support/store_backends.rs"]
mod backends;
#[path = "store/cancel.rs"]
mod cancel;
#[path = "store/children.rs"]
mod children;
#[path = "store/gates.rs"]
mod gates;
#[path = "store/graph.rs"]
mod graph;
#[path = "store/known.rs"]
mod known;
#[path = "store/large.rs"]
mod large;
#[path = "store/lease.rs"]
mod lease;
#[path = "store/limit.rs"]
mod limit;
#[path = "store/lost.rs"]
mod lost;
#[path = "../support/store_model.rs"]
mod model;
#[path = "store/open.rs"]
mod open;
#[path = "store/output.rs"]
mod output;
#[path = "store/policy.rs"]
mod policy;
#[path = "store/profile.rs"]
mod profile;
#[path = "store/property.rs"]
mod property;
#[path = "store/redis_graph.rs"]
mod redis_graph;
#[path = "store/redis_only.rs"]
mod redis_only;
#[path = "store/retry.rs"]
mod retry;
#[path = "store/scenario.rs"]
mod scenario;
#[path = "store/schedule.rs"]
mod schedule;
#[path = "../support/store_stand.rs"]
mod stand;
#[path = "store/turns.rs"]
mod turns;
#[path = "store/watch.rs"]
mod watch;

use futures_util::future::BoxFuture;
use libtest_mimic::{Failed, Trial};
use std::time::Duration;
use tokio::task::JoinSet;

use backends::{BACKENDS, Backend, environment};
use stand::Stand;

/// The longest that a case may take; a case that waits for ever fails.
const CASE_TIMEOUT: Duration = Duration::from_secs(400);

/// The same where the environment asks for more random scenarios.
const LONG_RUN: Duration = Duration::from_secs(24 * 3600);

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
    lease::a_task_on_its_own_lives [1, 11];
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
    lease::a_result_that_nobody_wants_is_not_kept [11];
    lease::what_was_accepted_is_known_until_somebody_knows_better [1];
    lease::the_list_is_newest_first [1];
    lease::a_session_lives_from_beat_to_beat [13];
    lease::sessions_that_are_alive_are_named_once [13];
    graph::create_can_be_repeated [2, 6];
    graph::a_step_of_a_workflow_can_be_repeated [2, 6];
    graph::a_repeated_end_counts_once [2, 6];
    graph::a_task_is_not_ready_before_its_dependencies [6];
    graph::a_workflow_that_nobody_knows [1];
    graph::a_refused_plan_ends_with_the_reason [1, 5];
    graph::a_diamond_is_released_by_one_of_eight [1, 6];
    graph::a_failure_cascades [6];
    graph::a_workflow_with_two_failures_ends_once [5, 6];
    graph::inputs_come_in_the_order_asked [11];
    graph::results_that_are_too_large_together_are_not_read [11];
    graph::the_document_has_the_order_of_the_file [6, 11];
    graph::an_unwanted_result_is_left_out_of_the_document [11];
    graph::a_retry_keeps_the_workflow_waiting [6];
    large::a_fan_in_of_five_hundred [6];
    large::a_fan_out_of_two_thousand [6];
    large::a_failure_before_two_thousand [6];
    cancel::a_queued_task_is_cancelled [9];
    cancel::a_running_task_is_cancelled [4, 9];
    cancel::an_ended_task_is_not_cancelled [5, 9];
    cancel::a_mark_is_obeyed_by_claim [9];
    cancel::a_mark_is_obeyed_by_create [9];
    cancel::an_accepted_workflow_is_cancelled [9];
    cancel::a_workflow_is_cancelled_with_all_its_tasks [4, 6, 9];
    cancel::a_repeated_cancel_is_answered_as_one [2, 9];
    cancel::a_repeat_of_a_named_cancel_ends_nothing_of_a_later_run [2, 9, 10];
    cancel::a_repeat_of_a_named_cancel_is_known_whatever_it_ended [2, 9, 10];
    cancel::cancel_and_finish_race_to_one_end [1, 5];
    watch::every_end_is_told [12];
    watch::an_end_right_after_the_subscription_is_told [12];
    watch::watchers_do_not_disturb_each_other [12];
    watch::what_ends_unrun_is_told [12];
    watch::another_process_is_told [12];
    watch::a_follower_is_told_of_a_claim [12];
    watch::a_follower_is_told_of_an_attempt_that_is_put_back [12];
    watch::a_follower_is_told_of_what_is_taken_in_planned_and_retried [12];
    watch::a_follower_is_told_of_every_end [12];
    large::a_chain_of_two_thousand_fails_in_one_step [6];
    policy::every_policy_does_what_the_table_says [6];
    policy::the_order_of_ends_does_not_matter [6];
    policy::a_verdict_goes_down_the_graph [2, 6];
    policy::a_workflow_completes_in_spite_of_what_it_tolerates [9];
    policy::nothing_to_retry_where_all_is_completed_or_skipped [10];
    turns::a_ready_task_waits_for_its_turn [2, 7];
    turns::turns_go_by_priority_then_by_readiness [7];
    turns::every_end_gives_its_turn_away [6, 7];
    turns::an_attempt_that_is_to_be_repeated_keeps_its_turn [7];
    turns::a_repeat_answers_the_turns_that_it_gave [2, 7];
    turns::turns_are_never_given_twice [1, 7];
    children::a_parent_goes_on_when_its_children_have_ended [8];
    children::a_document_does_not_list_children [8, 11];
    children::an_expansion_can_be_repeated [2, 8];
    children::a_parent_that_crashes_later_keeps_its_children [8];
    children::children_have_a_bound_of_their_own [7, 8];
    children::a_parent_that_waits_takes_no_turn [7, 8];
    children::children_wait_for_each_other [6, 8];
    children::a_cascade_among_children_releases_their_parent [6, 8];
    children::a_childs_end_does_not_count [8, 9];
    children::a_child_may_have_children [8];
    children::cancel_reaches_children [8, 9];
    children::an_expansion_by_a_lost_lease_is_refused [1, 4, 8];
    children::two_thousand_children [8];
    gates::a_child_that_waits_keeps_its_place [7, 8];
    gates::a_bound_holds_over_nested_workflows [8];
    gates::a_failure_inside_gives_the_place_away [6, 8];
    gates::a_retry_keeps_to_the_places [8, 10];
    gates::a_retried_parent_has_its_place_before_others [8, 10];
    gates::a_cancel_gives_all_places_back [8, 9, 10];
    gates::a_gate_within_a_gate_within_a_bounded_workflow [7, 8];
    retry::only_what_failed_and_what_depends_on_it_runs_again [10];
    retry::a_retry_by_the_same_request_is_a_repeat [2, 10];
    retry::a_late_repeat_of_an_earlier_request_begins_no_run [2, 10];
    retry::what_was_never_taken_in_has_nothing_to_retry [10];
    retry::a_delivery_of_the_run_before_runs_the_task_once [4, 10];
    retry::a_message_of_the_run_before_starts_nothing [2, 10];
    lost::a_message_of_a_later_run_is_believed [2, 10];
    lost::a_message_of_a_lost_run_of_a_workflow_starts_nothing [2, 10];
    lost::a_retry_that_is_asked_for_again_begins_the_lost_run [9, 10];
    retry::attempts_begin_anew_and_history_stays [10];
    retry::a_retry_keeps_to_the_turns [7, 10];
    retry::a_cancelled_workflow_runs_on [9, 10];
    retry::a_workflow_that_took_too_long_has_its_time_again [9, 10];
    retry::a_task_on_its_own_runs_again [10];
    retry::a_task_without_its_message_cannot_run_again [10];
    retry::an_unwanted_result_does_not_hinder_a_retry [10, 11];
    retry::a_failed_parent_keeps_its_children [8, 10];
    retry::a_parent_that_failed_over_good_children_runs_at_once [8, 10];
    retry::a_parent_reset_by_a_dependency_loses_its_children [8, 10];
    retry::children_of_children_are_kept_or_lost_with_them [8, 10];
    retry::a_child_planned_anew_is_not_ended_by_an_old_lease [3, 10];
    retry::twenty_retries_make_one_run [1, 10];
    known::another_body_under_the_same_id_is_noticed [2];
    known::another_plan_under_the_same_id_is_noticed [2];
    known::several_results_come_in_the_order_asked [11];
    known::who_waits_for_a_workflow_is_told_by_cancel [9];
    known::a_timeout_ends_the_run_that_it_is_for [9];
    property::a_random_graph_ends_as_the_model_says [1, 2, 5, 6];
    property::bounds_within_bounds_never_stand_still [7, 8, 10];
    schedule::a_schedule_is_recorded_once_a_generation [2, 14];
    schedule::a_removed_schedule_does_not_come_back_by_a_repeat [14, 16];
    schedule::the_armed_slot_is_given_to_one_at_a_time [15];
    schedule::a_slot_is_fired_once [2, 15];
    schedule::a_change_keeps_the_counts [16];
    schedule::schedules_are_listed_by_name_in_pages [1];
    schedule::of_twenty_that_begin_and_fire_one_does [1, 15];
    limit::a_bucket_gives_what_it_holds_and_then_in_line [19];
    limit::of_forty_that_ask_at_once_as_many_are_let_in_as_may_be [1, 19];
    limit::a_pace_is_held_and_used_up [19];
    limit::the_pace_that_was_read_last_holds [20];
    limit::what_a_faster_pace_gives_sooner_is_there_sooner [20];
    limit::a_settlement_takes_or_gives_the_difference [21];
    limit::what_is_given_back_opens_nothing_that_is_shut [21];
    limit::everybody_is_told_the_same_secret [22];
    output::pieces_are_read_in_the_order_in_which_they_were_written [23, 25];
    output::a_repeat_writes_nothing_again [2, 23];
    output::who_has_lost_the_lease_writes_nothing [4, 23];
    output::an_attempt_gives_so_much_and_no_more [24];
    output::a_root_keeps_what_was_given_last [24];
    output::who_goes_on_from_a_position_misses_nothing [25];
    output::what_was_given_is_kept_for_its_time [26];
    output::another_attempt_begins_anew_and_the_end_is_told [27];
    output::a_task_that_has_given_nothing_has_no_end_to_tell [27];
    output::who_follows_is_told_also_from_elsewhere [27];
    lease::what_a_session_says_of_itself_is_known_while_it_lives [28, 29];
    profile::what_a_session_notes_again_takes_the_place_of_what_it_had_noted [2, 30];
    profile::a_slot_holds_no_more_profiles_than_it_may [30];
    profile::slots_are_told_from_a_time_on_and_no_longer_than_they_are_kept [31];
    open::every_open_root_is_found_page_by_page [17];
    open::the_message_of_a_task_is_kept_until_it_ends [18];
    open::the_messages_of_a_workflow_are_those_that_it_released [18];
};

const REDIS_CASES: &[Case] = &cases! { Some("redis");
    open::a_delayed_workflow_says_until_when [17];
    redis_only::results_are_plain_and_told_by_key [12];
    redis_only::what_moves_is_told_on_a_channel_of_its_own [12];
    redis_only::all_of_a_root_is_in_one_slot [1];
    redis_only::what_ends_has_a_ttl [11];
    redis_only::a_document_too_large_omits_results [11];
    redis_only::a_script_that_the_server_forgot_is_sent_again [2];
    redis_only::a_watcher_hears_of_a_lost_connection [12];
    redis_only::a_broken_connection_heals [2];
    redis_only::a_half_open_connection_costs_no_session [12];
    redis_only::a_connection_refused_says_why [1];
    redis_only::an_id_is_a_task_or_a_workflow [1];
    redis_only::what_is_no_profile_is_left_out [31];
    redis_only::ten_thousand_dependents_in_one_step [6];
    redis_graph::all_of_an_ended_workflow_has_a_ttl_and_none_of_a_retried_one [10, 11];
    redis_graph::a_retry_names_the_results_that_are_gone [10];
    redis_graph::messages_are_kept_while_there_is_something_to_retry [10];
    redis_graph::a_lease_of_a_deleted_child_stays_lost [3, 10];
    redis_graph::ten_thousand_wait_for_their_turn [7, 10];
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
                Some(_) if backend.is_extra || environment("CI").is_none() => {
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
    for line in 1..=31 {
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
        let longest = if environment("GLEITZEIT_PROPERTY_CASES").is_some() { LONG_RUN } else { CASE_TIMEOUT };
        let result = tokio::time::timeout(longest, running.join_next()).await;
        running.shutdown().await;
        place.remove().await;
        match result {
            Ok(Some(Err(error))) => Err(panic_text(error).into()),
            Ok(_) => Ok(()),
            Err(_) => Err(format!("no end within {} s", longest.as_secs()).into()),
        }
    })
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "the case was stopped".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "the case panicked".to_owned())
}
