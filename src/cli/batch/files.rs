//! Which files a batch has: those below a directory that fit a pattern, sorted.
//!
//! The pattern is matched against the path below the directory. A link is a file if it leads to one within the
//! directory; folders that are links are not entered, so that nothing is found twice or outside.

use std::path::{Path, PathBuf};

use crate::core::code::Code;
use crate::core::pattern::Pattern;
use crate::error::Error;

/// Most files of a batch.
pub(crate) const FILES_MAX: usize = 100_000;
/// How many directory entries are looked at in search of them.
const ENTRIES_MAX: usize = 1_000_000;

/// The files below `directory` that fit `pattern`, each as `directory` joined with its path below it, sorted.
///
/// # Errors
/// The directory is none or cannot be read, the pattern is none, there are too many, or a name is not UTF-8.
pub(crate) fn list(directory: &str, pattern: &str) -> Result<Vec<String>, Error> {
    let root = Path::new(directory);
    let unreadable = |error: std::io::Error| cannot_read(root, &error);
    let facts = match std::fs::metadata(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(Code::FileUnreadable, format!("Directory not found: {directory}")));
        }
        facts => facts.map_err(unreadable)?,
    };
    if !facts.is_dir() {
        return Err(Error::new(Code::FileUnreadable, format!("Not a directory: {directory}")));
    }
    let real_root = root.canonicalize().map_err(unreadable)?;
    let pattern = Pattern::parse(pattern).map_err(|reason| Error::new(Code::InvalidRequest, reason))?;
    let mut search = Search { pattern, real_root, looked_at: 0, found: Vec::new() };
    search.folders(root)?;
    let mut files = search.found;
    files.sort();
    files.into_iter().map(|below| text_of(&root.join(below))).collect()
}

/// The files below `directory` as a workflow file's batch has them; none is an error that says so.
fn text_of(path: &Path) -> Result<String, Error> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let text = format!("the name of {} is not UTF-8; rename it", path.display());
        Error::new(Code::FileUnreadable, text)
    })
}

struct Search {
    pattern: Pattern,
    real_root: PathBuf,
    looked_at: usize,
    /// Paths below the directory.
    found: Vec<PathBuf>,
}

impl Search {
    fn folders(&mut self, root: &Path) -> Result<(), Error> {
        let mut open = vec![(PathBuf::new(), 1_usize)];
        while let Some((folder, depth)) = open.pop() {
            let place = root.join(&folder);
            let entries = std::fs::read_dir(&place).map_err(|error| cannot_read(&place, &error))?;
            for entry in entries {
                let entry = entry.map_err(|error| cannot_read(&place, &error))?;
                self.looked_at += 1;
                if self.looked_at > ENTRIES_MAX {
                    return Err(too_many(&format!("more than {ENTRIES_MAX} directory entries")));
                }
                let name = entry.file_name();
                if !self.pattern.sees(&name) {
                    continue;
                }
                let below = folder.join(&name);
                let kind = entry.file_type().map_err(|error| cannot_read(&entry.path(), &error))?;
                if kind.is_dir() {
                    if self.pattern.enters(depth) {
                        open.push((below, depth + 1));
                    }
                } else if self.pattern.fits(&below) && self.is_file(&entry.path(), kind) {
                    self.found.push(below);
                    if self.found.len() > FILES_MAX {
                        return Err(too_many(&format!("more than {FILES_MAX} files fit")));
                    }
                }
            }
        }
        Ok(())
    }

    /// A link that leads nowhere, outside or to a folder is no file.
    fn is_file(&self, path: &Path, kind: std::fs::FileType) -> bool {
        if !kind.is_symlink() {
            return kind.is_file();
        }
        path.canonicalize().is_ok_and(|target| target.is_file() && target.starts_with(&self.real_root))
    }
}

fn too_many(what: &str) -> Error {
    let text = format!("{what}; choose a narrower pattern, or run folder by folder");
    Error::new(Code::WorkflowTooLarge, text)
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileUnreadable, format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        std::fs::create_dir_all(root.join("sub/deep")).expect("a folder");
        for name in ["b.txt", "a.txt", "c.md", ".hidden.txt", "sub/d.txt", "sub/deep/e.txt", "x.PNG"] {
            std::fs::write(root.join(name), name).expect("a file");
        }
        folder
    }

    #[track_caller]
    fn check(pattern: &str, expected: &[&str]) {
        let folder = folder();
        let root = folder.path().to_str().expect("UTF-8").to_owned();
        let found = list(&root, pattern).expect("readable");
        let below: Vec<&str> =
            found.iter().filter_map(|path| path.strip_prefix(&root)?.strip_prefix('/')).collect();
        assert_eq!(below, expected, "{pattern}");
    }

    #[test]
    fn files_that_fit_are_listed_sorted() {
        check("*.txt", &["a.txt", "b.txt"]);
        check("*", &["a.txt", "b.txt", "c.md", "x.PNG"]);
        check("*.{md,PNG}", &["c.md", "x.PNG"]);
        check("./?.txt", &["a.txt", "b.txt"]);
        check("nothing-*", &[]);
    }

    #[test]
    fn two_stars_go_into_folders() {
        check("**/*.txt", &["a.txt", "b.txt", "sub/d.txt", "sub/deep/e.txt"]);
        check("*/*.txt", &["sub/d.txt"]);
        check("sub/**", &["sub/d.txt", "sub/deep/e.txt"]);
    }

    #[test]
    fn hidden_files_are_found_by_those_who_ask_for_them() {
        check(".*.txt", &[".hidden.txt"]);
    }

    #[test]
    fn links_lead_to_files_within_the_directory_only() {
        let folder = folder();
        let outside = tempfile::NamedTempFile::new().expect("a file");
        let root = folder.path();
        std::os::unix::fs::symlink(outside.path(), root.join("out.txt")).expect("a link");
        std::os::unix::fs::symlink(root.join("c.md"), root.join("in.txt")).expect("a link");
        std::os::unix::fs::symlink(root, root.join("circle")).expect("a link");
        let found = list(root.to_str().expect("UTF-8"), "**/*.txt").expect("readable");
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(found.iter().any(|path| path.ends_with("/in.txt")), "{found:?}");
    }

    #[test]
    fn what_is_no_directory_or_leads_outside_is_refused() {
        let refused =
            |directory: &str, pattern: &str| list(directory, pattern).expect_err("refused").to_string();
        assert!(refused("/nonexistent", "*").contains("Directory not found: /nonexistent"));
        assert!(refused("/proc/self/status", "*").contains("Not a directory: /proc/self/status"));
        assert!(refused("/tmp", "../*").contains("must stay below"));
        assert!(refused("/tmp", "a[").contains("pattern \"a[\""));
    }
}
