//! The configured providers in any language.

use std::sync::Arc;

use super::makers::Makers;
use crate::config::RpcProvider;
use crate::core::code::Code;
use crate::error::Error;
use crate::provider::Provider;
use crate::provider::guard::{self, Guard};
use crate::provider::registry::InstanceSettings;
use crate::provider::rpc::{Rpc, Settings};

impl Makers {
    /// Adds the providers of kind `rpc`, each in a guard.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: one serves a protocol that nobody has declared.
    pub(super) fn add_rpc_providers(
        &self,
        all: &mut Vec<(Arc<dyn Provider>, InstanceSettings)>,
    ) -> Result<(), Error> {
        for configured in self.config.rpc_providers() {
            let traits = configured.traits.clone();
            let settings = InstanceSettings { traits, breaker: self.config.breaker() };
            let permits = guard::Settings { permits: configured.concurrency, ..guard::Settings::default() };
            all.push((Arc::new(Guard::new(Arc::new(self.rpc_provider(configured)?), &permits)), settings));
        }
        Ok(())
    }

    /// One of them, not started.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: nobody has declared its protocol.
    fn rpc_provider(&self, configured: RpcProvider) -> Result<Rpc, Error> {
        let RpcProvider { name, protocol, road, .. } = configured;
        let Some(spec) = self.protocols.get(&protocol) else {
            let text = format!(
                "providers.{name}.protocol: there is no protocol {protocol}; declare it in a file of protocols.folder, and \
                 `gleitzeit protocol list` has it"
            );
            return Err(Error::new(Code::ConfigurationError, text));
        };
        let settings = Settings { name, road, result_bytes_max: self.result_bytes_max() };
        Ok(Rpc::new(settings, spec.clone(), Arc::clone(&self.clock)))
    }
}
