//! What a run means: from a process's end and the runner's report to an answer or a failure.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::dialect::Method;
use super::launch::{End, Ended, Frame};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::provider::process::LaunchError;
use crate::provider::{Answer, MEMORY_PEAK};

/// How much of each stream a failure keeps, in bytes: every attempt's failure is recorded with the task.
const FAILURE_OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// How much of each stream an answer keeps, in bytes, in steps: output gives way to the result.
const ANSWER_OUTPUT_BYTES_MAX: [usize; 3] = [1024 * 1024, 64 * 1024, 4 * 1024];

/// The bounds that a run was under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) timeout: Duration,
    pub(super) result_bytes_max: usize,
    pub(super) flood_bytes: u64,
}

/// The runner's report; `runner.py` describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Completed {
        result: Value,
        execution_time: f64,
        memory_bytes: Option<u64>,
    },
    Checked {
        errors: Vec<String>,
    },
    Raised {
        message: String,
        exception: String,
        traceback: String,
        execution_time: f64,
        memory_bytes: Option<u64>,
    },
    Exited {
        exit_code: i32,
        execution_time: f64,
        memory_bytes: Option<u64>,
    },
    Syntax {
        message: String,
        line: Option<i64>,
        column: Option<i64>,
    },
    Refused {
        message: String,
    },
    Unreadable {
        message: String,
    },
    Unfit {
        message: String,
    },
    TooLarge {
        bytes: u64,
    },
}

/// The answer or failure of a run that took place.
pub(super) fn judge(method: Method, ended: &Ended, bounds: Bounds) -> Result<Answer, Failure> {
    let failure = match ended.end {
        End::Exited(0) => return read_report(ended, bounds),
        // The compiler runs out of memory or stack on hostile source.
        End::Signalled(_) | End::Exited(_) if method == Method::Validate => {
            return Ok(checked(&["the code is too complex to compile".to_owned()]));
        }
        End::Exited(code) => {
            failed(format!("the process ended with exit code {code} before it could report"))
                .with("exit_code", code)
        }
        End::Signalled(number) => {
            let name = Signal::try_from(number).map_or("a real-time signal", Signal::as_str);
            failed(format!("the process was killed by signal {number} ({name})"))
                .with("signal", number)
                .with("signal_name", name)
        }
        End::TimedOut => {
            let seconds = bounds.timeout.as_secs_f64();
            Failure::new(
                Code::TaskTimeout,
                format!("the process took longer than {seconds} s and was killed"),
            )
            .with("timeout", seconds)
        }
        End::Cancelled => {
            Failure::new(Code::TaskCancelled, "the process was killed, as the call was cancelled")
        }
        End::Stopped => Failure::new(Code::SystemShutdown, "the process was killed, as the worker stops"),
        End::Flooded => {
            let bytes = bounds.flood_bytes;
            let message = format!("the process printed more than {bytes} bytes and was killed; print less");
            Failure::new(Code::ResourceExhausted, message).final_now()
        }
        End::AnswerTooLarge(bytes) => too_large(bytes as u64, bounds),
    };
    let failure = failure.with("execution_time", ended.elapsed.as_secs_f64());
    Err(with_output(with_memory(failure, ended.memory_bytes), ended))
}

/// A run that did not take place.
pub(super) fn not_launched(error: &LaunchError) -> Failure {
    let code = match error {
        LaunchError::Exhausted(_) => Code::ResourceExhausted,
        LaunchError::Program { .. } => Code::ProviderNotAvailable,
        LaunchError::Lost(_) => Code::ProviderError,
    };
    Failure::new(code, format!("python: {error}"))
}

fn read_report(ended: &Ended, bounds: Bounds) -> Result<Answer, Failure> {
    let report = match &ended.frame {
        Frame::One(text) => serde_json::from_slice(text).ok(),
        Frame::None => {
            let message = "the process ended with exit code 0 before it could report; end it by sys.exit, or not at all";
            return Err(with_output(failed(message).with("exit_code", 0), ended));
        }
        Frame::Malformed => None,
    };
    let Some(report) = report else {
        return Err(with_output(failed("something but the report came through the report's channel"), ended));
    };
    let failure = match report {
        Report::Completed { result, execution_time, memory_bytes } => {
            let answer = completed(&result, execution_time, ended, bounds);
            return answer.map(|answer| weighed(answer, memory_bytes));
        }
        Report::Checked { errors } => return Ok(checked(&errors)),
        Report::Raised { message, exception, traceback, execution_time, memory_bytes } => {
            let failure = failed(message)
                .with("exception", exception)
                .with("traceback", traceback)
                .with("execution_time", execution_time)
                .with("exit_code", 1);
            with_memory(failure, memory_bytes)
        }
        Report::Exited { exit_code, execution_time, memory_bytes } => {
            let failure = failed(format!("the code ended itself with exit code {exit_code}"))
                .with("execution_time", execution_time)
                .with("exit_code", exit_code);
            with_memory(failure, memory_bytes)
        }
        Report::Syntax { message, line, column } => syntax(&message, line, column),
        Report::Refused { message } => Failure::new(Code::InvalidParams, message),
        Report::Unreadable { message } => Failure::new(Code::FileUnreadable, message),
        Report::Unfit { message } => Failure::new(Code::TaskResultInvalid, message),
        Report::TooLarge { bytes } => too_large(bytes, bounds),
    };
    Err(with_output(failure, ended))
}

fn completed(result: &Value, execution_time: f64, ended: &Ended, bounds: Bounds) -> Result<Answer, Failure> {
    for output_bytes_max in ANSWER_OUTPUT_BYTES_MAX {
        let (stdout, stdout_cut) = ended.stdout.text(output_bytes_max);
        let (stderr, stderr_cut) = ended.stderr.text(output_bytes_max);
        let mut answer = json!({
            "result": result, "output": stdout, "stdout": stdout, "stderr": stderr, "success": true,
            "execution_time": execution_time, "exit_code": 0,
        });
        let cut = cut_streams(stdout_cut, stderr_cut);
        if !cut.is_empty() {
            answer["truncated"] = cut.into();
        }
        if answer.to_string().len() <= bounds.result_bytes_max {
            return Ok(Answer { result: answer, metadata: metadata() });
        }
    }
    Err(with_output(too_large(result.to_string().len() as u64, bounds), ended))
}

fn checked(errors: &[String]) -> Answer {
    Answer { result: json!({"is_valid": errors.is_empty(), "errors": errors}), metadata: metadata() }
}

/// The isolation that the code ran under, recorded with each result.
fn metadata() -> Map<String, Value> {
    Map::from_iter([("sandbox".to_owned(), json!({"level": "none"}))])
}

/// With the most memory that the process held.
fn weighed(mut answer: Answer, memory_bytes: Option<u64>) -> Answer {
    if let Some(bytes) = memory_bytes {
        answer.metadata.insert(MEMORY_PEAK.to_owned(), bytes.into());
    }
    answer
}

fn with_memory(failure: Failure, memory_bytes: Option<u64>) -> Failure {
    match memory_bytes {
        Some(bytes) => failure.with(MEMORY_PEAK, bytes),
        None => failure,
    }
}

fn failed(message: impl Into<String>) -> Failure {
    Failure::new(Code::TaskExecutionFailed, message)
}

fn syntax(message: &str, line: Option<i64>, column: Option<i64>) -> Failure {
    let place = match (line, column) {
        (Some(line), Some(column)) => format!(" in line {line}, column {column}"),
        (Some(line), None) => format!(" in line {line}"),
        (None, _) => String::new(),
    };
    failed(format!("SyntaxError: {message}{place}"))
        .with("exception", "SyntaxError")
        .with("line", line)
        .with("column", column)
        .with("exit_code", 1)
}

fn too_large(bytes: u64, bounds: Bounds) -> Failure {
    let bytes_max = bounds.result_bytes_max;
    let message = format!(
        "the result has {bytes} bytes as JSON, and {bytes_max} are allowed; return less, or write it to a file"
    );
    Failure::new(Code::ResultTooLarge, message)
}

fn with_output(failure: Failure, ended: &Ended) -> Failure {
    let (stdout, stdout_cut) = ended.stdout.text(FAILURE_OUTPUT_BYTES_MAX);
    let (stderr, stderr_cut) = ended.stderr.text(FAILURE_OUTPUT_BYTES_MAX);
    let failure = failure.with("stdout", stdout).with("stderr", stderr);
    let cut = cut_streams(stdout_cut, stderr_cut);
    if cut.is_empty() { failure } else { failure.with("truncated", cut) }
}

fn cut_streams(stdout: bool, stderr: bool) -> Vec<&'static str> {
    [("stdout", stdout), ("stderr", stderr)]
        .into_iter()
        .filter_map(|(name, cut)| cut.then_some(name))
        .collect()
}
