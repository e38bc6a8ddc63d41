//! What is written down: messages on the broker, documents in the store. Versioned, and the only types
//! that are serialised; `docs/wire-format.md` describes them for producers in other languages.

pub mod record;
