//! One exchange with a model's server: sent whole, answered in lines or whole, bounded, and ended when its call
//! ends.
//!
//! A call's time limit is kept by the guard around the provider; the one here, if any, is that of one request.
//! An exchange that is dropped or cancelled closes its connection, which is how a server learns that nobody waits
//! any more. `refusal` says what a status means.
//! `address` says what became of a connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::key::{Key, Secret};
use super::refusal::Reply;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::url::Url;
use crate::provider::CallCx;
use crate::provider::address::{self, CONNECT_TIMEOUT, IDLE_TIMEOUT};

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Its address, such as `http://127.0.0.1:11434`.
    pub url: Url,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a connection that nobody uses is kept.
    pub idle_timeout: Duration,
    /// How long one request may take; `None`: as long as its task.
    pub timeout: Option<Duration>,
    /// The key that it asks for.
    pub key: Option<Key>,
}

impl Reach {
    /// At this address, without a key.
    #[must_use]
    pub fn at(url: &str) -> Reach {
        Reach {
            url: url.into(),
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            timeout: None,
            key: None,
        }
    }
}

/// A server, with connections that are used again.
#[derive(Debug)]
pub(super) struct Server {
    base: Url,
    /// Its address without a password.
    pub(super) shown: String,
    client: Client,
    timeout: Option<Duration>,
    key: Option<Key>,
    answer_bytes_max: usize,
}

impl Server {
    /// A server (`http://` or `https://`, with a path if it has one). Connects to nothing yet.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: no such address, or no certificates on this machine.
    pub(super) fn new(reach: &Reach, answer_bytes_max: usize) -> Result<Server, Failure> {
        let (client, shown) = address::client(&reach.url, reach.connect_timeout, reach.idle_timeout)?;
        if reach.url.as_str().contains(['?', '#']) {
            return Err(address::none(&shown, "paths are added to it, so it must have no `?` and no `#`"));
        }
        Ok(Server {
            base: reach.url.as_str().trim_end_matches('/').into(),
            shown,
            client,
            timeout: reach.timeout,
            key: reach.key.clone(),
            answer_bytes_max,
        })
    }

    /// Sends JSON and waits for the head of the answer, whatever its status.
    ///
    /// # Errors
    /// No connection, a broken one, no key; `TASK_CANCELLED` once the call must end.
    pub(super) async fn post(&self, cx: &CallCx, path: &str, body: &Value) -> Result<Incoming<'_>, Failure> {
        let mut request = self.client.post(self.address(path)).header(CONTENT_TYPE, "application/json");
        if let Some(traceparent) = &cx.traceparent {
            request = request.header("traceparent", traceparent);
        }
        self.send(request.body(body.to_string()), cx.cancel.clone()).await
    }

    /// Asks for something, and takes all of it.
    ///
    /// # Errors
    /// As [`Server::post`]; an answer above the bound.
    pub(super) async fn get(&self, path: &str) -> Result<Reply, Failure> {
        let request = self.client.get(self.address(path));
        self.send(request, CancellationToken::new()).await?.whole().await
    }

    /// What its key is now.
    ///
    /// # Errors
    /// As [`Key::read`].
    pub(super) async fn secret(&self) -> Result<Option<Secret>, Failure> {
        match &self.key {
            Some(key) => key.read().await.map(Some),
            None => Ok(None),
        }
    }

    async fn send(
        &self,
        mut request: RequestBuilder,
        cancel: CancellationToken,
    ) -> Result<Incoming<'_>, Failure> {
        let secret = self.secret().await?;
        if let Some(secret) = &secret {
            request = request.header(AUTHORIZATION, secret.header());
        }
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        let response = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(self.given_up()),
            sent = request.send() => sent.map_err(|error| self.broken(&error))?,
        };
        Ok(Incoming { server: self, secret, response, cancel, held: BytesMut::new(), scanned: 0, taken: 0 })
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base.as_str())
    }

    fn given_up(&self) -> Failure {
        Failure::new(Code::TaskCancelled, format!("the request to {} was given up", self.shown))
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        address::broken(&self.shown, self.timeout, error)
    }
}

/// An answer that is still coming.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    server: &'a Server,
    secret: Option<Secret>,
    response: Response,
    cancel: CancellationToken,
    /// What has come and is not handed out yet.
    held: BytesMut,
    /// How much of it has no end of a line.
    scanned: usize,
    /// How much has come in all.
    taken: usize,
}

impl Incoming<'_> {
    /// Whether the server does what it was asked.
    pub(super) fn is_ok(&self) -> bool {
        self.response.status().as_u16() == 200
    }

    /// Whether its end can be told from a connection that broke.
    pub(super) fn has_end(&self) -> bool {
        let headers = self.response.headers();
        headers.contains_key(TRANSFER_ENCODING) || headers.contains_key(CONTENT_LENGTH)
    }

    /// The failure without the key that was sent.
    pub(super) fn hidden(&self, failure: Failure) -> Failure {
        match &self.secret {
            Some(secret) => secret.hidden(failure),
            None => failure,
        }
    }

    /// The next line, with its end if it has one; `None` after the last.
    ///
    /// # Errors
    /// A broken connection, an answer above the bound; `TASK_CANCELLED` once the call must end.
    pub(super) async fn line(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let end = self.held[self.scanned..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.held.split_to(self.scanned + end + 1).freeze();
                self.scanned = 0;
                return Ok(Some(line));
            }
            self.scanned = self.held.len();
            match self.chunk().await? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None if self.held.is_empty() => return Ok(None),
                None => {
                    self.scanned = 0;
                    return Ok(Some(self.held.split().freeze()));
                }
            }
        }
    }

    /// All that is still to come.
    ///
    /// # Errors
    /// As [`Incoming::line`].
    pub(super) async fn whole(mut self) -> Result<Reply, Failure> {
        while let Some(chunk) = self.chunk().await? {
            self.held.extend_from_slice(&chunk);
        }
        let status = self.response.status().as_u16();
        let retry_after = address::retry_after(self.response.headers());
        Ok(Reply { status, body: self.held.to_vec(), retry_after, secret: self.secret })
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let server = self.server;
        let chunk = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(server.given_up()),
            chunk = self.response.chunk() => chunk.map_err(|error| server.broken(&error))?,
        };
        let Some(chunk) = chunk else { return Ok(None) };
        self.taken += chunk.len();
        let max = server.answer_bytes_max;
        if self.taken > max {
            return Err(address::too_large(&server.shown, max, "ask for less (`max_tokens`)"));
        }
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_an_address_is_not_shown() {
        let reach = Reach::at("http://me:s3cret@host:1/v1");
        let server = Server::new(&reach, 100).expect("an address");
        let shown = format!("{reach:?} {server:?}");
        assert!(!shown.contains("s3cret") && shown.contains("me:***@host"), "{shown}");
    }

    #[test]
    fn an_address_that_is_none_is_refused_without_its_password() {
        for url in
            ["127.0.0.1:11434", "localhost:11434", "ftp://me:s3cret@host", "http://", "", "http://h?k=s3cret"]
        {
            let failure = Server::new(&Reach::at(url), 100).expect_err(url);
            assert_eq!(failure.code, Code::ConfigurationError);
            assert!(!failure.message.contains("s3cret"), "{failure}");
        }
    }
}
