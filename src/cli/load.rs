//! Workflow files: from a path on the command line to a checked workflow.
//!
//! ```text
//! file --load--> document --list files--> document --inline--> document --prepare--> document, Workflow
//!                     (of a batch, checked before)  (nested files)    (--param, --strict; all that is wrong)
//! ```
//! Paths in a file are relative to where the command runs, not to the file.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

use super::args;
use super::batch::files;
use super::print;
use crate::core::code::Code;
use crate::core::protocol::Protocols;
use crate::core::violation::Warning;
use crate::core::workflow::{
    self, Batch, Format, Given, Place, Refused, Sources, Strictness, WORKFLOW_BYTES_MAX, Workflow,
};
use crate::error::Error;

/// Reads and checks a workflow file; warnings go to stderr.
///
/// # Errors
/// The file cannot be read; everything that is wrong with it or with the parameters, each with its place.
pub(crate) fn workflow(source: &args::Source, protocols: &Protocols) -> Result<(Value, Workflow), Error> {
    let path = &source.file;
    let mut given = given(&source.params)?;
    let text = read(path)?;
    let format = format(path)?;
    let mut sources = Sources::of(&text, format);
    let refused = |refused: Refused, sources: &Sources| self::refused(path, refused.located(sources));
    let strictness = if source.strict { Strictness::Refuse } else { Strictness::Warn };
    let mut document = workflow::load(&text, format).map_err(|wrong| refused(wrong, &sources))?;
    let mut batch = None;
    if Batch::is_batch(&document) {
        // Its parameters may name the folder, so they are put in before the files are listed.
        let read = Batch::prepare(document, std::mem::take(&mut given), strictness, protocols)
            .map_err(|wrong| refused(wrong, &sources))?;
        let files = files::list(&read.directory, &read.pattern)?;
        document = read.workflow(&files).map_err(|wrong| refused(wrong, &sources))?;
        batch = Some(read);
    }
    let nested = |path: &str| read(Path::new(path)).map_err(|error| error.message);
    let inlined = workflow::inline(document, &mut sources, &nested);
    let prepared = inlined.prepare(given, strictness, protocols);
    let (document, workflow) = prepared.map_err(|wrong| match &batch {
        Some(batch) => refused(batch.in_template(wrong), &sources),
        None => refused(wrong, &sources),
    })?;
    warn(path, batch.as_ref().map_or(&workflow.warnings, |batch| &batch.warnings), &sources);
    Ok((document, workflow))
}

/// Tells what is odd about what came from `path`, each with the place where it is written.
pub(crate) fn warn(path: &Path, warnings: &[Warning], sources: &Sources) {
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    for (warning, (file, place)) in warnings.iter().zip(sources.places(&paths)) {
        let file = file.map_or_else(|| path.display().to_string(), str::to_owned);
        let place = place.map(|Place { line, column }| format!(":{line}:{column}")).unwrap_or_default();
        print::note(&format!("warning: {file}{place}: {warning}"));
    }
}

/// A YAML or JSON file as a document, with its text.
///
/// # Errors
/// It cannot be read, or is no mapping.
pub(crate) fn document(path: &Path) -> Result<(Value, String, Format), Error> {
    let (text, format) = (read(path)?, format(path)?);
    let document = workflow::load(&text, format)
        .map_err(|refused| self::refused(path, refused.located(&Sources::of(&text, format))))?;
    Ok((document, text, format))
}

/// What is wrong with what came from `path`.
pub(crate) fn refused(path: &Path, refused: Refused) -> Error {
    let failure = refused.failure().with("file", path.display().to_string());
    let message = format!("{}: {}", path.display(), failure.message);
    Error { code: failure.code, message, details: failure.details }
}

fn format(path: &Path) -> Result<Format, Error> {
    Format::of_file(&path.to_string_lossy()).ok_or_else(|| {
        let text = format!("{}: a workflow file ends in .yaml, .yml or .json", path.display());
        Error::new(Code::InvalidRequest, text)
    })
}

/// The text of a file that a workflow may have: bounded, since whoever names it may not know how large it is.
fn read(path: &Path) -> Result<String, Error> {
    use std::io::Read;

    let unreadable = |error: std::io::Error| {
        Error::new(Code::FileUnreadable, format!("cannot read {}: {error}", path.display()))
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(WORKFLOW_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() > WORKFLOW_BYTES_MAX {
        let text = format!("{} has more than {WORKFLOW_BYTES_MAX} bytes", path.display());
        return Err(Error::new(Code::WorkflowTooLarge, text));
    }
    Ok(text)
}

/// The values of `--param k=v`; of `k=@FILE` the text of the file, of `k=@@text` the text `@text`.
fn given(params: &[String]) -> Result<BTreeMap<String, Given>, Error> {
    let mut given = BTreeMap::new();
    for param in params {
        let Some((name, value)) = param.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            let text = format!("--param {param:?} is not of the form NAME=VALUE");
            return Err(Error::new(Code::InvalidRequest, text));
        };
        let value = match value.strip_prefix('@') {
            None => value.to_owned(),
            Some(rest) if rest.starts_with('@') => rest.to_owned(),
            Some(path) => {
                let text = read(Path::new(path))?;
                text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
            }
        };
        if given.insert(name.to_owned(), Given::Text(value)).is_some() {
            return Err(Error::new(Code::InvalidRequest, format!("--param {name} is given twice")));
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(params: &[&str], expected: Result<&[(&str, &str)], &str>) {
        let params: Vec<String> = params.iter().map(|&param| param.to_owned()).collect();
        match (given(&params), expected) {
            (Ok(given), Ok(expected)) => {
                let text =
                    |(name, value): &(&str, &str)| ((*name).to_owned(), Given::Text((*value).to_owned()));
                assert_eq!(given, expected.iter().map(text).collect());
            }
            (Err(error), Err(expected)) => assert!(error.message.contains(expected), "{error}"),
            (found, expected) => panic!("{found:?} for {expected:?}"),
        }
    }

    #[test]
    fn parameters_are_names_and_texts() {
        check(&["a=1", "b=x=y", "c="], Ok(&[("a", "1"), ("b", "x=y"), ("c", "")]));
        check(&["a=@@me"], Ok(&[("a", "@me")]));
        check(&["a"], Err("NAME=VALUE"));
        check(&["=1"], Err("NAME=VALUE"));
        check(&["a=1", "a=2"], Err("twice"));
        check(&["a=@/nonexistent"], Err("cannot read /nonexistent"));
    }

    #[test]
    fn a_parameter_is_read_from_a_file_without_its_last_line_feed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "two\nlines\n").expect("a file");
        check(&[&format!("a=@{}", file.path().display())], Ok(&[("a", "two\nlines")]));
    }
}
