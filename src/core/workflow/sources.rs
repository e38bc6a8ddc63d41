//! The texts that a document was read from, so that what is wrong with it can be told where it is written: the
//! file itself, and each file whose document was put in the place of its path.

use super::load::Format;
use super::locate::{Place, places};
use super::problem::Problem;

/// The texts of a document. What none of them holds has no place.
#[derive(Debug, Default)]
pub struct Sources {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    /// The path in the document below which everything comes from this text; empty for the whole.
    at: String,
    /// Whoever asks for places knows the outermost file by himself.
    file: Option<String>,
    text: String,
    format: Format,
}

impl Sources {
    /// Of a document that was read from one text.
    #[must_use]
    pub fn of(text: &str, format: Format) -> Sources {
        let part = Part { at: String::new(), file: None, text: text.to_owned(), format };
        Sources { parts: vec![part] }
    }

    /// Notes that everything below the path `at` comes from this file.
    pub fn add(&mut self, at: &str, file: &str, text: String, format: Format) {
        self.parts.push(Part { at: at.to_owned(), file: Some(file.to_owned()), text, format });
    }

    /// Gives each problem its place, and the file if it is not the outermost one.
    pub(super) fn locate(&self, problems: &mut [Problem]) {
        let parts: Vec<Option<usize>> =
            problems.iter().map(|problem| self.innermost(&problem.violation.path)).collect();
        for (index, part) in self.parts.iter().enumerate() {
            let (mut concerned, mut paths) = (Vec::new(), Vec::new());
            for (problem, of) in problems.iter_mut().zip(&parts) {
                if *of == Some(index) {
                    paths.push(part.inside(&problem.violation.path).unwrap_or_default().to_owned());
                    concerned.push(problem);
                }
            }
            if concerned.is_empty() {
                continue;
            }
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let found: Vec<Option<Place>> = places(&part.text, part.format, &paths);
            for (problem, place) in concerned.into_iter().zip(found) {
                problem.place = place;
                problem.file.clone_from(&part.file);
            }
        }
    }

    /// The part with the longest path around this one.
    fn innermost(&self, path: &str) -> Option<usize> {
        let around = self.parts.iter().enumerate().filter(|(_, part)| part.inside(path).is_some());
        around.max_by_key(|(_, part)| part.at.len()).map(|(index, _)| index)
    }
}

impl Part {
    /// The path within the text; `None` if it is not of this text. The path `at` itself is of the text around.
    fn inside<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.at.is_empty() {
            return Some(path);
        }
        let rest = path.strip_prefix(&self.at)?;
        rest.strip_prefix('.').or_else(|| rest.starts_with('[').then_some(rest))
    }
}
