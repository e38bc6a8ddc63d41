//! From words and signs to an expression of the library, in which every operand is guarded.
//!
//! The library would take `'10' > 3` and `'x' * 1000000`; here each operation is told what it takes. It gets
//! `(number(a, 3) + number(b, 3))` for `a + b`, `compare(a, '<', b, 3)` for `a < b`, and so on: the numbers
//! are the characters at which the operators stand.

use super::token::{Token, Tokens};

/// How deep brackets, `not` and `-` may be nested. With all guards this stays below the library's own limit of 150.
const DEPTH_MAX: usize = 8;

/// The functions for authors.
const FUNCTIONS: [&str; 3] = ["length", "lower", "upper"];

const SUMS: [&str; 2] = ["+", "-"];
const PRODUCTS: [&str; 4] = ["*", "//", "/", "%"];
const COMPARISONS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];

/// The name of the variable for a reference.
pub(super) fn variable(index: usize) -> String {
    format!("r{index}")
}

/// The whole condition.
pub(super) fn expression(tokens: &Tokens<'_>) -> Result<String, String> {
    let mut translation = Translation { tokens, next: 0, depth: 0 };
    let expression = translation.any()?;
    match translation.current() {
        None => Ok(expression),
        Some(token) => Err(translation.misplaced(token)),
    }
}

struct Translation<'t, 'a> {
    tokens: &'t Tokens<'a>,
    next: usize,
    depth: usize,
}

impl<'a> Translation<'_, 'a> {
    /// `a or b`; the weakest of all.
    fn any(&mut self) -> Result<String, String> {
        self.joined("or", Translation::all)
    }

    /// `a and b`
    fn all(&mut self) -> Result<String, String> {
        self.joined("and", Translation::negation)
    }

    fn joined(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<String, String>,
    ) -> Result<String, String> {
        let mut expression = part(self)?;
        let mut is_first = true;
        while self.current() == Some(Token::Word(word)) {
            let at = self.at();
            self.next += 1;
            let right = part(self)?;
            let left = if is_first { format!("flag({expression}, {at})") } else { expression };
            expression = format!("{left} {word} flag({right}, {at})");
            is_first = false;
        }
        Ok(if is_first { expression } else { format!("({expression})") })
    }

    /// `not a`
    fn negation(&mut self) -> Result<String, String> {
        if self.current() != Some(Token::Word("not")) {
            return self.comparison();
        }
        let at = self.at();
        self.next += 1;
        let inner = self.nested(Translation::negation)?;
        Ok(format!("(not flag({inner}, {at}))"))
    }

    /// `a < b`, `a in b`, `a not in b`
    fn comparison(&mut self) -> Result<String, String> {
        let left = self.sum()?;
        let Some((operator, at)) = self.comparing() else { return Ok(left) };
        let right = self.sum()?;
        if self.comparing().is_some() {
            self.next -= 1;
            let at = self.at();
            return Err(format!("at character {at}: two values are compared at a time; join with `and`"));
        }
        Ok(match operator {
            "in" => format!("within({left}, {right}, {at})"),
            "not in" => format!("(not within({left}, {right}, {at}))"),
            sign => format!("compare({left}, '{sign}', {right}, {at})"),
        })
    }

    /// Takes an operator that compares, if one comes.
    fn comparing(&mut self) -> Option<(&'static str, usize)> {
        let at = self.at();
        let operator = match self.current()? {
            Token::Sign(sign) if COMPARISONS.contains(&sign) => sign,
            Token::Word("in") => "in",
            Token::Word("not") if self.after() == Some(Token::Word("in")) => {
                self.next += 1;
                "not in"
            }
            _ => return None,
        };
        self.next += 1;
        Some((operator, at))
    }

    /// `a + b - c`
    fn sum(&mut self) -> Result<String, String> {
        self.reckoned(&SUMS, Translation::product)
    }

    /// `a * b / c`
    fn product(&mut self) -> Result<String, String> {
        self.reckoned(&PRODUCTS, Translation::signed)
    }

    fn reckoned(
        &mut self,
        signs: &[&str],
        part: fn(&mut Self) -> Result<String, String>,
    ) -> Result<String, String> {
        let mut expression = part(self)?;
        let mut is_first = true;
        while let Some(Token::Sign(sign)) = self.current() {
            if !signs.contains(&sign) {
                break;
            }
            let at = self.at();
            self.next += 1;
            let right = part(self)?;
            let guard = if ["/", "//", "%"].contains(&sign) { "divisor" } else { "number" };
            let left = if is_first { format!("number({expression}, {at})") } else { expression };
            expression = format!("{left} {sign} {guard}({right}, {at})");
            is_first = false;
        }
        Ok(if is_first { expression } else { format!("({expression})") })
    }

    /// `-a`
    fn signed(&mut self) -> Result<String, String> {
        if self.current() != Some(Token::Sign("-")) {
            return self.filtered();
        }
        let at = self.at();
        self.next += 1;
        let inner = self.nested(Translation::signed)?;
        Ok(format!("(-number({inner}, {at}))"))
    }

    /// `a | length`
    fn filtered(&mut self) -> Result<String, String> {
        let mut expression = self.operand()?;
        let mut filters = 0;
        while self.current() == Some(Token::Sign("|")) {
            self.next += 1;
            let at = self.at();
            let name = match self.current() {
                Some(Token::Word(name)) => function(name, at)?,
                _ => return Err(format!("at character {at}: after | comes one of {}", known())),
            };
            filters += 1;
            if filters > DEPTH_MAX {
                return Err(too_deep(at));
            }
            self.next += 1;
            expression = format!("{name}({expression}, {at})");
        }
        Ok(expression)
    }

    fn operand(&mut self) -> Result<String, String> {
        let at = self.at();
        let Some(token) = self.current() else {
            return Err(format!("at character {at}: the condition ends where a value should come"));
        };
        self.next += 1;
        match token {
            Token::Reference(index) => Ok(variable(index)),
            Token::Number(text) | Token::Text(text) => Ok(text.to_owned()),
            Token::Word("true" | "True") => Ok("true".to_owned()),
            Token::Word("false" | "False") => Ok("false".to_owned()),
            Token::Word("none" | "None" | "null") => Ok("none".to_owned()),
            Token::Sign("(") => {
                let inner = self.nested(Translation::any)?;
                self.close(")", at)?;
                Ok(inner)
            }
            Token::Sign("[") => self.list(at),
            Token::Word(name) if self.current() == Some(Token::Sign("(")) => {
                let name = function(name, at)?;
                self.next += 1;
                let inner = self.nested(Translation::any)?;
                self.close(")", at)?;
                Ok(format!("{name}({inner}, {at})"))
            }
            Token::Word(_) | Token::Sign(_) => Err(self.misplaced_at(token, at)),
        }
    }

    /// What follows `[`.
    fn list(&mut self, at: usize) -> Result<String, String> {
        let mut items = Vec::new();
        while self.current() != Some(Token::Sign("]")) {
            items.push(self.nested(Translation::any)?);
            if self.current() != Some(Token::Sign(",")) {
                break;
            }
            self.next += 1;
        }
        self.close("]", at)?;
        Ok(format!("[{}]", items.join(", ")))
    }

    fn close(&mut self, sign: &'static str, opened_at: usize) -> Result<(), String> {
        if self.current() == Some(Token::Sign(sign)) {
            self.next += 1;
            return Ok(());
        }
        match self.current() {
            Some(token) => Err(self.misplaced(token)),
            None => Err(format!("at character {opened_at}: what is opened here is not closed by {sign}")),
        }
    }

    fn nested(&mut self, part: fn(&mut Self) -> Result<String, String>) -> Result<String, String> {
        if self.depth == DEPTH_MAX {
            return Err(too_deep(self.at()));
        }
        self.depth += 1;
        let inner = part(self);
        self.depth -= 1;
        inner
    }

    fn current(&self) -> Option<Token<'a>> {
        self.tokens.list.get(self.next).map(|(token, _)| *token)
    }

    fn after(&self) -> Option<Token<'a>> {
        self.tokens.list.get(self.next + 1).map(|(token, _)| *token)
    }

    fn at(&self) -> usize {
        self.tokens.list.get(self.next).map_or(self.tokens.end, |(_, at)| *at)
    }

    fn misplaced(&self, token: Token<'_>) -> String {
        self.misplaced_at(token, self.at())
    }

    fn misplaced_at(&self, token: Token<'_>, at: usize) -> String {
        let problem = match token {
            Token::Reference(index) => format!("${{{}}} stands", self.tokens.references[index]),
            Token::Number(text) | Token::Text(text) => format!("{text} stands"),
            Token::Word(word @ ("and" | "or" | "not" | "in")) => format!("`{word}` stands"),
            Token::Word(word) => {
                let advice = "a value of a task is written ${task.key}, a text in quotes";
                return format!("at character {at}: {word:?} is not known; {advice}");
            }
            Token::Sign("[") => {
                let advice = "a part of a value is written inside the braces, ${task.key[0]}";
                return format!("at character {at}: [ stands where no value can stand; {advice}");
            }
            Token::Sign(sign) => format!("{sign} stands"),
        };
        format!("at character {at}: {problem} where it cannot")
    }
}

fn function(name: &str, at: usize) -> Result<&'static str, String> {
    let found = FUNCTIONS.into_iter().find(|known| *known == name);
    found.ok_or_else(|| format!("at character {at}: there is no function {name:?}; there are {}", known()))
}

fn known() -> String {
    FUNCTIONS.join(", ")
}

fn too_deep(at: usize) -> String {
    format!("at character {at}: nested deeper than {DEPTH_MAX}")
}
