//! What a task gives while it still runs, piece by piece.

/// The most that is kept of one attempt's output, in bytes.
pub const OUTPUT_BYTES_MAX: u64 = 256 * 1024;
/// The longest piece, in bytes.
pub const PIECE_BYTES_MAX: usize = 8 * 1024;

/// Which of a task's outputs a piece is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// What it is saying: a model's answer, or whatever else becomes part of the result.
    Text,
    /// What a process has printed.
    Stdout,
    /// What a process has printed beside.
    Stderr,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Stream; 3] = [Stream::Text, Stream::Stdout, Stream::Stderr];

    /// Its name wherever it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stream::Text => "text",
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }

    /// The stream of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Stream> {
        Stream::ALL.into_iter().find(|stream| stream.name() == name)
    }
}

/// A piece of the output of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Of which stream.
    pub stream: Stream,
    /// How many bytes the attempt has given before, in all streams together, whatever became of them: where this is
    /// more than where the piece before ends, the bytes between are lost.
    pub offset: u64,
    /// The text.
    pub text: String,
}

impl Piece {
    /// The offset of what comes after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.text.len() as u64
    }
}

/// The longest beginning of `text` that has at most `bytes_max` bytes and ends with a whole character; never nothing
/// of a text that is not empty.
#[must_use]
pub fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end == 0 {
        end = text.chars().next().map_or(0, char::len_utf8);
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, max, expected) in
            [("abc", 2, "ab"), ("äö", 3, "ä"), ("äö", 1, "ä"), ("", 5, ""), ("ab", 9, "ab")]
        {
            assert_eq!(beginning(text, max), expected, "{text} {max}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for stream in Stream::ALL {
            assert_eq!(Stream::parse(stream.name()), Some(stream));
        }
        assert_eq!(Stream::parse("x"), None);
    }
}
