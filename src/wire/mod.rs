//! What is written down: messages on the broker, documents in the store. Versioned, and the only types
//! that are serialised; `docs/wire-format.md` describes them for producers in other languages.

pub mod properties;
pub mod record;
pub mod task;

pub use properties::Properties;

/// The newest version of messages (`v`) that is read, and the one that is written.
pub const VERSION: u64 = 1;
