//! What the servers of this worker offer, and which of them a name means.
//!
//! | method | means |
//! |---|---|
//! | `tool.SERVER.NAME` | the tool of that server |
//! | `tool.NAME`, one server has it | that one |
//! | `tool.NAME`, several have it | those with a `rank`, as alternatives like any other providers; where none has one, the first server in the order of names |
//!
//! So two servers that mean different things by one name never stand in for each other, unless the operator says that
//! they may. The same holds for resources and prompts.
//!
//! What a server offers is kept while it is away: its calls wait for it instead of going elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};

/// The most violations that are told of one call.
const VIOLATIONS_MAX: usize = 20;

/// What is called by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::provider) enum Kind {
    Tool,
    Resource,
    Prompt,
}

/// What all servers offer.
#[derive(Debug, Default)]
pub struct Catalog {
    servers: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    is_ranked: bool,
    /// `None`: it has never said.
    offer: Option<Arc<Offer>>,
}

/// What a server offers.
#[derive(Debug, Default)]
pub(super) struct Offer {
    /// What the server says of itself.
    pub(super) about: Value,
    pub(super) tools: BTreeMap<String, Tool>,
    /// By URI.
    pub(super) resources: BTreeMap<String, Value>,
    pub(super) templates: Vec<Value>,
    pub(super) prompts: BTreeMap<String, Value>,
}

/// A tool, as its server describes it.
pub(super) struct Tool {
    pub(super) described: Value,
    /// `None`: its schema is none.
    schema: Option<Validator>,
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool").field("described", &self.described).finish_non_exhaustive()
    }
}

impl Kind {
    pub(in crate::provider) const ALL: [Kind; 3] = [Kind::Tool, Kind::Resource, Kind::Prompt];

    /// What methods of this kind begin with.
    pub(in crate::provider) fn prefix(self) -> &'static str {
        match self {
            Kind::Tool => "tool.",
            Kind::Resource => "resource.",
            Kind::Prompt => "prompt.",
        }
    }

    /// The kind and the name in `tool.NAME`.
    pub(in crate::provider) fn split(method: &str) -> Option<(Kind, &str)> {
        Kind::ALL.into_iter().find_map(|kind| Some((kind, method.strip_prefix(kind.prefix())?)))
    }
}

impl Tool {
    /// Reads what a server says; and why its schema is none, if so: then nothing is checked by it.
    pub(super) fn new(described: Value) -> (Tool, Option<String>) {
        let (schema, why) = match jsonschema::validator_for(&described["inputSchema"]) {
            Ok(schema) => (Some(schema), None),
            Err(error) => (None, Some(error.to_string())),
        };
        (Tool { described, schema }, why)
    }

    /// In what the arguments do not fit, in words; empty if they do.
    pub(super) fn violations(&self, arguments: &Value) -> Vec<String> {
        let Some(schema) = &self.schema else { return Vec::new() };
        let told = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "the arguments" } else { place.as_str() };
            let words: String = error.to_string().chars().take(300).collect();
            format!("{place}: {words}")
        };
        schema.iter_errors(arguments).take(VIOLATIONS_MAX).map(told).collect()
    }
}

impl Offer {
    pub(super) fn has(&self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Tool => self.tools.contains_key(name),
            Kind::Resource => self.resources.contains_key(name) || self.has_template(name),
            Kind::Prompt => self.prompts.contains_key(name),
        }
    }

    /// Whether the URI begins as one of its templates does, up to the first variable.
    fn has_template(&self, uri: &str) -> bool {
        let mut templates = self.templates.iter().filter_map(|template| template["uriTemplate"].as_str());
        templates.any(|template| {
            let (start, rest) = template.split_once('{').unwrap_or((template, ""));
            if rest.is_empty() { uri == start } else { !start.is_empty() && uri.starts_with(start) }
        })
    }
}

impl Catalog {
    /// Makes a server known, before anybody knows what it offers.
    pub(super) fn announce(&self, server: &str, is_ranked: bool) {
        self.lock().entry(server.to_owned()).or_default().is_ranked = is_ranked;
    }

    /// A server is configured no more.
    pub fn forget(&self, server: &str) {
        self.lock().remove(server);
    }

    /// Writes down what a server offers now.
    pub(super) fn put(&self, server: &str, offer: Offer) {
        let mut servers = self.lock();
        let shadowed: Vec<&String> = offer
            .tools
            .keys()
            .filter(|name| {
                servers.iter().any(|(other, entry)| other != server && entry.has(Kind::Tool, name))
            })
            .collect();
        if !shadowed.is_empty() {
            tracing::info!(server, tools = ?shadowed, "other servers have tools of these names too");
        }
        // One that is configured no more may still say something.
        if let Some(entry) = servers.get_mut(server) {
            entry.offer = Some(Arc::new(offer));
        }
    }

    /// What the server offers, as far as it has ever said.
    pub(super) fn offer(&self, server: &str) -> Option<Arc<Offer>> {
        self.lock().get(server)?.offer.clone()
    }

    /// The server's own name for what is called so, if it is this server that is meant.
    pub(super) fn own_name<'a>(&self, server: &str, kind: Kind, name: &'a str) -> Option<&'a str> {
        let servers = self.lock();
        let entry = servers.get(server)?;
        if let Some(own) = after(name, server)
            // Servers need not list the resources that they have.
            && (kind == Kind::Resource || entry.offer.as_ref().is_none_or(|offer| offer.has(kind, own)))
        {
            return Some(own);
        }
        if !entry.has(kind, name) {
            return None;
        }
        let is_anothers = |(other, entry): (&String, &Entry)| {
            other != server && after(name, other).is_some_and(|own| entry.has(kind, own))
        };
        let comes_first = |(other, other_entry): (&String, &Entry)| {
            let is_before = other_entry.is_ranked || other.as_str() < server;
            other != server && is_before && other_entry.has(kind, name)
        };
        let is_shadowed = !entry.is_ranked && servers.iter().any(comes_first);
        (!is_shadowed && !servers.iter().any(is_anothers)).then_some(name)
    }

    /// The servers that are known, in order.
    #[must_use]
    pub fn servers(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// What all servers offer of a kind, each with its server; and the templates, for resources.
    pub(in crate::provider) fn listed(&self, kind: Kind) -> Vec<Value> {
        let mut all = Vec::new();
        for (server, offer) in self.offers() {
            let of: Vec<&Value> = match kind {
                Kind::Tool => offer.tools.values().map(|tool| &tool.described).collect(),
                Kind::Resource => offer.resources.values().collect(),
                Kind::Prompt => offer.prompts.values().collect(),
            };
            all.extend(of.into_iter().map(|one| with_server(one, &server)));
        }
        all
    }

    /// The templates of resources, each with its server.
    pub(in crate::provider) fn templates(&self) -> Vec<Value> {
        let of = |(server, offer): (String, Arc<Offer>)| {
            offer.templates.iter().map(|one| with_server(one, &server)).collect::<Vec<Value>>()
        };
        self.offers().into_iter().flat_map(of).collect()
    }

    /// What each server says of itself; `null` for one that has not been reached yet.
    pub(in crate::provider) fn about(&self) -> Value {
        let about = |(name, entry): (&String, &Entry)| {
            (name.clone(), entry.offer.as_ref().map_or(Value::Null, |offer| offer.about.clone()))
        };
        Value::Object(self.lock().iter().map(about).collect())
    }

    fn offers(&self) -> Vec<(String, Arc<Offer>)> {
        let servers = self.lock();
        servers.iter().filter_map(|(name, entry)| Some((name.clone(), entry.offer.clone()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Nothing that panics is done while it is held.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn has(&self, kind: Kind, name: &str) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.has(kind, name))
    }
}

/// What follows `SERVER.`.
fn after<'a>(name: &'a str, server: &str) -> Option<&'a str> {
    name.strip_prefix(server)?.strip_prefix('.')
}

fn with_server(described: &Value, server: &str) -> Value {
    let mut told = described.clone();
    if let Some(object) = told.as_object_mut() {
        object.insert("server".to_owned(), json!(server));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, schema: Value) -> (String, Tool) {
        let described = json!({"name": name, "inputSchema": schema});
        (name.to_owned(), Tool::new(described).0)
    }

    fn catalog(servers: &[(&str, bool, &[&str])]) -> Catalog {
        let catalog = Catalog::default();
        for (server, is_ranked, tools) in servers {
            catalog.announce(server, *is_ranked);
            let tools = tools.iter().map(|name| tool(name, json!({"type": "object"}))).collect();
            catalog.put(server, Offer { tools, ..Offer::default() });
        }
        catalog
    }

    fn owners<'a>(catalog: &Catalog, name: &'a str) -> Vec<(String, &'a str)> {
        let own = |server: String| {
            let name = catalog.own_name(&server, Kind::Tool, name)?;
            Some((server, name))
        };
        catalog.servers().into_iter().filter_map(own).collect()
    }

    fn told(of: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
        of.iter().map(|(server, name)| ((*server).to_owned(), *name)).collect()
    }

    #[test]
    fn what_a_server_says_that_is_configured_no_more_is_not_kept() {
        let catalog = catalog(&[("a", false, &["find"]), ("b", false, &["find"])]);
        catalog.forget("a");
        let tools = [tool("find", json!({"type": "object"}))].into();
        catalog.put("a", Offer { tools, ..Offer::default() });
        assert_eq!(owners(&catalog, "find"), told(&[("b", "find")]));
    }

    #[test]
    fn a_name_means_one_server_unless_ranks_say_that_several_are_alternatives() {
        let unranked = catalog(&[("a", false, &["find", "a.b"]), ("b", false, &["find", "only"])]);
        assert_eq!(owners(&unranked, "find"), told(&[("a", "find")]));
        assert_eq!(owners(&unranked, "b.find"), told(&[("b", "find")]));
        assert_eq!(owners(&unranked, "only"), told(&[("b", "only")]));
        assert_eq!(owners(&unranked, "a.b"), told(&[("a", "a.b")]));
        assert_eq!(owners(&unranked, "none"), told(&[]));
        assert_eq!(owners(&unranked, "b.none"), told(&[]));
        let ranked = catalog(&[("a", false, &["find"]), ("b", true, &["find"]), ("c", true, &["find"])]);
        assert_eq!(owners(&ranked, "find"), told(&[("b", "find"), ("c", "find")]));
        let dotted = catalog(&[("a", false, &["b"]), ("z", false, &["a.b"])]);
        assert_eq!(owners(&dotted, "a.b"), told(&[("a", "b")]), "the server's name comes first");
        assert_eq!(owners(&dotted, "z.a.b"), told(&[("z", "a.b")]));
    }

    #[test]
    fn a_server_that_was_never_reached_is_meant_where_it_is_named() {
        let catalog = Catalog::default();
        catalog.announce("far", false);
        assert_eq!(owners(&catalog, "far.x"), told(&[("far", "x")]));
        assert_eq!(owners(&catalog, "x"), told(&[]));
        assert_eq!(catalog.about(), json!({"far": null}));
    }

    #[test]
    fn arguments_are_held_against_the_schema_of_the_tool() {
        let schema = json!({
            "type": "object", "required": ["city"], "additionalProperties": false,
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 5}},
        });
        let (_, tool) = tool("weather", schema);
        assert!(tool.violations(&json!({"city": "Ulm", "days": 3})).is_empty());
        let said = tool.violations(&json!({"days": 9, "color": 1, "x": 12_345_678_901_234_567_890_u64}));
        let said = said.join("\n");
        for part in ["/days: 9 is greater than", "\"city\" is a required property", "color"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        let (tool, why) = Tool::new(json!({"name": "x", "inputSchema": {"type": 5}}));
        assert!(tool.violations(&json!({"a": 1})).is_empty() && why.is_some());
        let away = json!({"name": "x", "inputSchema": {"$ref": "https://example.org/schema.json"}});
        assert!(Tool::new(away).1.is_some(), "nothing is fetched");
    }

    #[test]
    fn resources_are_known_by_their_address_or_by_a_template() {
        let templates = vec![json!({"uriTemplate": "notes://{name}"}), json!({"uriTemplate": "{any}"})];
        let resources = BTreeMap::from([("file:///a".to_owned(), json!({"uri": "file:///a"}))]);
        let offer = Offer { resources, templates, ..Offer::default() };
        for (uri, is_there) in
            [("file:///a", true), ("notes://x", true), ("file:///b", false), ("other://", false)]
        {
            assert_eq!(offer.has(Kind::Resource, uri), is_there, "{uri}");
        }
    }
}
