//! Keeps the beginning and the end of what a process prints.

use std::collections::VecDeque;

/// What was kept of one stream: up to half of the bound from its beginning, and up to half from its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Capture {
    half_bytes_max: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    seen_bytes: u64,
}

impl Capture {
    /// Keeps at most `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Capture {
        Capture { half_bytes_max: bytes_max / 2, ..Capture::default() }
    }

    /// Takes what the process printed next.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.seen_bytes += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(self.half_bytes_max - self.head.len()));
        self.head.extend_from_slice(head);
        let kept = &rest[rest.len().saturating_sub(self.half_bytes_max)..];
        let over = (self.tail.len() + kept.len()).saturating_sub(self.half_bytes_max);
        self.tail.drain(..over);
        self.tail.extend(kept);
    }

    /// The text, at most about `bytes_max` bytes of it, and whether something is missing from its middle.
    ///
    /// What is not UTF-8 shows as U+FFFD; what is missing shows as a line with the number of bytes.
    pub(super) fn text(&self, bytes_max: usize) -> (String, bool) {
        let half = (bytes_max / 2).min(self.half_bytes_max);
        let mut head = &self.head[..];
        let mut tail: Vec<u8> = self.tail.iter().copied().collect();
        let kept_bytes = self.head.len() + self.tail.len();
        if self.seen_bytes == kept_bytes as u64 && kept_bytes <= 2 * half {
            let mut whole = head.to_vec();
            whole.append(&mut tail);
            return (String::from_utf8_lossy(&whole).into_owned(), false);
        }
        if tail.len() < half {
            // All but the last bytes stand in the head.
            let from_head = (half - tail.len()).min(head.len().saturating_sub(half));
            tail = [&head[head.len() - from_head..], &tail].concat();
        }
        head = &head[..head.len().min(half)];
        let tail = &tail[tail.len().saturating_sub(half)..];
        let missing = self.seen_bytes - (head.len() + tail.len()) as u64;
        let head = String::from_utf8_lossy(head);
        let tail = String::from_utf8_lossy(tail);
        (format!("{head}\n... [{missing} bytes cut] ...\n{tail}"), true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(bytes_max: usize, parts: &[&str]) -> Capture {
        let mut capture = Capture::new(bytes_max);
        for part in parts {
            capture.push(part.as_bytes());
        }
        capture
    }

    #[test]
    fn the_beginning_and_the_end_are_kept() {
        let check = |parts: &[&str], bytes_max: usize, expected: &str, cut: bool| {
            let found = captured(8, parts).text(bytes_max);
            assert_eq!(found, (expected.to_owned(), cut), "{parts:?} {bytes_max}");
        };
        check(&[], 8, "", false);
        check(&["abc"], 8, "abc", false);
        check(&["abcdefgh"], 8, "abcdefgh", false);
        check(&["ab", "cde", "fgh"], 100, "abcdefgh", false);
        check(&["abcdefghi"], 8, "abcd\n... [1 bytes cut] ...\nfghi", true);
        check(&["abcd", "efgh", "i", "jklm"], 8, "abcd\n... [5 bytes cut] ...\njklm", true);
        check(&["abcdefghijklmnop"], 4, "ab\n... [12 bytes cut] ...\nop", true);
        check(&["abcd"], 2, "a\n... [2 bytes cut] ...\nd", true);
        check(&["abcde"], 4, "ab\n... [1 bytes cut] ...\nde", true);
        check(&["abc"], 0, "\n... [3 bytes cut] ...\n", true);
        check(
            &["a\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}"],
            8,
            "a\u{e4}\u{fffd}\n... [3 bytes cut] ...\n\u{e4}\u{e4}",
            true,
        );
    }

    #[test]
    fn a_flood_does_not_grow_it() {
        let mut capture = Capture::new(1000);
        for _ in 0..1000 {
            capture.push(&[b'x'; 4096]);
        }
        assert!(capture.head.len() + capture.tail.len() <= 1000);
        assert_eq!(capture.seen_bytes, 4_096_000);
    }
}
