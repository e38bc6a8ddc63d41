//! Finds the interpreter and looks at its version, once, before the first task.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::core::code::Code;
use crate::core::failure::Failure;

/// The oldest CPython that the runner works on.
pub const VERSION_MIN: (u32, u32) = (3, 9);

/// How long an interpreter may take to tell its version; shims on slow machines take their time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Written so that every Python understands it, Python 2 included.
const PROBE: &str = "import sys; sys.stdout.write('%s\\n%d\\n%d\\n%s\\n' % (sys.implementation.name \
                     if hasattr(sys, 'implementation') else 'cpython', sys.version_info[0], \
                     sys.version_info[1], sys.executable))";

/// A Python interpreter that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The executable itself: a shim on the search path would cost its time at each start.
    pub path: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
}

impl Interpreter {
    /// Asks `program` (a path, or a name to be found on `search_path`) what it is.
    ///
    /// # Errors
    /// `PROVIDER_INITIALIZATION_FAILED` if it cannot be started, is no CPython or is too old. Not retryable:
    /// a person must install or configure one.
    pub async fn find(program: &Path, search_path: &OsStr) -> Result<Interpreter, Failure> {
        let wrong = |what: String| {
            let advice = "install CPython 3.9 or newer, or set the interpreter of python/v1 to one";
            Failure::new(
                Code::ProviderInitializationFailed,
                format!("python interpreter {}: {what}; {advice}", program.display()),
            )
            .final_now()
        };
        let mut command = Command::new(program);
        // -E and -s, as -I is not known to Python 2; a name is looked for on the PATH given here.
        command.args(["-E", "-s", "-c", PROBE]).env_clear().env("PATH", search_path);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(PROBE_TIMEOUT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(wrong(format!("cannot be started: {error}"))),
            Err(_) => {
                return Err(wrong(format!("did not tell its version within {} s", PROBE_TIMEOUT.as_secs())));
            }
        };
        if !output.status.success() {
            let stderr: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
            return Err(wrong(format!("did not tell its version ({}): {stderr}", output.status)));
        }
        judge(&String::from_utf8_lossy(&output.stdout)).map_err(wrong)
    }
}

fn judge(answer: &str) -> Result<Interpreter, String> {
    let Some((name, found)) = read_answer(answer) else {
        return Err("is no python, by its answer".to_owned());
    };
    let (major, minor) = found.version;
    if name != "cpython" {
        return Err(format!("is {name} {major}.{minor}"));
    }
    if found.version < VERSION_MIN {
        return Err(format!("is Python {major}.{minor}"));
    }
    Ok(found)
}

fn read_answer(text: &str) -> Option<(String, Interpreter)> {
    let mut lines = text.lines();
    let name = lines.next()?.to_owned();
    let version = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
    let path = PathBuf::from(lines.next()?);
    path.is_absolute().then_some((name, Interpreter { path, version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_enough_cpython_fits() {
        let check = |answer: &str, expected: Result<(u32, u32), &str>| {
            let found = judge(answer).map(|found| found.version);
            assert_eq!(
                found.as_ref().map_err(String::as_str),
                expected.as_ref().map_err(|text| *text),
                "{answer}"
            );
        };
        check("cpython\n3\n9\n/usr/bin/python3.9\n", Ok((3, 9)));
        check("cpython\n3\n14\n/opt/python\n", Ok((3, 14)));
        check("cpython\n3\n8\n/usr/bin/python3.8\n", Err("is Python 3.8"));
        check("cpython\n2\n7\n/usr/bin/python2\n", Err("is Python 2.7"));
        check("pypy\n3\n10\n/usr/bin/pypy\n", Err("is pypy 3.10"));
        check("cpython\n3\n11\n\n", Err("is no python, by its answer"));
        check("hello\n", Err("is no python, by its answer"));
    }

    #[tokio::test]
    async fn what_is_no_python_is_refused_by_name() {
        for (program, part) in [
            ("no-such-python", "no-such-python: cannot be started"),
            ("echo", "echo: is no python"),
            ("false", "false: did not tell its version"),
        ] {
            let found = Interpreter::find(Path::new(program), OsStr::new("/usr/bin:/bin")).await;
            let failure = found.expect_err(program);
            assert_eq!((failure.code, failure.retryable), (Code::ProviderInitializationFailed, false));
            assert!(failure.message.contains(part), "{failure}");
            assert!(failure.message.contains("install CPython 3.9"), "{failure}");
        }
    }
}
