//! `llm/v1`: language models behind servers of their own.
//!
//! ```text
//! model_server   the provider: one server, from parameters to a result; what models it has
//! request        what is asked: parameters ─▶ conversation, completion or vector   (knows no server, no HTTP)
//! files, folder  what a call may read: only below the folders that the operator names
//! dialect        what differs between kinds of servers   ollama, openai: the kinds there are
//! http           one exchange: bounded, ended when its call ends     key: what it logs in with
//! refusal        what a server's refusals mean, in our codes
//! spoken         an answer while it comes, and what was said when it breaks off
//! ```
//! A caller's mistake (parameters, a model that is not there) is never retryable; whatever may be different
//! next time (no connection, no room, a crash of the server's) is.

mod dialect;
mod files;
mod folder;
mod http;
mod key;
mod model_server;
mod ollama;
mod openai;
mod pieces;
mod refusal;
mod request;
mod spoken;

pub use http::Reach;
pub use key::Key;
pub use model_server::{Api, ModelServer, Settings};
