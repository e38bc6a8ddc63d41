//! The files of a folder that a call names: those that fit its pattern, sorted.
//!
//! A link is a file if it leads to one within the folder; folders that are links are not entered. Each file is
//! judged once more when it is read.

use std::path::{Path, PathBuf};

use super::request::Folder;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::pattern::Pattern;

/// Most files of one call.
const FILES_MAX: usize = 1000;
/// How many directory entries are looked at in search of them.
const ENTRIES_MAX: usize = 100_000;
/// What pictures are called, in small letters.
const PICTURES: [&str; 6] = ["png", "jpg", "jpeg", "gif", "bmp", "webp"];

impl Folder {
    /// The files that fit, each as the folder's path joined with its own below it. `real` is where the folder is.
    ///
    /// # Errors
    /// `FILE_UNREADABLE`: it is no folder, or cannot be read; `INVALID_PARAMS`: no such pattern, too many files or
    /// none.
    pub(super) async fn list(&self, real: &Path) -> Result<Vec<String>, Failure> {
        let pattern = Pattern::parse(&self.pattern).map_err(|reason| self.invalid(&reason))?;
        let (mut found, mut looked_at) = (Vec::new(), 0_usize);
        let mut open = vec![(PathBuf::new(), 1_usize)];
        while let Some((folder, depth)) = open.pop() {
            let unreadable = |error: std::io::Error| {
                let place = Path::new(&self.path).join(&folder);
                Failure::new(Code::FileUnreadable, format!("folder {place:?} cannot be read: {error}"))
            };
            let mut entries = tokio::fs::read_dir(real.join(&folder)).await.map_err(unreadable)?;
            while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
                looked_at += 1;
                if looked_at > ENTRIES_MAX {
                    return Err(self.invalid(&format!("has more than {ENTRIES_MAX} entries")));
                }
                let (name, kind) = (entry.file_name(), entry.file_type().await.map_err(unreadable)?);
                if !pattern.sees(&name) {
                    continue;
                }
                let below = folder.join(&name);
                if kind.is_dir() {
                    if pattern.enters(depth) {
                        open.push((below, depth + 1));
                    }
                } else if pattern.fits(&below)
                    && self.takes(&below)
                    && is_file(&entry.path(), kind, real).await
                {
                    found.push(below);
                }
            }
        }
        if found.is_empty() {
            let what = if self.is_of_images { "picture" } else { "file" };
            return Err(self.invalid(&format!("has no {what} that fits {:?}", self.pattern)));
        }
        if found.len() > FILES_MAX {
            return Err(
                self.invalid(&format!("has more than {FILES_MAX} files that fit; use a batch workflow"))
            );
        }
        found.sort();
        found.iter().map(|below| self.named(below)).collect()
    }

    fn takes(&self, below: &Path) -> bool {
        let suffix = below.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
        !self.is_of_images || PICTURES.contains(&suffix.to_ascii_lowercase().as_str())
    }

    fn named(&self, below: &Path) -> Result<String, Failure> {
        let path = Path::new(&self.path).join(below);
        path.to_str().map(str::to_owned).ok_or_else(|| self.invalid("has a file whose name is not UTF-8"))
    }

    fn invalid(&self, why: &str) -> Failure {
        Failure::new(Code::InvalidParams, format!("`directory` {:?}: {why}", self.path))
    }
}

/// A link that leads nowhere, outside or to a folder is no file.
async fn is_file(path: &Path, kind: std::fs::FileType, real: &Path) -> bool {
    if !kind.is_symlink() {
        return kind.is_file();
    }
    let Ok(target) = tokio::fs::canonicalize(path).await else { return false };
    target.starts_with(real) && tokio::fs::metadata(&target).await.is_ok_and(|facts| facts.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path, pattern: &str, is_of_images: bool) -> Folder {
        Folder { path: path.display().to_string(), pattern: pattern.to_owned(), is_of_images }
    }

    #[tokio::test]
    async fn files_that_fit_are_listed_sorted_and_links_lead_nowhere_else() {
        let (place, outside) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let root = place.path().canonicalize().expect("it is there");
        std::fs::create_dir(root.join("sub")).expect("a folder");
        std::fs::write(outside.path().join("a.txt"), "outside").expect("a file");
        for name in ["b.txt", "a.txt", ".hidden.txt", "c.PNG", "sub/d.txt"] {
            std::fs::write(root.join(name), name).expect("a file");
        }
        std::os::unix::fs::symlink(outside.path().join("a.txt"), root.join("out.txt")).expect("a link");
        std::os::unix::fs::symlink(outside.path(), root.join("way-out")).expect("a link");
        std::os::unix::fs::symlink(root.join("sub/d.txt"), root.join("in.txt")).expect("a link");
        for (pattern, is_of_images, expected) in [
            ("*.txt", false, &["a.txt", "b.txt", "in.txt"][..]),
            ("**/*.txt", false, &["a.txt", "b.txt", "in.txt", "sub/d.txt"]),
            ("*", true, &["c.PNG"]),
        ] {
            let found = folder(&root, pattern, is_of_images).list(&root).await.expect("readable");
            let below: Vec<String> =
                expected.iter().map(|name| root.join(name).display().to_string()).collect();
            assert_eq!(found, below, "{pattern}");
        }
        for (pattern, part) in
            [("*.md", "no file that fits \"*.md\""), ("../*", "must stay below"), ("a[", "a[")]
        {
            let failure = folder(&root, pattern, false).list(&root).await.expect_err(part);
            assert_eq!(failure.code, Code::InvalidParams);
            assert!(failure.message.contains(part), "{failure}");
        }
        let file = root.join("a.txt");
        let failure = folder(&file, "*", false).list(&file).await.expect_err("no folder");
        assert_eq!(failure.code, Code::FileUnreadable);
    }
}
