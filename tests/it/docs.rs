//! The documents say what the code does: each list that exists in both is compared both ways.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gleitzeit::config;
use gleitzeit::core::code::Code;
use gleitzeit::core::protocol::Protocols;
use gleitzeit::core::task::Spec;
use gleitzeit::core::workflow::{Format, Given, Strictness, Workflow, load};
use gleitzeit::error::Error;

#[test]
fn errors_md_has_a_section_for_every_code_and_for_nothing_else() {
    let text = read("docs/errors.md");
    let mut sections = Vec::new();
    for (heading, body) in sections_of(&text, "## ") {
        let facts = body.lines().find(|line| !line.is_empty()).unwrap_or_default().to_owned();
        assert!(body.trim().lines().count() > 2, "{heading} says nothing");
        sections.push((heading, facts));
    }
    let declared: Vec<(String, String)> =
        Code::ALL.iter().map(|code| (code.name().to_owned(), facts_of(*code))).collect();
    assert_eq!(sections, declared);
}

#[test]
fn no_document_names_a_code_that_does_not_exist() {
    let prefixes: BTreeSet<&str> =
        Code::ALL.iter().filter_map(|code| code.name().split('_').next()).collect();
    for (path, text) in documents() {
        for word in text.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
            let Some((first, _)) = word.split_once('_') else { continue };
            let known = Code::find(word).is_some() || NO_CODES.contains(&word);
            assert!(known || !prefixes.contains(first), "{}: {word} is no code", path.display());
        }
    }
}

/// Words that look like codes and are none.
const NO_CODES: [&str; 0] = [];

#[test]
fn every_link_between_documents_leads_somewhere() {
    for (path, text) in documents() {
        let folder = path.parent().expect("a file has a folder");
        for piece in text.split("](").skip(1) {
            let target = piece.split(')').next().unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(folder.join(target).exists(), "{}: {target} is not there", path.display());
        }
    }
}

#[test]
fn operations_md_lists_every_setting_with_its_default() {
    let defaults: toml::Table = config::DEFAULTS.parse().expect("the defaults are TOML");
    let mut declared = BTreeSet::new();
    for (section, settings) in &defaults {
        for (key, value) in settings.as_table().expect("every setting is in a section") {
            match value.as_table().filter(|inner| !inner.is_empty()) {
                Some(inner) => declared.extend(
                    inner.iter().map(|(name, value)| (format!("{section}.{key}.{name}"), value.to_string())),
                ),
                None => {
                    declared.insert((format!("{section}.{key}"), value.to_string()));
                }
            }
        }
    }
    let text = read("docs/operations.md");
    let rows = table_rows(&text, "| setting |");
    let documented: BTreeSet<(String, String)> =
        rows.iter().map(|row| (plain(&row[0]), plain(&row[1]))).collect();
    assert_eq!(documented, declared);
}

#[test]
fn wire_format_md_lists_every_member_of_a_task() {
    let own = [
        "v",
        "id",
        "workflow",
        "inputs",
        "attempt",
        "reply",
        "traceparent",
        "substitutes",
        "when",
        "for_each",
        "max_parallel",
        "item",
        "index",
    ];
    let declared: BTreeSet<String> = Spec::KEYS.into_iter().chain(own).map(str::to_owned).collect();
    let text = read("docs/wire-format.md");
    let documented: BTreeSet<String> =
        table_rows(&text, "| member of a task |").iter().map(|row| plain(&row[0])).collect();
    assert_eq!(documented, declared);
}

#[test]
fn the_workflows_in_workflows_md_are_read() {
    let protocols = Protocols::builtin().expect("built in");
    let text = read("docs/workflows.md");
    let blocks = text.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next());
    let mut count = 0;
    for block in blocks.filter(|block| block.contains("\ntasks:")) {
        let document = load(block, Format::Yaml).unwrap_or_else(|error| panic!("{block}{error}"));
        let topic = document["parameters"]
            .get("topic")
            .map(|_| ("topic".to_owned(), Given::Text("rivers".to_owned())));
        let prepared =
            Workflow::prepare(document, topic.into_iter().collect(), Strictness::Refuse, &protocols);
        let (_, workflow) = prepared.unwrap_or_else(|error| panic!("{block}{error}"));
        assert!(workflow.warnings.is_empty(), "{:?}", workflow.warnings);
        count += 1;
    }
    assert_eq!(count, 2);
}

#[test]
fn the_configurations_in_providers_md_are_read() {
    let text = read("docs/providers.md");
    let blocks = text.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.toml");
    let mut count = 0;
    for block in blocks {
        std::fs::write(&path, block).expect("a file");
        let sources = config::Sources { file: Some(path.clone()), ..config::Sources::default() };
        let config = config::load(&sources).unwrap_or_else(|error| panic!("{block}{error}"));
        count += config.instances().len();
    }
    assert_eq!(count, 5);
}

#[test]
fn guarantees_md_names_only_tests_that_exist() {
    let sources = sources();
    for row in table_rows(&read("docs/guarantees.md"), "| what happens |") {
        names_only_what_exists(&row[2], &sources);
    }
}

#[test]
fn complaints_md_answers_each_with_tests_that_exist_or_says_not_yet() {
    let sources = sources();
    let rows = table_rows(&read("docs/complaints.md"), "| # |");
    for (at, row) in rows.iter().enumerate() {
        let [number, complaint, answer, tests] = &row[..] else { panic!("{row:?}") };
        assert_eq!(number, &(at + 1).to_string(), "in order, and none left out");
        assert!(complaint.contains('#') && complaint.contains(": "), "it names its threads: {complaint}");
        if tests == "none yet" {
            assert!(answer.starts_with("Not yet"), "{number}: {answer}");
        } else {
            names_only_what_exists(tests, &sources);
        }
    }
    assert_eq!(rows.len(), 25);
}

#[test]
fn provider_gaps_md_closes_each_with_tests_that_exist_or_says_not_yet() {
    let sources = sources();
    let rows = table_rows(&read("docs/provider-gaps.md"), "| # |");
    for (at, row) in rows.iter().enumerate() {
        let [number, gap, answer, tests] = &row[..] else { panic!("{row:?}") };
        assert_eq!(number, &(at + 1).to_string(), "in order, and none left out");
        assert!(!gap.is_empty(), "{number}: nothing is missing");
        assert_eq!(answer == "not yet", tests == "none yet", "{number}: {answer}");
        if tests != "none yet" {
            names_only_what_exists(tests, &sources);
        }
    }
    assert_eq!(rows.len(), 46);
}

/// Everything that is written in Rust.
fn sources() -> String {
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        for path in files_below(&root().join(folder)) {
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &std::fs::read_to_string(&path).expect("sources are text");
            }
        }
    }
    sources
}

/// Tests, or scripts, by name.
fn names_only_what_exists(cell: &str, sources: &str) {
    for name in cell.split(", ").map(plain) {
        let is_script = name.starts_with("scripts/") && root().join(&name).is_file();
        assert!(is_script || sources.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}

/// The line below a code's heading.
fn facts_of(code: Code) -> String {
    let retryable = if code.is_retryable() { "retryable" } else { "not retryable" };
    let exit_code = Error::new(code, "").exit_code();
    format!("{} · {retryable} · exit code {exit_code}", code.number())
}

fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file that is ours.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for path in files_below(&root()) {
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = std::fs::read_to_string(&path).expect("documents are text");
            found.push((path, text));
        }
    }
    assert!(found.len() > 5, "documents are found");
    found
}

/// Every file of ours below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("our folders are readable") {
            let path = entry.expect("our folders are readable").path();
            if path.is_file() {
                found.push(path);
            } else if path.is_dir() && !is_foreign(&path) {
                folders.push(path);
            }
        }
    }
    found
}

fn is_foreign(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with('.') || ["target", "node_modules"].contains(&name)
}

/// The sections of a document: heading and body.
fn sections_of(text: &str, mark: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix(mark) {
            sections.push((heading.to_owned(), String::new()));
        } else if line.starts_with("# ") {
            continue;
        } else if let Some((_, body)) = sections.last_mut() {
            body.push_str(line);
            body.push('\n');
        }
    }
    sections
}

/// The cells of every table whose head starts so.
fn table_rows(text: &str, head: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with(head) {
            inside = true;
        } else if inside && line.starts_with("| ") && !line.starts_with("| ---") {
            let cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned());
            rows.push(cells.collect());
        } else if !line.starts_with('|') {
            inside = false;
        }
    }
    assert!(!rows.is_empty(), "no table starts with {head}");
    rows
}

fn plain(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}
