//! Where in a file something stands: from paths such as `tasks[3].params.model` to lines and columns.
//!
//! ```text
//! paths --> tree of the steps that are wanted        text --events--> Walk: which node of the tree is this?
//!                                                   (YAML parser, JSON scan)      notes its first byte
//! ```
//! The text is read a second time, once for all paths, and only after something was refused; so reading a
//! workflow that is right costs nothing more. A key stands where it is written, an item where it begins. What
//! is not there (a missing key) is placed where the nearest thing around it is.

use std::collections::HashMap;

use granit_parser::{Event, Parser};

use super::load::Format;

/// Keys that are read as another one, which problems are told under.
const ALIASES: [(&str, &str); 7] = [
    ("parameters", "params"),
    ("depends_on", "dependencies"),
    ("retry_config", "retry"),
    ("backoff_strategy", "backoff"),
    ("delay", "base_delay"),
    ("initial_delay", "base_delay"),
    ("max_parallel_tasks", "max_parallel"),
];

/// How deep a text is followed; that of both parsers is less.
const DEPTH_MAX: usize = 300;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// The place of each path, in their order; `None` for an empty path, and for all of a text that cannot be read.
#[must_use]
pub(super) fn places(text: &str, format: Format, paths: &[&str]) -> Vec<Option<Place>> {
    let mut walk = Walk::new(paths);
    match format {
        Format::Yaml => yaml(text, &mut walk),
        Format::Json => json(text, &mut walk),
    }
    let offsets: Vec<Option<usize>> = walk.ends.iter().map(|end| walk.nearest((*end)?)).collect();
    places_of(text, &offsets)
}

/// Feeds the walk with the parser's events. An error ends it: what was found by then stands.
fn yaml(text: &str, walk: &mut Walk) {
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { return };
        let offset = span.start.byte_offset().unwrap_or_default();
        match event {
            Event::MappingStart(..) => walk.open(true, offset),
            Event::SequenceStart(..) => walk.open(false, offset),
            Event::MappingEnd | Event::SequenceEnd => walk.close(),
            Event::Scalar(value, ..) => walk.scalar(&value, offset),
            Event::Alias(_) => walk.scalar("", offset),
            // Nothing that has a path. The library's events may become more.
            _ => {}
        }
        if walk.is_done() {
            return;
        }
    }
}

/// Feeds the walk with the parts of a JSON text. The text may be wrong; then places may be, too.
fn json(text: &str, walk: &mut Walk) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() && !walk.is_done() {
        match bytes[at] {
            b'{' => walk.open(true, at),
            b'[' => walk.open(false, at),
            b'}' | b']' => walk.close(),
            b'"' => {
                let end = closing_quote(bytes, at);
                let decoded: Option<String> =
                    text.get(at..=end).and_then(|text| serde_json::from_str(text).ok());
                walk.scalar(&decoded.unwrap_or_default(), at);
                at = end;
            }
            b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' => {}
            _ => {
                walk.scalar("", at);
                let rest = &bytes[at..];
                let length = rest.iter().position(|byte| b" \t\r\n,:{}[]\"".contains(byte));
                at += length.unwrap_or(rest.len()) - 1;
            }
        }
        at += 1;
    }
}

/// Where the text that begins at `start` ends, or the last byte.
fn closing_quote(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len() - 1
}

/// A step of a wanted path, and what is below it.
#[derive(Debug, Default)]
struct Node {
    parent: Option<usize>,
    keys: HashMap<String, usize>,
    items: HashMap<usize, usize>,
    /// The byte at which it stands, once it has been seen.
    offset: Option<usize>,
}

/// What is open while a text is walked; `node` is `None` for what nobody asks for.
#[derive(Debug)]
enum Open {
    Mapping { node: Option<usize>, member: Option<usize>, is_key_next: bool },
    Sequence { node: Option<usize>, next: usize },
}

#[derive(Debug)]
struct Walk {
    /// The first is the root.
    nodes: Vec<Node>,
    /// For each path its last node.
    ends: Vec<Option<usize>>,
    open: Vec<Open>,
    /// How many nodes have not been seen.
    missing: usize,
    is_over: bool,
}

impl Walk {
    fn new(paths: &[&str]) -> Walk {
        let mut walk = Walk {
            nodes: vec![Node::default()],
            ends: Vec::with_capacity(paths.len()),
            open: Vec::new(),
            missing: 1,
            is_over: false,
        };
        for path in paths {
            let end = if path.is_empty() { None } else { Some(walk.want(path)) };
            walk.ends.push(end);
        }
        walk.missing = walk.nodes.len();
        walk
    }

    /// Adds the nodes of a path; the last one is returned.
    fn want(&mut self, path: &str) -> usize {
        let mut node = 0;
        for step in steps(path) {
            let new = self.nodes.len();
            let next = match step {
                Step::Key(key) => *self.nodes[node].keys.entry(key).or_insert(new),
                Step::Item(index) => *self.nodes[node].items.entry(index).or_insert(new),
            };
            if next == new {
                self.nodes.push(Node { parent: Some(node), ..Node::default() });
            }
            node = next;
        }
        node
    }

    fn is_done(&self) -> bool {
        self.is_over || self.missing == 0
    }

    /// The offset of a node, or of the nearest around it that was seen.
    fn nearest(&self, mut node: usize) -> Option<usize> {
        while self.nodes[node].offset.is_none() {
            node = self.nodes[node].parent?;
        }
        self.nodes[node].offset
    }

    fn open(&mut self, is_mapping: bool, offset: usize) {
        if self.open.len() == DEPTH_MAX {
            self.is_over = true;
            return;
        }
        let node = self.value(offset);
        self.open.push(match is_mapping {
            true => Open::Mapping { node, member: None, is_key_next: true },
            false => Open::Sequence { node, next: 0 },
        });
    }

    fn close(&mut self) {
        self.open.pop();
        self.is_over |= self.open.is_empty();
    }

    fn scalar(&mut self, text: &str, offset: usize) {
        if let Some(Open::Mapping { node, member, is_key_next: is_key_next @ true }) = self.open.last_mut() {
            let wanted = *node;
            *is_key_next = false;
            let found = wanted.and_then(|node| find_key(&self.nodes[node].keys, text));
            *member = found.map(|(member, _)| member);
            if let Some((member, is_alias)) = found
                && (!is_alias || self.nodes[member].offset.is_none())
            {
                self.see(member, offset);
            }
            return;
        }
        self.value(offset);
    }

    /// Notes that a value begins, and says which node it is. A mapping or list in the place of a key is none.
    fn value(&mut self, offset: usize) -> Option<usize> {
        match self.open.last_mut() {
            None => {
                self.see(0, offset);
                Some(0)
            }
            Some(Open::Mapping { member, is_key_next, .. }) => {
                let node = if *is_key_next { None } else { member.take() };
                *is_key_next = !*is_key_next;
                node
            }
            Some(Open::Sequence { node, next }) => {
                let index = *next;
                *next += 1;
                let item = node.and_then(|node| self.nodes[node].items.get(&index).copied());
                if let Some(item) = item {
                    self.see(item, offset);
                }
                item
            }
        }
    }

    fn see(&mut self, node: usize, offset: usize) {
        if self.nodes[node].offset.replace(offset).is_none() {
            self.missing -= 1;
        }
    }
}

/// The node of a key, and whether the key is another spelling of the one that is wanted.
fn find_key(keys: &HashMap<String, usize>, text: &str) -> Option<(usize, bool)> {
    if let Some(node) = keys.get(text) {
        return Some((*node, false));
    }
    let (_, name) = ALIASES.iter().find(|(alias, _)| *alias == text)?;
    keys.get(*name).map(|node| (*node, true))
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Item(usize),
}

/// The steps of a path as problems have it: `tasks[3].params["a.b"]`.
pub(super) fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let end = quoted.find("\"]").unwrap_or(quoted.len());
            let key = &quoted[..end];
            // Escapes are nearly those of JSON; where they are not, the key is not found.
            steps.push(Step::Key(serde_json::from_str(&format!("\"{key}\"")).unwrap_or(key.to_owned())));
            rest = quoted.get(end + 2..).unwrap_or_default();
            continue;
        }
        let item = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if let Some((Ok(index), after)) = item.map(|(digits, after)| (digits.parse(), after)) {
            steps.push(Step::Item(index));
            rest = after;
            continue;
        }
        let key = rest.strip_prefix('.').unwrap_or(rest);
        // At least one character is taken, so that this ends.
        let end = key.char_indices().skip(1).find(|(_, c)| ['.', '['].contains(c));
        let end = end.map_or(key.len(), |(end, _)| end);
        steps.push(Step::Key(key[..end].to_owned()));
        rest = &key[end..];
    }
    steps
}

/// Lines and columns of bytes.
fn places_of(text: &str, offsets: &[Option<usize>]) -> Vec<Option<Place>> {
    let mut sorted: Vec<usize> = offsets.iter().flatten().copied().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut places = HashMap::with_capacity(sorted.len());
    let (mut line, mut line_start, mut done) = (1, 0, 0);
    for offset in sorted {
        for (position, byte) in text.as_bytes()[done..offset.min(text.len())].iter().enumerate() {
            if *byte == b'\n' {
                line += 1;
                line_start = done + position + 1;
            }
        }
        done = offset.min(text.len());
        let before = text.get(line_start..done).unwrap_or_default();
        places.insert(offset, Place { line, column: before.chars().count() + 1 });
    }
    offsets.iter().map(|offset| places.get(&(*offset)?).copied()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, format: Format, expected: &[(&str, Option<(usize, usize)>)]) {
        let paths: Vec<&str> = expected.iter().map(|(path, _)| *path).collect();
        for (place, (path, expected)) in places(text, format, &paths).into_iter().zip(expected) {
            assert_eq!(place.map(|place| (place.line, place.column)), *expected, "{path} in\n{text}");
        }
    }

    #[test]
    fn keys_stand_where_they_are_written_and_items_where_they_begin() {
        let text = "# a report\nname: W\ntasks:\n  - id: a\n    method: echo/echo\n    params:\n      messages:\n        - role: user\n          content: hi\n  - {id: b, parameters: {\"é\": 1, \"a.b\": [1, x]}}\n";
        check(
            text,
            Format::Yaml,
            &[
                ("name", Some((2, 1))),
                ("tasks", Some((3, 1))),
                ("tasks[0]", Some((4, 5))),
                ("tasks[0].params.messages[0].content", Some((9, 11))),
                ("tasks[1].params[\"a.b\"][1]", Some((10, 45))),
                ("tasks[1].params[\"é\"]", Some((10, 26))),
                ("", None),
            ],
        );
    }

    #[test]
    fn what_is_missing_is_placed_where_the_nearest_thing_around_it_is() {
        let text = "name: W\ntasks:\n- id: a\n  params: {x: 1}\n- *a\n";
        check(
            text,
            Format::Yaml,
            &[
                ("tasks[0].method", Some((3, 3))),
                ("tasks[0].params.y.z", Some((4, 3))),
                ("tasks[7]", Some((2, 1))),
                ("nowhere", Some((1, 1))),
            ],
        );
        check("", Format::Yaml, &[("tasks", None)]);
        check("{", Format::Json, &[("tasks", Some((1, 1)))]);
    }

    #[test]
    fn other_spellings_are_found_unless_the_first_is_there_too() {
        let text = "tasks:\n- parameters: {a: 1}\n- parameters: {a: 1}\n  params: {a: 1}\n- params: {a: 1}\n  parameters: {a: 1}\n";
        check(
            text,
            Format::Yaml,
            &[
                ("tasks[0].params.a", Some((2, 16))),
                ("tasks[1].params", Some((4, 3))),
                ("tasks[2].params", Some((5, 3))),
                ("tasks[2].parameters", Some((6, 3))),
            ],
        );
    }

    #[test]
    fn json_is_walked_by_its_own_rules() {
        let text = "{\n\t\"name\": \"a\\\"]}\",\n\t\"x\": -1.5e3, \"tasks\": [ {\"id\": \"\\ud83d\\ude00\"},\n\t{ \"params\":{\"t\\u0061g\":[true,null ,[ ]]}}]\n}";
        check(
            text,
            Format::Json,
            &[
                ("name", Some((2, 2))),
                ("tasks", Some((3, 15))),
                ("tasks[0].id", Some((3, 27))),
                ("tasks[1].params.tag[2]", Some((4, 37))),
                ("tasks[1].params.tag[1]", Some((4, 31))),
                ("tasks[1].method", Some((4, 2))),
            ],
        );
    }

    #[test]
    fn merged_and_odd_keys_do_not_confuse_the_walk() {
        let text = "base: &b {timeout: 0}\n? [a, {b: c}]\n: {d: e}\ntasks:\n- <<: *b\n  id: a\n";
        check(
            text,
            Format::Yaml,
            &[
                ("tasks[0].id", Some((6, 3))),
                ("tasks[0].timeout", Some((5, 3))),
                ("base.timeout", Some((1, 11))),
            ],
        );
    }

    #[test]
    fn one_walk_through_the_largest_text_is_enough_for_all_paths() {
        let mut text = String::from("tasks:\n");
        let paths: Vec<String> = (0..100).map(|index| format!("tasks[{}].params.x", index * 100)).collect();
        for index in 0..10_000 {
            text += &format!("- {{id: t{index}, params: {{y: 1, x: {index}}}}}\n");
        }
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let found = places(&text, Format::Yaml, &paths);
        let lines: Vec<usize> = found.into_iter().flatten().map(|place| place.line).collect();
        assert_eq!(lines, (0..100).map(|index| index * 100 + 2).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn any_text_and_any_path_have_places_or_none(
            text in "([-{}:, \\[\\]\"\\\\a*&?|>#]|tasks|\n|é){0,40}",
            path in "(tasks|a|\\.|\\[0\\]|\\[|\\]|\"|é){0,6}",
        ) {
            for format in [Format::Yaml, Format::Json] {
                let lines = text.lines().count() + 1;
                for place in places(&text, format, &[&path, "tasks[0].a"]).into_iter().flatten() {
                    prop_assert!(place.line <= lines && place.column >= 1);
                }
            }
        }
    }
}
