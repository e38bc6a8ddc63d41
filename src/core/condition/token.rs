//! From the text of a condition to words and signs, with references taken out.

use serde_json::Value;

use crate::core::template;

/// Most words and signs of a condition. It also bounds how deep the library's own tree of it can be.
const TOKENS_MAX: usize = 256;

/// Signs, longer ones first.
const SIGNS: [&str; 16] =
    ["==", "!=", "<=", ">=", "//", "<", ">", "+", "-", "*", "/", "%", "(", ")", "[", "]"];

/// Signs that separate.
const SEPARATORS: [&str; 2] = ["|", ","];

/// A part of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Its position in [`Tokens::references`].
    Reference(usize),
    /// As written, digits with or without a fraction.
    Number(&'a str),
    /// As written, with its quotes.
    Text(&'a str),
    /// A keyword, the name of a function, or something that is not known.
    Word(&'a str),
    Sign(&'static str),
}

/// All parts of a condition.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    /// Each with the number of its first character, from 1.
    pub(super) list: Vec<(Token<'a>, usize)>,
    /// What stands between the braces, each once.
    pub(super) references: Vec<String>,
    /// How often each stands there.
    pub(super) occurrences: Vec<usize>,
    /// The number of the character after the last.
    pub(super) end: usize,
}

/// Divides a text.
pub(super) fn read(text: &str) -> Result<Tokens<'_>, String> {
    let mut tokens = Tokens { list: Vec::new(), references: Vec::new(), occurrences: Vec::new(), end: 0 };
    let (mut rest, mut at) = (text, 1);
    loop {
        let trimmed = rest.trim_start();
        at += rest[..rest.len() - trimmed.len()].chars().count();
        if trimmed.is_empty() {
            tokens.end = at;
            return Ok(tokens);
        }
        let (token, length) =
            next(trimmed, &mut tokens).map_err(|problem| format!("at character {at}: {problem}"))?;
        tokens.list.push((token, at));
        if tokens.list.len() > TOKENS_MAX {
            return Err(format!("at character {at}: a condition has at most {TOKENS_MAX} words and signs"));
        }
        at += trimmed[..length].chars().count();
        rest = &trimmed[length..];
    }
}

/// The first part of a text that does not begin with a blank, and how many bytes it has.
fn next<'a>(text: &'a str, tokens: &mut Tokens<'a>) -> Result<(Token<'a>, usize), String> {
    if text.starts_with("${") {
        return reference(text, tokens);
    }
    let first = text.chars().next().unwrap_or_default();
    if first == '\'' || first == '"' {
        let length = quoted(text, first)?;
        return Ok((Token::Text(&text[..length]), length));
    }
    if first.is_ascii_digit() {
        let length = number(text)?;
        return Ok((Token::Number(&text[..length]), length));
    }
    if first.is_alphabetic() || first == '_' {
        let length = length_while(text, |c| c.is_alphanumeric() || c == '_');
        return Ok((Token::Word(&text[..length]), length));
    }
    for sign in SIGNS.into_iter().chain(SEPARATORS) {
        if text.starts_with(sign) {
            return Ok((Token::Sign(sign), sign.len()));
        }
    }
    let advice = match first {
        '=' => "; == compares",
        '&' => "; it is written `and`",
        '!' => "; it is written `not`",
        '.' => "; a part of a value is written inside the braces, ${task.key}",
        '$' => "; a reference is written ${task.key}",
        _ => "",
    };
    Err(format!("{first:?} has no meaning here{advice}"))
}

/// `${...}`, by the rules of references in parameters.
fn reference<'a>(text: &'a str, tokens: &mut Tokens<'a>) -> Result<(Token<'a>, usize), String> {
    let length = text.find('}').map_or(text.len(), |end| end + 1);
    let found = template::references(&Value::from(&text[..length]), "when");
    let Some(reference) = found.into_iter().next() else { return Err(String::from("is no reference")) };
    if let Some(flaw) = reference.flaw {
        // What a flaw says ends in advice for texts.
        let flaw = flaw.split(';').next().unwrap_or(flaw);
        return Err(format!("this is no reference: {flaw}"));
    }
    let known = tokens.references.iter().position(|known| *known == reference.text);
    let index = known.unwrap_or_else(|| {
        tokens.references.push(reference.text);
        tokens.occurrences.push(0);
        tokens.references.len() - 1
    });
    tokens.occurrences[index] += 1;
    Ok((Token::Reference(index), length))
}

/// The bytes of a text in quotes, which are the text's first and last character.
fn quoted(text: &str, quote: char) -> Result<usize, String> {
    let mut is_escaped = false;
    for (start, c) in text.char_indices().skip(1) {
        if text[start..].starts_with("${") {
            let advice = "compare with the reference itself, or write it without quotes";
            return Err(format!("a reference cannot stand inside quotes; {advice}"));
        }
        if !is_escaped && c == quote {
            return Ok(start + quote.len_utf8());
        }
        is_escaped = !is_escaped && c == '\\';
    }
    Err(format!("the text is not closed by {quote}"))
}

fn number(text: &str) -> Result<usize, String> {
    let mut length = length_while(text, |c| c.is_ascii_digit());
    let fraction = text[length..].strip_prefix('.').map(|rest| length_while(rest, |c| c.is_ascii_digit()));
    if let Some(digits) = fraction.filter(|digits| *digits > 0) {
        length += 1 + digits;
    }
    if let Some(exponent) = text[length..].strip_prefix(['e', 'E']) {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let count = length_while(digits, |c| c.is_ascii_digit());
        let whole = length + 1 + (exponent.len() - digits.len()) + count;
        if count > 0 && text[..whole].parse().is_ok_and(f64::is_finite) {
            length = whole;
        }
    }
    match text[length..].chars().next() {
        Some(c) if c.is_alphanumeric() || c == '_' || c == '.' => {
            Err(String::from("this is no number; digits, with or without a fraction and an exponent, are"))
        }
        _ => Ok(length),
    }
}

fn length_while(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.char_indices().find(|(_, c)| !is_part(*c)).map_or(text.len(), |(end, _)| end)
}
