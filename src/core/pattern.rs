//! Patterns of paths below a directory: `*` and `?` within a name, `**` over folders, `[a-z]`, `{png,jpg}`.
//!
//! Names that begin with a dot are left out unless the pattern has such a name.

use std::ffi::OsStr;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

/// What a path below a directory must be.
#[derive(Debug, Clone)]
pub struct Pattern {
    matcher: GlobMatcher,
    with_hidden: bool,
    /// How many names a path has at most.
    depth_max: usize,
}

impl Pattern {
    /// Reads a pattern. A `./` at its beginning says nothing.
    ///
    /// # Errors
    /// It is none, or leads out of the directory; in words.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let refused = |reason: &str| format!("pattern {text:?}: {reason}");
        let below = text.strip_prefix("./").unwrap_or(text);
        let names: Vec<&str> = below.split('/').collect();
        if below.starts_with('/') || names.contains(&"..") {
            return Err(refused("it must stay below the directory: no leading / and no .."));
        }
        let glob = GlobBuilder::new(below).literal_separator(true).build();
        let matcher = glob.map_err(|error| refused(&error.kind().to_string()))?.compile_matcher();
        let with_hidden = names.iter().any(|name| name.starts_with('.'));
        let depth_max = if below.contains("**") { usize::MAX } else { names.len() };
        Ok(Pattern { matcher, with_hidden, depth_max })
    }

    /// Whether a path below the directory fits.
    #[must_use]
    pub fn fits(&self, below: &Path) -> bool {
        self.matcher.is_match(below)
    }

    /// Whether a file or folder of that name is looked at.
    #[must_use]
    pub fn sees(&self, name: &OsStr) -> bool {
        self.with_hidden || !name.as_encoded_bytes().starts_with(b".")
    }

    /// Whether something that fits may lie in a folder so deep, 1 being those in the directory itself.
    #[must_use]
    pub fn enters(&self, depth: usize) -> bool {
        depth < self.depth_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stays_below_its_directory() {
        for (pattern, path, fits) in [
            ("*.txt", "a.txt", true),
            ("./*.txt", "a.txt", true),
            ("*.txt", "sub/a.txt", false),
            ("**/*.{txt,md}", "sub/deep/a.md", true),
            ("?.[a-z]xt", "a.txt", true),
        ] {
            let pattern = Pattern::parse(pattern).expect("a pattern");
            assert_eq!(pattern.fits(Path::new(path)), fits, "{pattern:?} {path}");
        }
        for wrong in ["/etc/*", "../*", "a/../../*", "a["] {
            assert!(Pattern::parse(wrong).expect_err(wrong).starts_with("pattern"), "{wrong}");
        }
        let (plain, hidden) = (Pattern::parse("*").expect("one"), Pattern::parse("**/.*").expect("one"));
        assert_eq!((plain.sees(OsStr::new(".a")), hidden.sees(OsStr::new(".a"))), (false, true));
        assert_eq!((plain.enters(1), hidden.enters(9)), (false, true));
    }
}
