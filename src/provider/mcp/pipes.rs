//! Messages over the standard streams of a process: one line, one message.
//!
//! A line that is no JSON is what the program printed by mistake; it is kept with its stderr, and up to a bound does no
//! harm. A line above the bound is dropped while it is read. If it answers a request (its id stands near the beginning
//! or at the end of the line), that request is told so; nobody else is disturbed.
//!
//! The pipe may stay open when the process has ended: what left its group can hold it. So it is read on for a moment
//! after the process's end, and no longer.

use std::io;
use std::sync::Arc;

use rmcp::RoleClient;
use rmcp::model::{ErrorCode, ErrorData, NumberOrString};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::process::{DRAIN_GRACE, Life};
use crate::core::code::Code;

/// How much of both ends of a line that is too long is kept, to find out whose answer it is.
const ENDS_BYTES: usize = 1024;

/// The pipes of a process.
#[derive(Debug)]
pub(super) struct Pipes {
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    stdout: BufReader<ChildStdout>,
    line: Line,
    life: Arc<Life>,
    /// Until when it is read, once the process has ended.
    until: Option<Instant>,
}

/// What has been read of a line. It outlives a read that is given up in between.
#[derive(Debug)]
struct Line {
    kept: Vec<u8>,
    /// The last bytes, once the line is too long and no more of it is kept.
    end: Option<Vec<u8>>,
    bytes_max: usize,
}

impl Pipes {
    pub(super) fn new(
        stdin: ChildStdin,
        stdout: ChildStdout,
        line_bytes_max: usize,
        life: Arc<Life>,
    ) -> Pipes {
        Pipes {
            stdin: Arc::new(Mutex::new(Some(stdin))),
            stdout: BufReader::with_capacity(64 * 1024, stdout),
            line: Line { kept: Vec::new(), end: None, bytes_max: line_bytes_max },
            life,
            until: None,
        }
    }

    /// What a whole line says; `None` for what is no message.
    fn read(&self) -> Option<RxJsonRpcMessage<RoleClient>> {
        if let Some(end) = &self.line.end {
            let id = answered(&self.line.kept, end);
            tracing::warn!(
                provider = self.life.name(),
                ?id,
                "printed a line that is too long; it is dropped"
            );
            let code = ErrorCode(Code::ResultTooLarge.number());
            let error =
                ErrorData::new(code, format!("more than {} bytes in a line", self.line.bytes_max), None);
            return id
                .map(|id| RxJsonRpcMessage::<RoleClient>::error(error, Some(NumberOrString::Number(id))));
        }
        let line = self.line.kept.trim_ascii();
        if line.is_empty() {
            return None;
        }
        let read = serde_json::from_slice(line);
        if let Err(error) = &read {
            let bytes = line.len();
            tracing::debug!(provider = self.life.name(), %error, bytes, "printed to stdout what is no message");
            self.life.noise(&self.line.kept);
        }
        read.ok()
    }
}

impl Transport<RoleClient> for Pipes {
    type Error = io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        let stdin = Arc::clone(&self.stdin);
        async move {
            let mut line = serde_json::to_vec(&item)?;
            line.push(b'\n');
            let mut stdin = stdin.lock().await;
            let Some(stdin) = stdin.as_mut() else {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "its standard input is closed"));
            };
            stdin.write_all(&line).await
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            // Nothing is lost when this is given up: what was consumed is in `line`.
            let available = tokio::select! {
                biased;
                () = silence(&self.life, &mut self.until) => None,
                available = self.stdout.fill_buf() => available.ok(),
            };
            let available = available.unwrap_or_default();
            if available.is_empty() {
                // Its last words, cut off.
                self.life.noise(&self.line.kept);
                return None;
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(available.len(), |place| place + 1);
            self.line.push(&available[..length]);
            self.stdout.consume(length);
            if end.is_some() {
                let said = self.read();
                self.line.clear();
                if said.is_some() {
                    return said;
                }
            }
            if self.life.is_killed() {
                return None;
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        // Whoever is writing holds the lock, to a program that does not read: it is killed soon, and that ends it.
        if let Ok(mut stdin) = self.stdin.try_lock() {
            *stdin = None;
        }
        Ok(())
    }
}

/// Returns a moment after the process has ended: by then everything of its own was read.
async fn silence(life: &Life, until: &mut Option<Instant>) {
    life.ended().await;
    sleep_until(*until.get_or_insert_with(|| Instant::now() + DRAIN_GRACE)).await;
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        if self.end.is_none() && self.kept.len() + bytes.len() <= self.bytes_max {
            self.kept.extend_from_slice(bytes);
            return;
        }
        if self.end.is_none() {
            let start = self.kept.len().saturating_sub(ENDS_BYTES);
            self.end = Some(self.kept[start..].to_vec());
            // With room for the beginning where all of it came at once.
            self.kept.extend_from_slice(&bytes[..bytes.len().min(ENDS_BYTES)]);
            self.kept.truncate(ENDS_BYTES);
            self.kept.shrink_to_fit();
        }
        let end = self.end.get_or_insert_default();
        end.extend_from_slice(bytes);
        end.drain(..end.len().saturating_sub(ENDS_BYTES));
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.end = None;
    }
}

/// Which request a line answers of which only the ends are known: its id comes before the result, or after it.
fn answered(start: &[u8], end: &[u8]) -> Option<i64> {
    let (start, end) = (String::from_utf8_lossy(start), String::from_utf8_lossy(end));
    let before = &start[..start.find("\"result\"").unwrap_or(start.len())];
    if before.contains("\"method\"") {
        return None;
    }
    number_after(before.rsplit_once("\"id\"")).or_else(|| {
        let last = end.rsplit_once("\"id\"");
        // Nothing but the id may follow: what stands inside the result is no id of ours.
        last.filter(|(_, rest)| rest.matches('}').count() == 1).and_then(|parts| number_after(Some(parts)))
    })
}

fn number_after(parts: Option<(&str, &str)>) -> Option<i64> {
    let rest = parts?.1.trim_start().strip_prefix(':')?.trim_start();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_an_answer_is_found_before_or_behind_its_result() {
        for (start, end, id) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"id":8,"x":"#, "\"}}\n", Some(7)),
            (r#"{"jsonrpc": "2.0", "id" : 12, "result": {"#, "}}\n", Some(12)),
            (r#"{"result":{"id":8,"x":""#, "\"},\"jsonrpc\":\"2.0\",\"id\":9}\n", Some(9)),
            (r#"{"result":{"id":8,"x":""#, "\",\"id\":9}}\n", None),
            (r#"{"jsonrpc":"2.0","method":"m","params":{"id":8,"x":""#, "\"}}\n", None),
            ("xxxx", "xxxx\n", None),
        ] {
            assert_eq!(answered(start.as_bytes(), end.as_bytes()), id, "{start}");
        }
    }

    #[test]
    fn of_a_line_that_is_too_long_only_the_ends_are_kept() {
        let mut line = Line { kept: Vec::new(), end: None, bytes_max: 4000 };
        line.push(b"begin");
        for _ in 0..100 {
            line.push(&[b'x'; 1000]);
        }
        line.push(b"end\n");
        let end = line.end.clone().expect("too long");
        assert!(line.kept.starts_with(b"beginx") && line.kept.len() == ENDS_BYTES);
        assert!(end.ends_with(b"xend\n") && end.len() == ENDS_BYTES);
        line.clear();
        line.push(b"{}\n");
        assert!(line.end.is_none() && line.kept == b"{}\n");
    }
}
