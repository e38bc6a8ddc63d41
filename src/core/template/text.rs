//! The spelling of references inside a text.

use super::REFERENCE_BYTES_MAX;

/// A part of a text.
pub(super) enum Piece<'a> {
    Text(&'a str),
    Reference(&'a str),
    Flawed(&'a str, &'static str),
}

/// The parts of a text, from left to right.
pub(super) struct Pieces<'a>(pub(super) &'a str);

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let text = self.0;
        if text.is_empty() {
            return None;
        }
        match text.find("${") {
            None => {
                self.0 = "";
                Some(Piece::Text(text))
            }
            Some(0) => Some(self.reference(&text[2..])),
            // An escape: everything before `$${`, then `${` itself as text, without the first `$`.
            Some(start) if text.as_bytes()[start - 1] == b'$' => {
                if start > 1 {
                    self.0 = &text[start - 1..];
                    return Some(Piece::Text(&text[..start - 1]));
                }
                self.0 = &text[start + 2..];
                Some(Piece::Text(&text[start..start + 2]))
            }
            Some(start) => {
                self.0 = &text[start..];
                Some(Piece::Text(&text[..start]))
            }
        }
    }
}

impl<'a> Pieces<'a> {
    /// What follows `${`.
    fn reference(&mut self, rest: &'a str) -> Piece<'a> {
        let Some(end) = rest.find('}') else {
            self.0 = "";
            return Piece::Flawed(rest, "it is not closed; write $${ for the text ${");
        };
        self.0 = &rest[end + 1..];
        let inside = rest[..end].trim();
        if inside.is_empty() {
            return Piece::Flawed(inside, "it names no task; write $${ for the text ${");
        }
        if inside.len() > REFERENCE_BYTES_MAX {
            return Piece::Flawed(inside, "it is longer than 1024 bytes; write $${ for the text ${");
        }
        Piece::Reference(inside)
    }
}

/// What stands between the braces if the text is one reference and nothing else.
pub(super) fn whole_reference(text: &str) -> Option<&str> {
    let mut pieces = Pieces(text);
    match (pieces.next(), pieces.next()) {
        (Some(Piece::Reference(inside)), None) => Some(inside),
        (_, _) => None,
    }
}

/// Every way to divide a reference into task and rest, the longest task first. It divides before `.` and `[`.
pub(super) fn beginnings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let ends = text.match_indices(['.', '[']).map(|(end, _)| end).rev();
    std::iter::once(text.len()).chain(ends).map(|end| (text[..end].trim_end(), &text[end..]))
}

/// The steps of what follows the task: `.rows[0].name` has three.
pub(super) fn steps(mut rest: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some((digits, after)) = bracketed(rest) {
            steps.push(digits);
            rest = after;
            continue;
        }
        let step = rest.strip_prefix('.').unwrap_or(rest);
        // Brackets without a number inside belong to the key.
        let end = step
            .char_indices()
            .find(|(at, c)| *c == '.' || (*c == '[' && bracketed(&step[*at..]).is_some()))
            .map_or(step.len(), |(at, _)| at);
        // `.[0]` is taken like `[0]`.
        if end > 0 || bracketed(step).is_none() {
            steps.push(&step[..end]);
        }
        rest = &step[end..];
    }
    steps
}

/// `[digits]` at the beginning, and what follows it.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let (digits, after) = text.strip_prefix('[')?.split_once(']')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some((digits, after))
}
