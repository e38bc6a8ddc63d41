//! The configured MCP servers, and the tools that are always there.

use std::sync::Arc;

use super::makers::Makers;
use crate::config::McpProvider;
use crate::provider::Provider;
use crate::provider::guard::{self, Guard};
use crate::provider::mcp::{Server, Settings};
use crate::provider::mcp_tools::McpTools;
use crate::provider::registry::InstanceSettings;

impl Makers {
    /// Adds the built-in tools and the providers of kind `mcp`, each in a guard.
    pub(super) fn add_mcp_providers(&self, all: &mut Vec<(Arc<dyn Provider>, InstanceSettings)>) {
        for configured in self.config.mcp_providers() {
            let McpProvider { name, road, is_ranked, concurrency, traits } = configured;
            let settings = Settings { name, road, is_ranked, result_bytes_max: self.result_bytes_max() };
            let server = Arc::new(Server::new(settings, Arc::clone(&self.catalog)));
            let permits = guard::Settings { permits: concurrency, ..guard::Settings::default() };
            let settings = InstanceSettings { traits, breaker: self.config.breaker() };
            all.push((Arc::new(Guard::new(server, &permits)), settings));
        }
        let tools = Arc::new(McpTools::over(Arc::clone(&self.catalog)));
        let plain = InstanceSettings { breaker: self.config.breaker(), ..InstanceSettings::default() };
        all.push((Arc::new(Guard::new(tools, &guard::Settings::default())), plain));
    }
}
