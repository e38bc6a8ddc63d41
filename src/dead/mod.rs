//! Dead letters as people deal with them: looked at, sent again, thrown away.
//!
//! Nothing consumes a dead queue, so a look *holds* its letters: they are delivered to a consumer, kept
//! unsettled, and released in their order when the look is over (quorum queues may change places among them). What is sent again or dropped is settled.
//! Whoever else looks meanwhile sees only what nobody holds, so two people never deal with one letter; and a
//! look that is killed gives everything back.
//!
//! ```text
//! hold ▸ choose (Filter) ▸ plan (what the store says of each root) ▸ publish, confirmed ▸ settle ▸ release
//! ```
//! [`replay`] sends again what failed. Publishing comes before settling, and what is published is harmless when
//! it is published twice, so a replay that is killed in the middle neither loses nor doubles anything.
//!
//! A worker that dies between burying and settling writes two letters of one death. They have the same
//! [`Letter::death`], and count as one wherever letters are counted.

pub mod filter;
mod hold;
mod letter;
mod replay;

pub use filter::Filter;
pub use hold::{BYTES_MAX, LETTERS_MAX, Look, hold};
pub use letter::{Keep, Letter};
pub use replay::{Group, Step, plan, replay};
