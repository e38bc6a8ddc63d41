//! A provider made of async functions: their parameters and results are serde types, and the protocol's file is
//! derived from these.
//!
//! ```
//! use gleitzeit::core::failure::Failure;
//! use gleitzeit::provider::CallCx;
//! use gleitzeit::provider::functions::Functions;
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Greet {
//!     /// Whom to greet.
//!     name: String,
//! }
//!
//! async fn greet(_: CallCx, greet: Greet) -> Result<String, Failure> {
//!     Ok(format!("Hello {}", greet.name))
//! }
//!
//! let greeter = Functions::new("greeter/v1".parse()?).function("greet", greet);
//! assert!(greeter.source()?.text.contains("Whom to greet."));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Numbers keep all their digits on the way here (`serde_json`'s `arbitrary_precision`), for which serde's
//! `untagged` and `flatten` have no place: a number inside such a type may be refused.

mod schema;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Answer, CallCx, Provider};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::{ProtocolId, Source};

type Run = Arc<dyn Fn(CallCx, Value) -> BoxFuture<'static, Result<Value, Failure>> + Send + Sync>;

/// The functions of one protocol. Each call runs beside the others; one that is cancelled, or whose time is over, is
/// dropped where it awaits.
pub struct Functions {
    name: String,
    protocol: ProtocolId,
    description: Option<String>,
    functions: Vec<Function>,
}

struct Function {
    method: String,
    run: Run,
    declared: Result<Map<String, Value>, String>,
}

/// Why no protocol can be derived from the functions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("functions of {protocol}: {}", .problems.join("; "))]
pub struct DeriveError {
    /// Whose functions.
    pub protocol: ProtocolId,
    /// Every problem.
    pub problems: Vec<String>,
}

impl DeriveError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::ConfigurationError
    }
}

impl Functions {
    /// No functions yet. The provider is called as its protocol, without the version.
    #[must_use]
    pub fn new(protocol: ProtocolId) -> Functions {
        Functions { name: protocol.name().to_owned(), protocol, description: None, functions: Vec::new() }
    }

    /// Calls the provider by another name, which must be unique in its worker.
    #[must_use]
    pub fn named(mut self, name: &str) -> Functions {
        name.clone_into(&mut self.name);
        self
    }

    /// Says what the protocol is for.
    #[must_use]
    pub fn describe(mut self, text: &str) -> Functions {
        self.description = Some(text.to_owned());
        self
    }

    /// Serves `method` by `run`. `P` must be a struct with named fields (or a map, which takes any parameters):
    /// what comes is checked against its schema before the function sees it. A [`Failure`]'s code says whether
    /// it is tried again ([`Failure::new`], [`Failure::final_now`]).
    #[must_use]
    pub fn function<P, R, F, Running>(mut self, method: &str, run: F) -> Functions
    where
        P: DeserializeOwned + JsonSchema + Send,
        R: Serialize + JsonSchema,
        F: Fn(CallCx, P) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<R, Failure>> + Send + 'static,
    {
        let run: Run = Arc::new(move |cx, params| match serde_json::from_value::<P>(params) {
            Ok(params) => {
                let running = run(cx, params);
                Box::pin(async move { told(&running.await?) })
            }
            Err(error) => {
                let failure = Failure::new(Code::InvalidParams, format!("the parameters: {error}"));
                Box::pin(std::future::ready(Err(failure)))
            }
        });
        let declared = schema::method::<P, R>();
        self.functions.push(Function { method: method.to_owned(), run, declared });
        self
    }

    /// The protocol's file, for `protocols.folder` of whoever sends tasks of it.
    ///
    /// # Errors
    /// [`DeriveError`] for functions whose parameters are no object, and for two of one name.
    pub fn source(&self) -> Result<Source, DeriveError> {
        let (mut methods, mut problems) = (Map::new(), Vec::new());
        for Function { method, declared, .. } in &self.functions {
            match declared {
                _ if methods.contains_key(method) => problems.push(format!("{method} is there twice")),
                Ok(declared) => drop(methods.insert(method.clone(), Value::Object(declared.clone()))),
                Err(problem) => problems.push(format!("{method}: {problem}")),
            }
        }
        if !problems.is_empty() {
            return Err(DeriveError { protocol: self.protocol.clone(), problems });
        }
        let mut file = Map::new();
        file.insert("name".to_owned(), self.protocol.name().into());
        file.insert("version".to_owned(), self.protocol.version().to_string().into());
        if let Some(description) = &self.description {
            file.insert("description".to_owned(), description.as_str().into());
        }
        file.insert("methods".to_owned(), Value::Object(methods));
        let name = format!("{}-{}.json", self.protocol.name(), self.protocol.version());
        Ok(Source { name, text: format!("{:#}\n", json!(file)) })
    }

    fn find(&self, method: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.method == method)
    }
}

/// What a function gave, as JSON.
fn told<R: Serialize>(result: &R) -> Result<Value, Failure> {
    serde_json::to_value(result).map_err(|error| {
        Failure::new(Code::TaskResultInvalid, format!("the result cannot be written as JSON: {error}"))
    })
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<&str> = self.functions.iter().map(|function| function.method.as_str()).collect();
        f.debug_struct("Functions").field("protocol", &self.protocol).field("methods", &methods).finish()
    }
}

#[async_trait]
impl Provider for Functions {
    fn name(&self) -> &str {
        &self.name
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }

    fn serves(&self, method: &str) -> bool {
        self.find(method).is_some()
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let Some(function) = self.find(method) else {
            let message = format!("{} has no method {method}", self.protocol);
            return Err(Failure::new(Code::MethodNotSupported, message));
        };
        tokio::select! {
            result = (function.run)(cx.clone(), params) => result.map(Answer::from),
            () = cx.cancel.cancelled() => {
                Err(Failure::new(Code::TaskCancelled, "the call was cancelled while it ran"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
