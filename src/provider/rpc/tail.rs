//! The end of what a process prints.

use std::collections::VecDeque;

/// How much of it is kept, in bytes.
pub(super) const TAIL_BYTES_MAX: usize = 16 * 1024;

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(in crate::provider) struct Tail {
    kept: VecDeque<u8>,
    /// All that there were.
    seen: u64,
}

impl Tail {
    pub(in crate::provider) fn push(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
        let over = (self.kept.len() + kept.len()).saturating_sub(TAIL_BYTES_MAX);
        self.kept.drain(..over);
        self.kept.extend(kept);
    }

    /// A point to read from later.
    pub(in crate::provider) fn mark(&self) -> u64 {
        self.seen
    }

    /// What was printed since the mark, as far as it is kept. What is not UTF-8 shows as U+FFFD.
    pub(in crate::provider) fn since(&self, mark: u64) -> String {
        let new = usize::try_from(self.seen.saturating_sub(mark)).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = self.kept.iter().skip(self.kept.len().saturating_sub(new)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_told_from_a_mark_on() {
        let mut tail = Tail::default();
        tail.push(b"one");
        let mark = tail.mark();
        assert_eq!((tail.since(0), tail.since(mark)), ("one".to_owned(), String::new()));
        tail.push(b"two");
        assert_eq!((tail.since(0), tail.since(mark)), ("onetwo".to_owned(), "two".to_owned()));
        tail.push(&[b'x'; 3 * TAIL_BYTES_MAX]);
        tail.push(b"end");
        assert_eq!(tail.since(mark).len(), TAIL_BYTES_MAX);
        assert!(tail.since(mark).ends_with("xend"));
    }
}
