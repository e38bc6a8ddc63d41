//! What can be said of a provider of kind `mcp`: a server of the Model Context Protocol.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::rpc::Said;
use super::{INSTANCES, split};
use crate::config::Config;
use crate::core::balance::Traits;
use crate::core::pool::Policy;
use crate::provider::mcp::{Address, Road};

/// Calls that one session takes at once where nothing is said.
const CALLS: u32 = 64;

/// An MCP server.
#[derive(Debug, Clone, PartialEq)]
pub struct McpProvider {
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub road: Road,
    /// Whether it has a rank of its own.
    pub is_ranked: bool,
    /// Calls at once, in all its sessions together; `None`: any number.
    pub concurrency: Option<NonZeroUsize>,
    /// What it is to those who choose.
    pub traits: Traits,
}

impl Config {
    /// The providers of kind `mcp`, by name.
    #[must_use]
    pub fn mcp_providers(&self) -> Vec<McpProvider> {
        let names = self.values.iter().filter_map(|(key, (value, _))| {
            let (name, key) = split(key)?;
            (key == "kind" && value.as_str() == Some("mcp")).then_some(name)
        });
        names.map(|name| self.mcp_provider(name)).collect()
    }

    fn mcp_provider(&self, name: &str) -> McpProvider {
        let general = self.instance(name);
        let said = Said { config: self, prefix: format!("{INSTANCES}{name}.") };
        let start_timeout = said.seconds("start_timeout").unwrap_or(Duration::from_secs(30));
        // Servers may keep what they know between calls, and take many at once.
        let usual = Policy { min: 1, max: 1, concurrency: CALLS, ..Policy::default() };
        let road = match said.text("url") {
            None => Road::Processes(Box::new(said.command(start_timeout, usual))),
            Some(url) => Road::Http(Box::new(Address {
                url: url.into(),
                token_file: said.text("token_file").map(PathBuf::from),
                headers_file: said.text("headers_file").map(PathBuf::from),
                pool: said.pool(usual),
                start_timeout,
            })),
        };
        McpProvider {
            name: general.name,
            road,
            is_ranked: self.values.contains_key(&format!("{INSTANCES}{name}.rank")),
            concurrency: general.concurrency,
            traits: general.traits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    #[test]
    fn a_server_is_read_with_what_is_not_said_filled_in() {
        let config = read(
            "[providers.files]\nkind = 'mcp'\ncommand = ['files', '/srv']\n[providers.files.env]\nKEY = 's3cret'\n\
             [providers.far]\nkind = 'mcp'\nurl = 'https://h/mcp'\nrank = 2\ntoken_file = '/run/t'\n\
             headers_file = '/run/h'\n[providers.far.pool]\nconcurrency = 3\n",
        )
        .expect("valid");
        let [far, files] = &config.mcp_providers()[..] else { panic!("two") };
        let Road::Http(address) = &far.road else { panic!("an address") };
        assert_eq!((address.token_file.as_deref(), far.is_ranked), (Some("/run/t".as_ref()), true));
        assert_eq!((address.pool.concurrency, address.pool.max), (3, 1));
        let Road::Processes(command) = &files.road else { panic!("a program") };
        assert_eq!((command.pool.concurrency, command.pool.max, files.is_ranked), (CALLS, 1, false));
        assert!(config.instances().is_empty() && config.rpc_providers().is_empty());
        assert!(!format!("{:?}", config.shown()).contains("s3cret"));
    }

    #[test]
    fn every_problem_of_a_server_is_told() {
        let said = read(
            "[providers.a]\nkind = 'mcp'\nprotocol = 'mcp/v1'\ncommand = ['x']\ntoken_file = '/t'\n\
             [providers.b]\nkind = 'mcp'\n[providers.c]\nkind = 'mcp'\nurl = 'http://h'\nenv.A = 'b'\n\
             [providers.d]\nkind = 'rpc'\nprotocol = 'w/v1'\nurl = 'http://h'\ntoken_file = '/t'\n",
        )
        .expect_err("wrong in many ways");
        for part in [
            "providers.a.protocol is not known; there are kind,",
            "providers.a.token_file needs a url",
            "providers.b needs a command or a url",
            "providers.c.env.A needs a command",
            "providers.d.token_file is not known",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}
