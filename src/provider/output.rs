//! What a call gives before it ends: put in by the provider, taken out by the worker.
//!
//! ```text
//! provider ─▶ Output::put ─▶ what waits (64 KiB at most) ─▶ Pieces::take ─▶ worker
//! ```
//! Putting never waits. Where the worker cannot keep up, what is new is left out, and the offset of what follows
//! tells how much. After [`OUTPUT_BYTES_MAX`] bytes of an attempt nothing more is taken. A call that puts nothing costs
//! nothing.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::core::output::{OUTPUT_BYTES_MAX, PIECE_BYTES_MAX, Piece, Stream, beginning};

/// How much may wait for the worker, in bytes.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// How many pieces.
const WAITING_MAX: usize = 1024;

/// Where a call puts what it gives before its end. Cloning is cheap, and all clones are one.
#[derive(Clone, Default)]
pub struct Output {
    shared: Option<Arc<Shared>>,
}

/// The other end of an [`Output`].
#[derive(Debug)]
pub(crate) struct Pieces {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Something waits where nothing did, or much where little did.
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    pieces: Vec<Piece>,
    bytes: usize,
    /// How much was put so far.
    given: u64,
    /// There is something that no answer repeats.
    has_own: bool,
    is_closed: bool,
}

impl Output {
    /// One that goes to whoever has the other end.
    pub(crate) fn new() -> (Output, Pieces) {
        let shared = Arc::<Shared>::default();
        (Output { shared: Some(Arc::clone(&shared)) }, Pieces { shared })
    }

    /// One that goes nowhere.
    #[must_use]
    pub fn nowhere() -> Output {
        Output::default()
    }

    /// Hands a piece of output to whoever follows the task. Never waits.
    pub fn put(&self, stream: Stream, text: &str) {
        self.add(stream, text, true);
    }

    /// As [`Output::put`], for what the answer or the failure has in it as well: of a call that ends at once it is not
    /// written twice.
    pub fn copy(&self, stream: Stream, text: &str) {
        self.add(stream, text, false);
    }

    fn add(&self, stream: Stream, text: &str, is_own: bool) {
        let Some(shared) = &self.shared else { return };
        if text.is_empty() {
            return;
        }
        let mut waiting = shared.waiting();
        let before = waiting.bytes;
        waiting.add(stream, text, is_own);
        let is_news = (before == 0 && waiting.bytes > 0) || (before < PIECE_BYTES_MAX && waiting.is_much());
        drop(waiting);
        if is_news {
            shared.news.notify_one();
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("goes_nowhere", &self.shared.is_none()).finish()
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that panics is done while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_much(&self) -> bool {
        self.bytes >= PIECE_BYTES_MAX
    }

    fn add(&mut self, stream: Stream, text: &str, is_own: bool) {
        if self.is_closed {
            return;
        }
        // One piece beyond the bound tells the store that something was left out.
        self.is_closed = self.given >= OUTPUT_BYTES_MAX;
        self.has_own |= is_own;
        let offset = self.given;
        self.given += text.len() as u64;
        let room = match self.is_closed {
            true => PIECE_BYTES_MAX,
            // What fits is kept, so that a text which is long by itself is not lost whole.
            false => WAITING_BYTES_MAX.saturating_sub(self.bytes),
        };
        if room > 0 {
            self.push(stream, offset, beginning(text, room));
        }
    }

    fn push(&mut self, stream: Stream, mut offset: u64, mut text: &str) {
        if let Some(last) = self.pieces.last_mut()
            && last.stream == stream
            && last.end() == offset
            && last.text.len() + text.len() <= PIECE_BYTES_MAX
        {
            last.text.push_str(text);
            self.bytes += text.len();
            return;
        }
        while !text.is_empty() && self.pieces.len() < WAITING_MAX {
            let piece = beginning(text, PIECE_BYTES_MAX);
            self.pieces.push(Piece { stream, offset, text: piece.to_owned() });
            offset += piece.len() as u64;
            self.bytes += piece.len();
            text = &text[piece.len()..];
        }
    }
}

impl Pieces {
    /// Returns when something waits. Cancel-safe.
    pub(crate) async fn some(&self) {
        while self.shared.waiting().pieces.is_empty() {
            self.shared.news.notified().await;
        }
    }

    /// Returns when so much waits that it should be taken at once. Cancel-safe.
    pub(crate) async fn much(&self) {
        while !self.shared.waiting().is_much() {
            self.shared.news.notified().await;
        }
    }

    /// What waits.
    pub(crate) fn take(&self) -> Vec<Piece> {
        let mut waiting = self.shared.waiting();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.pieces)
    }

    /// Whether all that was put is in the answer as well.
    pub(crate) fn are_copies(&self) -> bool {
        !self.shared.waiting().has_own
    }

    /// Nobody wants any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.shared.waiting();
        waiting.is_closed = true;
        waiting.bytes = 0;
        waiting.pieces.clear();
    }
}

/// What a process prints, as text: a character may come in two parts.
#[derive(Debug)]
pub(crate) struct Printed {
    output: Output,
    stream: Stream,
    /// The beginning of a character.
    rest: Vec<u8>,
}

impl Printed {
    /// Goes to this stream of the output.
    pub(crate) fn new(output: Output, stream: Stream) -> Printed {
        Printed { output, stream, rest: Vec::new() }
    }

    /// What is printed next. It is in the answer as well.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() - begun(&self.rest);
        self.output.copy(self.stream, &String::from_utf8_lossy(&self.rest[..whole]));
        self.rest.drain(..whole);
    }
}

/// How many bytes at the end are the beginning of a character that is not whole.
fn begun(bytes: &[u8]) -> usize {
    for length in 1..=bytes.len().min(3) {
        let wanted = match bytes[bytes.len() - length] {
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            0x80..=0xBF => continue,
            _ => return 0,
        };
        return if wanted > length { length } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(stream: Stream, offset: u64, text: &str) -> Piece {
        Piece { stream, offset, text: text.to_owned() }
    }

    #[tokio::test]
    async fn pieces_of_a_stream_become_one_and_streams_keep_their_order() {
        let (output, pieces) = Output::new();
        for (stream, text) in
            [(Stream::Text, "a"), (Stream::Text, "ä"), (Stream::Stderr, "e"), (Stream::Text, "b")]
        {
            output.copy(stream, text);
        }
        pieces.some().await;
        let expected =
            [piece(Stream::Text, 0, "aä"), piece(Stream::Stderr, 3, "e"), piece(Stream::Text, 4, "b")];
        assert_eq!(pieces.take(), expected);
        assert!(pieces.are_copies() && pieces.take().is_empty());
        output.put(Stream::Text, "c");
        assert_eq!(pieces.take(), [piece(Stream::Text, 5, "c")]);
        assert!(!pieces.are_copies());
    }

    #[tokio::test]
    async fn what_nobody_takes_is_left_out_and_told() {
        let (output, pieces) = Output::new();
        for _ in 0..100 {
            output.put(Stream::Stdout, &"x".repeat(1000));
        }
        pieces.much().await;
        let taken = pieces.take();
        assert!(taken.iter().all(|piece| piece.text.len() <= PIECE_BYTES_MAX));
        assert_eq!(taken.iter().map(|piece| piece.text.len()).sum::<usize>(), WAITING_BYTES_MAX);
        output.put(Stream::Stdout, "y");
        assert_eq!(pieces.take(), [piece(Stream::Stdout, 100_000, "y")]);
    }

    #[test]
    fn a_character_in_two_parts_is_one() {
        let (output, pieces) = Output::new();
        let mut printed = Printed::new(output, Stream::Stdout);
        for byte in "aä€😀\u{fffd}z".as_bytes() {
            printed.push(&[*byte]);
        }
        printed.push(b"\xffx\x80\xe2\x82");
        printed.push(b"y");
        let text: String = pieces.take().into_iter().map(|piece| piece.text).collect();
        assert_eq!(text, "aä€😀\u{fffd}z\u{fffd}x\u{fffd}\u{fffd}y");
    }

    #[test]
    fn after_its_bound_an_attempt_gives_one_more_piece() {
        let (output, pieces) = Output::new();
        let mut bytes = 0;
        for _ in 0..1000 {
            output.put(Stream::Text, &"x".repeat(1024));
            bytes += pieces.take().iter().map(|piece| piece.text.len() as u64).sum::<u64>();
        }
        assert_eq!(bytes, OUTPUT_BYTES_MAX + 1024);
        let (output, pieces) = Output::new();
        pieces.close();
        output.put(Stream::Text, "x");
        assert!(pieces.take().is_empty());
        Output::nowhere().put(Stream::Text, "x");
    }
}
