//! One HTTP request and its whole answer, with a bound.

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};

use crate::core::failure::Failure;
use crate::core::url::Url;
use crate::provider::address::{self, CONNECT_TIMEOUT, IDLE_TIMEOUT};

/// How much of a server's words is put into a message, in characters.
const WORDS_MAX: usize = 500;

/// A server, with connections that are used again.
#[derive(Debug)]
pub(super) struct Server {
    url: Url,
    /// Its address without a password.
    pub(super) shown: String,
    client: Client,
    answer_bytes_max: usize,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// The HTTP status.
    pub(super) status: u16,
    /// The body, whole.
    pub(super) body: Vec<u8>,
    /// What `Retry-After` says.
    pub(super) retry_after: Option<String>,
}

impl Server {
    /// A server at `url` (`http://` or `https://`). Connects to nothing yet.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: no such address, or no certificates on this machine.
    pub(super) fn new(url: &Url, answer_bytes_max: usize) -> Result<Server, Failure> {
        let (client, shown) = address::client(url, CONNECT_TIMEOUT, IDLE_TIMEOUT)?;
        Ok(Server { url: url.clone(), shown, client, answer_bytes_max })
    }

    /// Sends a document and takes the whole answer, whatever its status. Dropped, the connection is closed.
    ///
    /// # Errors
    /// No connection, a broken one, an answer above the bound.
    pub(super) async fn post(&self, body: Vec<u8>, traceparent: Option<&str>) -> Result<Reply, Failure> {
        let mut request =
            self.client.post(self.url.as_str()).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let mut response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status().as_u16();
        let retry_after = address::retry_after(response.headers());
        let body = self.bounded(&mut response).await?;
        Ok(Reply { status, body, retry_after })
    }

    async fn bounded(&self, response: &mut Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(&error))? {
            if body.len() + chunk.len() > self.answer_bytes_max {
                let what_to_do = "return less, or store it elsewhere and return where it is";
                return Err(address::too_large(&self.shown, self.answer_bytes_max, what_to_do));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        address::broken(&self.shown, None, error)
    }
}

impl Reply {
    /// The first words of the body.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().chars().take(WORDS_MAX).collect()
    }
}
