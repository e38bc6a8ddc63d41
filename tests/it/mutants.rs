//! The mutants of `scripts/mutate` fit the code, so that they are found out of date before somebody needs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::say_skipped;

/// What the head of a patch says under this key.
fn said<'a>(patch: &'a str, key: &str) -> Vec<&'a str> {
    let head = patch.split("\ndiff --git").next().unwrap_or_default();
    head.lines().filter_map(|line| line.strip_prefix(key)).collect()
}

fn mutants() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutants");
    let entries = std::fs::read_dir(folder).expect("there are mutants");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let patches = paths.filter(|path| path.extension().is_some_and(|end| end == "patch"));
    patches.map(|path| (path.clone(), std::fs::read_to_string(path).expect("text"))).collect()
}

/// Every Rust file below a folder, in one text.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn every_mutant_applies_and_changes_only_the_product() {
    let mutants = mutants();
    assert!(mutants.len() > 10, "{} mutants", mutants.len());
    let mut wrong = Vec::new();
    for (path, patch) in &mutants {
        let mut check = Command::new("git");
        check.args(["apply", "--check"]).arg(path).current_dir(env!("CARGO_MANIFEST_DIR"));
        let Ok(applied) = check.output() else { return say_skipped("git") };
        if !applied.status.success() {
            wrong.push(format!("{}: {}", path.display(), String::from_utf8_lossy(&applied.stderr)));
        }
        let changed = patch.lines().filter_map(|line| line.strip_prefix("+++ "));
        for file in changed.filter(|file| !file.starts_with("b/src/")) {
            wrong.push(format!("{} changes {file}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "no longer as the code is; write them anew:\n{}", wrong.join("\n"));
}

#[test]
fn every_mutant_names_its_safeguard_and_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for (path, patch) in mutants() {
        let tests = said(&patch, "Test: ");
        if said(&patch, "Safeguard: ").len() != 1 || tests.is_empty() {
            wrong.push(format!("{}: one `Safeguard: ` and some `Test: `", path.display()));
        }
        for test in tests {
            let Some((program, name)) = test.split_once(' ') else {
                wrong.push(format!("{}: {test:?} is no program and name", path.display()));
                continue;
            };
            let folder = if program == "lib" { root.join("src") } else { root.join("tests").join(program) };
            let mut text = String::new();
            sources(&folder, &mut text);
            let function = name.rsplit("::").next().unwrap_or(name);
            if !text.contains(&format!("fn {function}(")) {
                wrong.push(format!("{}: there is no test {test}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
