//! Processes without a network.
//!
//! `unshare` of util-linux gives a process a network namespace of its own, in which there is nothing, not even the
//! machine's own addresses, and then becomes the program. Root may do that; anybody else needs a user namespace around
//! it, in which the user stays who it is. Where the machine gives neither, nothing is started: a program that must have
//! no network does not run with one.
//!
//! What is shut off are addresses and abstract sockets. A socket that is a file stays reachable for who may open it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::confine::{PROBE_TIMEOUT, helper};
use super::{Program, SEARCH_PATH};
use crate::core::code::Code;
use crate::core::failure::Failure;

/// The ways to get there, the plainer one first.
const WAYS: [&[&str]; 2] = [&["--net"], &["--user", "--map-current-user", "--net"]];

/// The program, without a network.
///
/// # Errors
/// `PROVIDER_INITIALIZATION_FAILED`: this machine does not give that.
pub(in crate::provider) async fn offline(program: Program) -> Result<Program, Failure> {
    let refused = |why: &str| {
        let message = format!(
            "without a network (network = false) it needs a network namespace, which this machine does not give: {why}; \
             allow user namespaces (sysctl user.max_user_namespaces, in a container its security profile), or leave \
             network = false out"
        );
        Failure::new(Code::ProviderInitializationFailed, message)
    };
    let Some(unshare) = helper("unshare") else {
        return Err(refused("the program unshare of util-linux is not there"));
    };
    let mut reasons = Vec::new();
    for way in WAYS {
        match is_given(&unshare, way).await {
            Ok(()) => return Ok(program.behind(unshare, way.iter().map(OsString::from))),
            Err(why) => reasons.push(why),
        }
    }
    Err(refused(&reasons.join("; ")))
}

/// Tries it with a program that does nothing.
async fn is_given(unshare: &Path, way: &[&str]) -> Result<(), String> {
    let mut command = tokio::process::Command::new(PathBuf::from(unshare));
    command.args(way).args(["--", "true"]).env_clear().env("PATH", SEARCH_PATH);
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PROBE_TIMEOUT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim().chars().take(200).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{} did not answer", unshare.display())),
    }
}
