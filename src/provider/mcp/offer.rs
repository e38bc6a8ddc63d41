//! Asking a server what it offers.

use std::collections::BTreeMap;

use rmcp::model::{PaginatedRequestParams, ServerCapabilities};
use rmcp::service::{Peer, RoleClient, ServiceError};
use serde_json::{Value, json};

use super::catalog::{Offer, Tool};
use super::outcome::plain;

/// The most pages of a list that are asked for.
const PAGES_MAX: usize = 100;
/// The most things of a kind that a server may offer.
const THINGS_MAX: usize = 10_000;

/// One page: what is on it, and where the next one begins.
type Page = (Vec<Value>, Option<String>);

/// What a server lists.
#[derive(Debug, Clone, Copy)]
enum List {
    Tools,
    Resources,
    Templates,
    Prompts,
}

/// What the server offers now.
///
/// # Errors
/// It could not be asked. That it does not know a list, although it said so, is no error.
pub(super) async fn ask(provider: &str, peer: &Peer<RoleClient>) -> Result<Offer, ServiceError> {
    let Some(info) = peer.peer_info() else { return Ok(Offer::default()) };
    let can: &ServerCapabilities = &info.capabilities;
    let (mut tools, mut resources, mut templates, mut prompts) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    if can.tools.is_some() {
        tools = all(provider, peer, List::Tools).await?;
    }
    if can.resources.is_some() {
        resources = all(provider, peer, List::Resources).await?;
        templates = all(provider, peer, List::Templates).await?;
    }
    if can.prompts.is_some() {
        prompts = all(provider, peer, List::Prompts).await?;
    }
    let own = info.server_info.as_ref();
    let about = json!({
        "name": own.map(|own| own.name.clone()), "version": own.map(|own| own.version.clone()),
        "protocol_version": info.protocol_version.to_string(), "instructions": info.instructions,
    });
    Ok(Offer {
        about,
        tools: tools_by_name(provider, tools),
        resources: by(resources, "uri"),
        templates,
        prompts: by(prompts, "name"),
    })
}

impl List {
    async fn page(
        self,
        peer: &Peer<RoleClient>,
        params: Option<PaginatedRequestParams>,
    ) -> Result<Page, ServiceError> {
        Ok(match self {
            List::Tools => {
                let page = peer.list_tools(params).await?;
                (page.tools.iter().map(plain).collect(), page.next_cursor)
            }
            List::Resources => {
                let page = peer.list_resources(params).await?;
                (page.resources.iter().map(plain).collect(), page.next_cursor)
            }
            List::Templates => {
                let page = peer.list_resource_templates(params).await?;
                (page.resource_templates.iter().map(plain).collect(), page.next_cursor)
            }
            List::Prompts => {
                let page = peer.list_prompts(params).await?;
                (page.prompts.iter().map(plain).collect(), page.next_cursor)
            }
        })
    }
}

/// Every page of a list, up to a bound.
async fn all(provider: &str, peer: &Peer<RoleClient>, list: List) -> Result<Vec<Value>, ServiceError> {
    let (mut found, mut cursor) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let params = cursor.map(|cursor| PaginatedRequestParams::default().with_cursor(Some(cursor)));
        let (mut things, next) = match list.page(peer, params).await {
            Ok(page) => page,
            Err(ServiceError::McpError(error)) => {
                tracing::debug!(provider, %error, "a list could not be had");
                return Ok(found);
            }
            Err(error) => return Err(error),
        };
        found.append(&mut things);
        cursor = next;
        if cursor.is_none() {
            return Ok(found);
        }
        if found.len() > THINGS_MAX {
            break;
        }
    }
    found.truncate(THINGS_MAX);
    tracing::warn!(provider, kept = found.len(), "offers more than is kept; the rest is left out");
    Ok(found)
}

fn tools_by_name(provider: &str, described: Vec<Value>) -> BTreeMap<String, Tool> {
    let mut tools = BTreeMap::new();
    for (name, described) in by(described, "name") {
        let (tool, why) = Tool::new(described);
        if let Some(why) = why {
            tracing::warn!(
                provider,
                tool = name,
                why,
                "the schema of a tool is none; nothing is checked by it"
            );
        }
        tools.insert(name, tool);
    }
    tools
}

fn by(all: Vec<Value>, key: &str) -> BTreeMap<String, Value> {
    all.into_iter().filter_map(|one| Some((one[key].as_str()?.to_owned(), one))).collect()
}
