//! `llm/v1`: language models behind servers of their own.
//!
//! ```text
//! request   what is asked: parameters ─▶ conversation, completion or vector   (knows no server, no HTTP)
//! files     what a call may read: only below the folders that the operator names
//! http      one exchange: bounded, ended when its call ends; what can go wrong, in our codes
//! ollama    Ollama's API, made of these
//! ```
//! A caller's mistake (parameters, a model that is not there) is never retryable; whatever may be different
//! next time (no connection, no room, a crash of the server's) is.

mod files;
mod http;
pub mod ollama;
mod request;
