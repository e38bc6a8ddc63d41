//! The Lua steps, each with the constants it needs put above it.
//!
//! The texts of records that a script must write by itself come from `wire::record`, rendered once with
//! marks where a step fills in what only it knows. So a step is sent with times and ids only.

use redis::Script;

use crate::core::clock::Timestamp;
use crate::core::state::WorkflowState;
use crate::store::{ENTRY_BYTES, FORGOTTEN_LEASES_MAX, OUTPUT_TTL, REQUESTS_MAX};
use crate::wire::record;

/// How many ended attempts the history of a task keeps.
const HISTORY_MAX: usize = 100;

const NOW_MARK: &str = "@NOW@";
const CREATED_MARK: &str = "@CREATED@";
const ATTEMPT_MARK: &str = "@ATTEMPT@";
const SESSION_MARK: &str = "@WORKER@";
const STARTED_MARK: &str = "@STARTED@";
const ERROR_MARK: &str = "@ERROR@";

/// Every step, ready to invoke.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) create: Script,
    pub(super) claim: Script,
    pub(super) finish: Script,
    pub(super) cancel: Script,
    pub(super) retry: Script,
    pub(super) accept: Script,
    pub(super) workflow: Script,
}

impl Scripts {
    /// `document_bytes_max` bounds a workflow's document with the results of its tasks.
    pub(super) fn new(document_bytes_max: u64) -> Scripts {
        let constants = constants(document_bytes_max);
        let step_after = |first: &str, parts: &[&str]| {
            let mut text = first.to_owned();
            text.push_str(&constants);
            text.push_str(include_str!("lua/shared.lua"));
            for part in parts {
                text.push_str(part);
            }
            Script::new(&text)
        };
        let step = |parts: &[&str]| step_after("", parts);
        let (ending, graph) = (include_str!("lua/ending.lua"), include_str!("lua/graph.lua"));
        Scripts {
            create: step(&[ending, graph, include_str!("lua/create.lua")]),
            claim: step_after(include_str!("lua/claim_new.lua"), &[include_str!("lua/claim.lua")]),
            finish: step_after(
                include_str!("lua/finish_alone.lua"),
                &[ending, graph, include_str!("lua/finish.lua")],
            ),
            cancel: step(&[ending, include_str!("lua/cancel.lua")]),
            retry: step(&[ending, graph, include_str!("lua/retry.lua")]),
            accept: step(&[include_str!("lua/accept.lua")]),
            workflow: step(&[include_str!("lua/workflow.lua")]),
        }
    }
}

fn constants(document_bytes_max: u64) -> String {
    // Two times that no record has, rendered and then replaced by marks.
    let (created, now) = (Timestamp::from_millis(0), Timestamp::from_millis(1));
    let marked =
        |text: String| text.replace(&created.to_string(), CREATED_MARK).replace(&now.to_string(), NOW_MARK);
    let mut lines = format!(
        "local HISTORY_MAX, REQUESTS_MAX, DOCUMENT_BYTES_MAX = {HISTORY_MAX}, {REQUESTS_MAX}, {document_bytes_max}\n\
         local FORGOTTEN_LEASES_MAX = {FORGOTTEN_LEASES_MAX}\n\
         local OUTPUT_TTL, ENTRY_BYTES = {}, {ENTRY_BYTES}\n\
         local WORKFLOW_ENDED = {{}}\n",
        OUTPUT_TTL.as_millis()
    );
    let mut constant = |name: &str, text: &str| {
        // A long bracket of this level is in no JSON that we write.
        lines.push_str(&format!("{name} = [==[{text}]==]\n"));
    };
    constant("local NOW_MARK", NOW_MARK);
    constant("local CREATED_MARK", CREATED_MARK);
    constant("local ATTEMPT_MARK", ATTEMPT_MARK);
    constant("local SESSION_MARK", SESSION_MARK);
    constant("local STARTED_MARK", STARTED_MARK);
    constant("local ERROR_MARK", ERROR_MARK);
    constant("local DEPENDENCY_MARK", record::DEPENDENCY_MARK);
    constant("local OMITTED", record::RESULT_OMITTED);
    constant("local CANCELLED", &marked(record::cancelled(now)));
    constant("local TIMED_OUT", &marked(record::timed_out(now)));
    constant("local SKIPPED", &marked(record::skipped(now)));
    constant("local DEPENDENCY_FAILED", &marked(record::dependency_failed(now)));
    let lost = record::attempt_lost(ATTEMPT_MARK, SESSION_MARK, STARTED_MARK, NOW_MARK);
    constant("local ATTEMPT_LOST", &lost);
    let refused = marked(record::workflow_status(WorkflowState::Failed, created, now, None));
    let refused = refused.replace(r#""error":null"#, &format!(r#""error":{ERROR_MARK}"#));
    constant("local WORKFLOW_REFUSED", &refused);
    let failure = record::workflow_timed_out();
    let timed_out = record::workflow_status(WorkflowState::Failed, created, now, Some(&failure));
    constant("local WORKFLOW_TIMED_OUT", &marked(timed_out));
    for state in WorkflowState::ALL.into_iter().filter(|state| state.is_ended()) {
        let error = record::workflow_failure(state);
        let status = marked(record::workflow_status(state, created, now, error.as_ref()));
        constant(&format!("WORKFLOW_ENDED.{state}"), &status);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_have_their_marks_and_no_times() {
        let text = constants(1);
        assert!(!text.contains("1970"), "{text}");
        let line = |name: &str| {
            text.lines().find(|line| line.starts_with(name)).expect("the constant is there").to_owned()
        };
        assert_eq!(line("local CANCELLED").matches(NOW_MARK).count(), 1);
        assert_eq!(line("local TIMED_OUT").matches(NOW_MARK).count(), 1);
        assert_eq!(line("local SKIPPED").matches(NOW_MARK).count(), 1);
        assert_eq!(line("local SKIPPED").matches(record::DEPENDENCY_MARK).count(), 1);
        assert_eq!(line("local DEPENDENCY_FAILED").matches(NOW_MARK).count(), 1);
        assert_eq!(line("local DEPENDENCY_FAILED").matches(record::DEPENDENCY_MARK).count(), 2);
        assert_eq!(line("local WORKFLOW_REFUSED").matches(ERROR_MARK).count(), 1);
        assert_eq!(line("WORKFLOW_ENDED.failed").matches(CREATED_MARK).count(), 1);
        assert_eq!(line("WORKFLOW_ENDED.failed").matches(NOW_MARK).count(), 1);
    }
}
