//! The key that a server asks for: from a file or a variable, never from the configuration itself, and never
//! shown.

use std::fmt;
use std::path::PathBuf;

use reqwest::header::HeaderValue;

use crate::core::code::Code;
use crate::core::failure::Failure;

/// The longest key, in bytes.
const BYTES_MAX: u64 = 16 * 1024;

/// Where a key comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Key {
    /// A file. It is read for each request, so that another key needs no restart.
    File(PathBuf),
    /// A variable of the environment, as it was when the process began.
    Variable {
        /// Its name.
        name: String,
        /// What it holds; `None`: it is not set.
        value: Option<String>,
    },
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::File(path) => write!(f, "Key of {}", path.display()),
            Key::Variable { name, .. } => write!(f, "Key of ${name}"),
        }
    }
}

impl Key {
    /// What it is now.
    ///
    /// # Errors
    /// `FILE_UNREADABLE`; `CONFIGURATION_ERROR` for a variable that is not set, and for what is no key.
    pub(super) async fn read(&self) -> Result<Secret, Failure> {
        let (place, text) = match self {
            Key::File(path) => {
                let unreadable = |why: String| {
                    let message = format!("the key file {} cannot be read: {why}", path.display());
                    Failure::new(Code::FileUnreadable, message)
                };
                let facts = tokio::fs::metadata(path).await.map_err(|error| unreadable(error.to_string()))?;
                if !facts.is_file() || facts.len() > BYTES_MAX {
                    return Err(unreadable(format!("it is no file of at most {BYTES_MAX} bytes")));
                }
                let text = tokio::fs::read_to_string(path).await;
                (path.display().to_string(), text.map_err(|error| unreadable(error.to_string()))?)
            }
            Key::Variable { name, value: Some(value) } => (format!("${name}"), value.clone()),
            Key::Variable { name, value: None } => {
                let message = format!("the variable {name} (api_key_env) is not set");
                return Err(Failure::new(Code::ConfigurationError, message));
            }
        };
        Secret::new(text.trim()).ok_or_else(|| {
            Failure::new(Code::ConfigurationError, format!("{place} holds no key: one line without spaces"))
        })
    }
}

/// A key as it is now.
pub(super) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    fn new(text: &str) -> Option<Secret> {
        let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_plain.then(|| Secret(text.to_owned()))
    }

    /// The value of `Authorization`.
    pub(super) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).expect("it is plain ASCII");
        value.set_sensitive(true);
        value
    }

    /// The failure without the key, which a server may have repeated.
    pub(super) fn hidden(&self, mut failure: Failure) -> Failure {
        failure.message = failure.message.replace(&self.0, "***");
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_read_from_its_place_and_shown_nowhere() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("key");
        std::fs::write(&path, "sk-s3cret\n").expect("a file");
        let variable = |value: Option<&str>| Key::Variable {
            name: "THE_KEY".to_owned(),
            value: value.map(str::to_owned),
        };
        for key in [Key::File(path), variable(Some("sk-s3cret"))] {
            let secret = key.read().await.expect("a key");
            assert_eq!(secret.header(), "Bearer sk-s3cret");
            assert!(!format!("{key:?} {secret:?} {:?}", secret.header()).contains("s3cret"));
            let failure = secret.hidden(Failure::new(Code::InvalidParams, "Incorrect key sk-s3cret."));
            assert_eq!(failure.message, "Incorrect key ***.");
        }
        for (key, code, part) in [
            (variable(None), Code::ConfigurationError, "THE_KEY (api_key_env) is not set"),
            (variable(Some("s3cret s3cret")), Code::ConfigurationError, "$THE_KEY holds no key"),
            (variable(Some("")), Code::ConfigurationError, "$THE_KEY holds no key"),
            (Key::File(folder.path().join("none")), Code::FileUnreadable, "cannot be read"),
            (Key::File(folder.path().to_owned()), Code::FileUnreadable, "is no file of at most"),
        ] {
            let failure = key.read().await.expect_err(part);
            assert_eq!(failure.code, code);
            assert!(failure.message.contains(part) && !failure.message.contains("s3cret"), "{failure}");
        }
    }
}
