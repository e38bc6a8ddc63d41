//! A worker inside another program, with providers of that program's own.
//!
//! ```no_run
//! use gleitzeit::core::failure::Failure;
//! use gleitzeit::provider::CallCx;
//! use gleitzeit::provider::functions::Functions;
//! use gleitzeit::worker::Worker;
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Shout {
//!     text: String,
//! }
//!
//! async fn shout(_: CallCx, shout: Shout) -> Result<String, Failure> {
//!     Ok(shout.text.to_uppercase())
//! }
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let voice = Functions::new("voice/v1".parse()?).function("shout", shout);
//! let service = Worker::builder().functions(voice).start().await?;
//! service.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Brought, Role, Runtime};
use crate::client::Client;
use crate::config::{self, Config, Sources};
use crate::core::code::Code;
use crate::core::id::Id;
use crate::core::protocol::{ProtocolId, Source};
use crate::error::Error;
use crate::provider::Provider;
use crate::provider::functions::{DeriveError, Functions};
use crate::worker::Worker;

/// What a worker in another program is made of.
#[derive(Debug, Default)]
pub struct Builder {
    config: Option<Config>,
    brought: Brought,
    underivable: Vec<DeriveError>,
}

/// A worker in another program, connected and with its providers started; it takes nothing before it runs.
#[derive(Debug)]
pub struct Service {
    runtime: Runtime,
    worker: Worker,
}

impl Worker {
    /// A worker inside another program, with providers of that program's own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// Uses this configuration. Without one it is that of the process, as of the command line: defaults, file,
    /// environment.
    #[must_use]
    pub fn config(mut self, config: Config) -> Builder {
        self.config = Some(config);
        self
    }

    /// Serves the protocol of these functions; it need not be in any file.
    #[must_use]
    pub fn functions(self, functions: Functions) -> Builder {
        match functions.source() {
            Ok(source) => self.protocol(source).provider(functions),
            Err(error) => Builder { underivable: [self.underivable, vec![error]].concat(), ..self },
        }
    }

    /// Knows one more protocol, as if it were in `protocols.folder`.
    #[must_use]
    pub fn protocol(mut self, source: Source) -> Builder {
        self.brought.protocols.push(source);
        self
    }

    /// Has one more provider, beside those of the configuration. Its protocol is built in, in `protocols.folder`, or
    /// given to [`Builder::protocol`]. Time limits, cancellation and panics are seen to around it.
    #[must_use]
    pub fn provider(mut self, provider: impl Provider) -> Builder {
        self.brought.providers.push(Arc::new(provider));
        self
    }

    /// Connects, and starts the providers. Which protocols the worker takes is said by `worker.protocols`; when
    /// that is empty, all that it has a provider for (embedded: all that there are).
    ///
    /// # Errors
    /// Functions without a protocol, a provider of a protocol that nobody knows, a configuration that cannot be
    /// used, and what the broker or the store says.
    pub async fn start(self) -> Result<Service, Error> {
        if !self.underivable.is_empty() {
            let problems: Vec<String> = self.underivable.iter().map(ToString::to_string).collect();
            return Err(Error::new(Code::ConfigurationError, problems.join("; ")));
        }
        let config = match self.config {
            Some(config) => config,
            None => config::load(&Sources::of_process(None))?,
        };
        let served: Vec<ProtocolId> =
            self.brought.providers.iter().map(|provider| provider.protocol().clone()).collect();
        let runtime = Runtime::open_with(config, Role::Worker, None, self.brought).await?;
        if let Some(unknown) = served.iter().find(|id| runtime.protocols.get(id).is_none()) {
            let text = format!(
                "a provider serves {unknown}, which is no known protocol: give its file to `Builder::protocol`, or \
                 put it into protocols.folder"
            );
            return Err(Error::new(Code::ConfigurationError, text));
        }
        let worker = runtime.worker().await?;
        Ok(Service { runtime, worker })
    }
}

impl Service {
    /// The worker's id, which is also that of its session.
    #[must_use]
    pub fn session(&self) -> &Id {
        self.worker.session()
    }

    /// The protocols whose tasks it takes.
    #[must_use]
    pub fn protocols(&self) -> &[ProtocolId] {
        self.worker.protocols()
    }

    /// A client to the same place. Embedded, what it submits is done by this worker.
    #[must_use]
    pub fn client(&self) -> Client {
        self.runtime.client()
    }

    /// Works until `stop` ends, then drains: takes nothing new, lets what runs end for `worker.grace`, gives the
    /// rest back uncounted, and closes what was opened.
    ///
    /// # Errors
    /// What the broker says, and a worker that stopped by itself.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let drain = CancellationToken::new();
        let running = self.worker.run(drain.clone());
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => {
                ended?;
                return Err(Error::new(Code::SystemShutdown, "the worker stopped by itself"));
            }
            () = stop => {}
        }
        drain.cancel();
        running.await?;
        self.runtime.close().await;
        Ok(())
    }
}
