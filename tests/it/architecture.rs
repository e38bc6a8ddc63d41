//! The house's rules that a machine can check.

use std::path::{Path, PathBuf};

/// Modules from the bottom up; those in one row do not know each other.
const ROWS: &[&[&str]] = &[
    &["core"],
    &["wire", "topology", "telemetry"],
    &["sqlite"],
    &["broker", "store"],
    &["provider"],
    &["config"],
    &["error"],
    &["worker", "client", "dead", "audit"],
    &["runtime", "bench"],
    &["cli"],
];

/// Paths that point sideways, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// The longest source file, in lines.
const LINES_MAX: usize = 500;

#[test]
fn no_module_points_up_or_sideways() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for named in named_modules(line) {
                let allowed = named == module
                    || row(&named) < row(&module)
                    || EXCEPTIONS.contains(&(module.as_str(), named.as_str()));
                if !allowed {
                    wrong.push(format!("{}:{}: {module} names {named}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_core_has_no_io_no_time_and_no_async() {
    let forbidden = [
        "async ",
        "tokio::",
        "std::fs",
        "std::net",
        "std::process",
        "std::env",
        "SystemTime",
        "Instant::now",
        "fastrand",
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if module_of(&path).as_deref() != Some("core") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let comment = line.trim_start().starts_with("//");
            if !comment && forbidden.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_the_runtime_names_an_adapter() {
    let adapters = ["broker::rabbitmq", "broker::sqlite", "store::redis", "store::sqlite"];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path).unwrap_or_default();
        if ["runtime", "broker", "store"].contains(&module.as_str()) {
            continue;
        }
        for adapter in adapters {
            if text.contains(adapter) {
                wrong.push(format!("{} names {adapter}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_source_file_is_too_long() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file can be read");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 10, "the sources were found");
    found
}

/// `core` for `src/core/id.rs` and for `src/core.rs`; `None` for `lib.rs` and `main.rs`.
fn module_of(path: &Path) -> Option<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(src).ok()?.components().next()?;
    let name = first.as_os_str().to_str()?.trim_end_matches(".rs").to_owned();
    (name != "lib" && name != "main").then_some(name)
}

/// The modules that a line names as `crate::x` or `gleitzeit::x`.
fn named_modules(line: &str) -> Vec<String> {
    let mut named = Vec::new();
    for part in line.split("crate::").skip(1) {
        let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        if ROWS.iter().any(|row| row.contains(&name.as_str())) {
            named.push(name);
        }
    }
    named
}

fn row(module: &str) -> usize {
    let found = ROWS.iter().position(|row| row.contains(&module));
    found.unwrap_or_else(|| panic!("module {module} has no place in ROWS: give it one"))
}
