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
        let paths: Vec<&str> = problems.iter().map(|problem| problem.violation.path.as_str()).collect();
        let found = self.places(&paths);
        for (problem, (file, place)) in problems.iter_mut().zip(found) {
            (problem.file, problem.place) = (file.map(str::to_owned), place);
        }
    }

    /// For each path the file that it is in, if that is not the outermost one, and the place where it stands there.
    #[must_use]
    pub fn places(&self, paths: &[&str]) -> Vec<(Option<&str>, Option<Place>)> {
        let parts: Vec<Option<usize>> = paths.iter().map(|path| self.innermost(path)).collect();
        let mut all = vec![(None, None); paths.len()];
        for (index, part) in self.parts.iter().enumerate() {
            let of_part: Vec<usize> = (0..paths.len()).filter(|at| parts[*at] == Some(index)).collect();
            if of_part.is_empty() {
                continue;
            }
            let inside: Vec<&str> =
                of_part.iter().map(|at| part.inside(paths[*at]).unwrap_or_default()).collect();
            for (at, place) in of_part.into_iter().zip(places(&part.text, part.format, &inside)) {
                all[at] = (part.file.as_deref(), place);
            }
        }
        all
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
