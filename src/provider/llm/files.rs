//! The files that a call may read: only below folders that the operator names, and by default none.
//!
//! A path is judged by where it really leads: links are followed first, and the open file is asked once more
//! where it lies, so that a link that is swapped in between gains nothing.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncReadExt;

use super::request::{Attached, Part};
use crate::core::code::Code;
use crate::core::failure::Failure;

/// The most that one call may read, in bytes: images and long documents, not discs.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The folders that calls may read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folders {
    folders: Vec<PathBuf>,
}

impl Folders {
    /// Those folders and what is below them.
    pub(super) fn new(folders: Vec<PathBuf>) -> Folders {
        Folders { folders }
    }

    /// What the files hold, each with its path, texts first.
    ///
    /// # Errors
    /// `AUTHORIZATION_FAILED` for a file outside the folders; `FILE_UNREADABLE`; `INVALID_PARAMS` for a text
    /// that is none, or for too much.
    pub(super) async fn read(&self, mut attached: Attached) -> Result<Vec<(String, Part)>, Failure> {
        if let Some(folder) = attached.folder.take() {
            let real = self.real(&folder.path, true).await?;
            let found = folder.list(&real).await?;
            if folder.is_of_images { &mut attached.images } else { &mut attached.texts }.extend(found);
        }
        let mut left = BYTES_MAX;
        let mut parts = Vec::new();
        for path in attached.texts {
            let content = self.text(&path, &mut left).await?;
            let text = format!("\n\nFile content from {path}:\n{content}");
            parts.push((path, Part::Text(text)));
        }
        for path in attached.images {
            let image = STANDARD.encode(self.bytes(&path, &mut left).await?);
            parts.push((path, Part::Image(image)));
        }
        Ok(parts)
    }

    async fn text(&self, path: &str, left: &mut u64) -> Result<String, Failure> {
        let bytes = self.bytes(path, left).await?;
        String::from_utf8(bytes).map_err(|_| {
            Failure::new(
                Code::InvalidParams,
                format!("file {path:?} is no text in UTF-8; images go to `image_path`"),
            )
        })
    }

    /// Where a path really leads, if that may be read.
    async fn real(&self, path: &str, is_folder: bool) -> Result<PathBuf, Failure> {
        match tokio::fs::canonicalize(path).await {
            Ok(real) if self.hold(&real).await => Ok(real),
            // Whether a file outside exists is nobody's business, so its absence is told only inside.
            Err(error) if self.would_hold(path).await => Err(unreadable(path, &error)),
            Ok(_) | Err(_) => Err(self.refused(path, is_folder)),
        }
    }

    /// What the file holds; `left` is what the call may still read.
    async fn bytes(&self, path: &str, left: &mut u64) -> Result<Vec<u8>, Failure> {
        let broken = |error: std::io::Error| unreadable(path, &error);
        let real = self.real(path, false).await?;
        // Opening a pipe would wait for its other end.
        if !tokio::fs::metadata(&real).await.map_err(broken)?.is_file() {
            return Err(Failure::new(Code::FileUnreadable, format!("{path:?} is not a regular file")));
        }
        let file = tokio::fs::File::open(&real).await.map_err(broken)?;
        let opened = tokio::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).await;
        if !self.hold(&opened.map_err(broken)?).await {
            return Err(self.refused(path, false));
        }
        let mut bytes = Vec::new();
        file.take(*left + 1).read_to_end(&mut bytes).await.map_err(broken)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        *left = left.checked_sub(size).ok_or_else(|| {
            let message =
                format!("file {path:?} is too much: the files of one call have at most {BYTES_MAX} bytes");
            Failure::new(Code::InvalidParams, message).with("bytes_max", BYTES_MAX)
        })?;
        Ok(bytes)
    }

    /// Says how the file could be allowed. The folder is told by name only: what it leads to, and what other
    /// folders are allowed, is nobody's business.
    fn refused(&self, path: &str, is_folder: bool) -> Failure {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        let folder = absolute.parent().filter(|_| !is_folder).unwrap_or(&absolute);
        let seems_held = self
            .folders
            .iter()
            .any(|held| std::path::absolute(held).is_ok_and(|held| folder.starts_with(held)));
        let problem = if self.folders.is_empty() {
            format!(
                "`llm.read_paths` is empty here; to allow it, set GLEITZEIT_LLM_READ_PATHS={} where the task runs, \
                 or under [llm] of the configuration file there read_paths = [{folder:?}]",
                quoted(folder)
            )
        } else if seems_held {
            "a link or `..` leads out of the folders of `llm.read_paths`; name the file by the folder that it really \
             lies in, and that folder there"
                .to_owned()
        } else {
            format!(
                "it is not below a folder of `llm.read_paths`; to allow it, add {folder:?} to read_paths under [llm] of \
                 the configuration file where the task runs, or to GLEITZEIT_LLM_READ_PATHS there, after a comma"
            )
        };
        let what = if is_folder { "folder" } else { "file" };
        Failure::new(Code::AuthorizationFailed, format!("{what} {path:?} is not read: {problem}"))
    }

    /// Whether a path without links lies below one of the folders.
    async fn hold(&self, real: &Path) -> bool {
        for folder in &self.folders {
            // A folder that is not there holds nothing.
            if tokio::fs::canonicalize(folder).await.is_ok_and(|folder| real.starts_with(folder)) {
                return true;
            }
        }
        false
    }

    /// Whether a path to nothing would lie below one of the folders. The nearest folder above it that is there
    /// is followed to where it really is, so that `a.txt`, `./docs/a.txt` and a path through a link are judged
    /// as those of files that exist.
    async fn would_hold(&self, path: &str) -> bool {
        let path = Path::new(path);
        // What a way up leads to cannot be told where a folder is missing.
        if path.components().any(|part| part == std::path::Component::ParentDir) {
            return false;
        }
        // A link that leads nowhere may point outside: what is not there is told of no link.
        if tokio::fs::symlink_metadata(path).await.is_ok() {
            return false;
        }
        for above in path.ancestors().skip(1) {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            match tokio::fs::canonicalize(above).await {
                Ok(real) => return self.hold(&real).await,
                Err(_) if tokio::fs::symlink_metadata(above).await.is_ok() => return false,
                Err(_) => {}
            }
        }
        false
    }
}

/// A folder as a shell takes it for one word.
fn quoted(folder: &Path) -> String {
    let folder = folder.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if folder.chars().all(is_plain) { folder } else { format!("'{}'", folder.replace('\'', r"'\''")) }
}

fn unreadable(path: &str, error: &std::io::Error) -> Failure {
    Failure::new(Code::FileUnreadable, format!("file {path:?} cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(paths: &[&Path]) -> Attached {
        let texts = paths.iter().map(|path| path.display().to_string()).collect();
        Attached { texts, ..Attached::default() }
    }

    async fn failure(folders: &Folders, path: &Path) -> Failure {
        folders.read(texts(&[path])).await.expect_err("refused")
    }

    #[tokio::test]
    async fn a_file_is_read_below_a_named_folder_and_nowhere_else() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
        for folder in [&inside, &outside] {
            std::fs::create_dir(folder).expect("a folder");
            std::fs::write(folder.join("a.txt"), "alpha").expect("a file");
        }
        std::os::unix::fs::symlink(outside.join("a.txt"), inside.join("link")).expect("a link");
        let folders = Folders::new(vec![inside.clone()]);

        let path = inside.join("a.txt");
        let read = folders.read(texts(&[&path])).await.expect("allowed");
        let shown = path.display().to_string();
        let text = format!("\n\nFile content from {shown}:\nalpha");
        assert_eq!(read, [(shown, Part::Text(text))]);

        for (path, advice) in [
            (outside.join("a.txt"), format!("add {outside:?} to read_paths under [llm]")),
            (outside.join("none"), format!("add {outside:?} to read_paths under [llm]")),
            (PathBuf::from("/etc/hostname"), "add \"/etc\" to read_paths under [llm]".to_owned()),
            (inside.join("link"), "a link or `..` leads out of the folders".to_owned()),
            (inside.join("../outside/a.txt"), "a link or `..` leads out of the folders".to_owned()),
            (inside.join("../outside/none"), "a link or `..` leads out of the folders".to_owned()),
        ] {
            let failure = failure(&folders, &path).await;
            assert_eq!((failure.code, failure.retryable), (Code::AuthorizationFailed, false), "{failure}");
            assert!(failure.message.contains(&advice), "{failure}");
        }
        assert_eq!(failure(&folders, &inside.join("none")).await.code, Code::FileUnreadable);
        assert_eq!(failure(&folders, &inside).await.code, Code::FileUnreadable);
        let nowhere = Folders::new(Vec::new());
        let failure = failure(&nowhere, &inside.join("a.txt")).await;
        let shown = inside.display();
        for advice in
            [format!("GLEITZEIT_LLM_READ_PATHS={shown} where"), format!("read_paths = [{inside:?}]")]
        {
            assert!(failure.message.contains(&advice), "{failure}");
        }
    }

    #[test]
    fn a_folder_in_a_command_is_one_word() {
        assert_eq!(quoted(Path::new("/srv/my-docs_1.0")), "/srv/my-docs_1.0");
        assert_eq!(quoted(Path::new("/srv/Bob's $HOME")), r"'/srv/Bob'\''s $HOME'");
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_by_where_it_would_really_be() {
        // Relative paths are relative to where the tests run: the package.
        let here = std::env::current_dir().expect("a folder");
        let folders = Folders::new(vec![here.join("docs")]);
        for (path, expected) in [
            ("docs/none.txt", Code::FileUnreadable),
            ("./docs/none/a.txt", Code::FileUnreadable),
            ("none.txt", Code::AuthorizationFailed),
            ("docs/../none.txt", Code::AuthorizationFailed),
        ] {
            assert_eq!(failure(&folders, Path::new(path)).await.code, expected, "{path}");
        }
        let relative = Folders::new(vec![PathBuf::from("docs")]);
        for path in [PathBuf::from("docs/none.txt"), here.join("docs/none.txt")] {
            assert_eq!(failure(&relative, &path).await.code, Code::FileUnreadable, "{path:?}");
        }

        let place = tempfile::tempdir().expect("a temporary folder");
        let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
        for folder in [&inside, &outside] {
            std::fs::create_dir(folder).expect("a folder");
        }
        std::os::unix::fs::symlink(&outside, inside.join("way-out")).expect("a link");
        std::os::unix::fs::symlink(outside.join("none"), inside.join("dangling")).expect("a link");
        std::os::unix::fs::symlink(&inside, place.path().join("way-in")).expect("a link");
        let folders = Folders::new(vec![inside.clone()]);
        for (path, expected) in [
            (inside.join("way-out/none"), Code::AuthorizationFailed),
            (inside.join("dangling"), Code::AuthorizationFailed),
            (inside.join("dangling/none"), Code::AuthorizationFailed),
            (place.path().join("way-in/none"), Code::FileUnreadable),
        ] {
            assert_eq!(failure(&folders, &path).await.code, expected, "{path:?}");
        }
    }

    #[tokio::test]
    async fn too_much_and_no_text_are_refused() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (large, binary) = (place.path().join("large"), place.path().join("binary"));
        let file = std::fs::File::create(&large).expect("a file");
        file.set_len(BYTES_MAX + 1).expect("a sparse file");
        std::fs::write(&binary, [0xff, 0xfe]).expect("a file");
        let folders = Folders::new(vec![place.path().to_owned()]);
        for (path, part) in [(&large, "at most 16777216 bytes"), (&binary, "no text in UTF-8")] {
            let failure = failure(&folders, path).await;
            assert_eq!(failure.code, Code::InvalidParams);
            assert!(failure.message.contains(part), "{failure}");
        }
        file.set_len(BYTES_MAX / 2 + 1).expect("a sparse file");
        let twice = folders.read(texts(&[&large, &large])).await.expect_err("together too much");
        assert!(twice.message.contains("at most 16777216 bytes"), "{twice}");
    }
}
