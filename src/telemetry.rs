//! Logs: text on a terminal, JSON otherwise, always on stderr.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Crates whose own words are not shown unless they are asked for: lapin reports each passive declaration that
/// finds nothing as an error, redis each attempt to reach a node that is away, rmcp whole addresses, which may hold a
/// key. We report what matters ourselves.
const CLIENTS: [&str; 3] = ["lapin", "redis", "rmcp"];

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// `text`, `json`, or anything else for what fits stderr.
    #[must_use]
    pub fn choose(name: &str) -> Format {
        match name {
            "text" => Format::Text,
            "json" => Format::Json,
            _ if std::io::stderr().is_terminal() => Format::Text,
            _ => Format::Json,
        }
    }
}

/// Starts logging for the whole process. `filter` is a level or a list such as `info,gleitzeit::broker=debug`.
///
/// # Errors
/// A text that says what is wrong with the filter.
pub fn start(filter: &str, format: Format) -> Result<(), String> {
    let mut quiet = filter.to_owned();
    for crate_name in CLIENTS {
        if !filter.split(',').any(|directive| directive.trim().starts_with(crate_name)) {
            quiet += &format!(",{crate_name}=off");
        }
    }
    let filter = EnvFilter::try_new(quiet).map_err(|error| format!("log.level {filter:?}: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    // A second start in one process (tests) keeps the first subscriber.
    let _ = match format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
