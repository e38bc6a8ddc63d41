//! What differs between kinds of servers: how a request is written, how an answer is read, how models are listed.
//!
//! Nothing here does I/O: bytes come in, bytes go out.

use std::fmt;

use serde_json::{Map, Value};

use super::refusal::Reply;
use super::request::Request;
use super::spoken::Spoken;

/// A request as a server reads it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    /// Below the server's address.
    pub(super) path: &'static str,
    /// The body.
    pub(super) body: Value,
}

/// What a line of an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// JSON, or a part of it.
    Json(&'a [u8]),
    /// JSON of an error.
    Error(&'a [u8]),
    /// Nothing is to come.
    End,
    /// Nothing that matters.
    Nothing,
}

/// A kind of servers.
pub(super) trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// Its name in results.
    fn name(&self) -> &'static str;

    /// The address that paths are added to.
    fn base(&self, url: &str) -> String;

    /// Writes a request, by what was learned of the server.
    fn written(&self, request: &Request) -> Written;

    /// Takes a line of an answer apart.
    fn line<'a>(&self, line: &'a [u8]) -> Line<'a>;

    /// Adds a piece of an answer, or a whole one. It tells of no error.
    fn hear(&self, spoken: &mut Spoken, piece: Map<String, Value>);

    /// Whether the refusal tells how to write this request better. A refusal teaches once.
    fn learn(&self, request: &Request, reply: &Reply) -> bool;

    /// Whether the refusal is about the model; else it is about something else that is not there.
    fn lacks_model(&self, reply: &Reply) -> bool;

    /// What to do about a model that is not there.
    fn fetch(&self, model: &str) -> String;

    /// Where its models are listed, and where those that are in memory, if it tells that.
    fn lists(&self) -> (&'static str, Option<&'static str>);

    /// The models of such a list; `None`: it is none.
    fn models(&self, list: &Value) -> Option<Vec<String>>;

    /// The one name of a model that goes by several.
    fn full_name(&self, model: &str) -> String;
}

/// The texts under `key` of the objects in the list under `list`.
pub(super) fn names(of: &Value, list: &str, key: &str) -> Option<Vec<String>> {
    let all = of.get(list)?.as_array()?;
    Some(all.iter().filter_map(|one| Some(one.get(key)?.as_str()?.to_owned())).collect())
}
