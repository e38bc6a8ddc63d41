//! `--follow`: what tasks give while they run, as it comes.
//!
//! One task is shown as it is: its text and what it prints on stdout, what it prints on stderr there. Of several, each
//! line has the task's name before it. With `--json` each piece is an object on a line of its own, and the document comes
//! last.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use super::print;
use crate::client::OutputReader;
use crate::core::id::TaskKey;
use crate::core::output::{Piece, Stream};
use crate::core::state::TaskState;
use crate::error::Error;
use crate::store::{Fence, Given, OutputEntry, Position, Store};

/// How long what is left may take once the work has ended.
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// Shows what tasks give.
#[derive(Debug)]
pub(crate) struct Pieces {
    reader: OutputReader,
    /// What is followed: a task, or all of a root.
    key: TaskKey,
    view: View,
}

/// How it is shown.
#[derive(Debug)]
struct View {
    has_many: bool,
    json: bool,
    is_terminal: bool,
    /// The task whose line is open on stdout.
    open: Option<TaskKey>,
    /// What was shown of each task.
    shown: HashMap<TaskKey, Shown>,
}

#[derive(Debug)]
struct Shown {
    fence: Fence,
    /// Where its last piece ended.
    at: u64,
    /// Some of its text was shown.
    has_text: bool,
    /// Nothing of it was left out so far.
    is_whole: bool,
}

/// How much of a task's text was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    Nothing,
    Part,
    Whole,
}

impl Pieces {
    /// Of a task, or of all tasks of a workflow (`has_many`).
    pub(crate) fn new(store: &Arc<dyn Store>, key: &TaskKey, has_many: bool, json: bool) -> Pieces {
        let reader = OutputReader::new(Arc::clone(store), key.root.clone(), Position::START);
        let is_terminal = std::io::stdout().is_terminal();
        let view = View { has_many, json, is_terminal, open: None, shown: HashMap::new() };
        Pieces { reader, key: key.clone(), view }
    }

    /// Does the work, and shows what comes meanwhile. What it gave before its end is shown before this returns.
    pub(crate) async fn beside<T>(
        &mut self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::pin!(work);
        let done = loop {
            let found = tokio::select! {
                biased;
                done = &mut work => break done,
                found = self.reader.next() => found,
            };
            match found {
                Ok(entries) => self.show(&entries),
                Err(error) => {
                    print::note(&format!("what tasks give cannot be followed any more: {error}"));
                    return work.await;
                }
            }
        };
        if tokio::time::timeout(REST_TIMEOUT, self.rest()).await.is_err() {
            print::note("what was given last could not be read in time");
        }
        self.view.close();
        done
    }

    /// How much of the text of the task's last attempt was shown, so that its result need not repeat it.
    pub(crate) fn text_of(&self, key: &TaskKey) -> Text {
        self.view.text_of(key)
    }

    async fn rest(&mut self) {
        loop {
            match self.reader.rest().await {
                Ok(entries) if entries.is_empty() => return,
                Ok(entries) => self.show(&entries),
                Err(error) => return print::note(&format!("what was given last cannot be read: {error}")),
            }
        }
    }

    fn show(&mut self, entries: &[OutputEntry]) {
        for entry in entries {
            if self.key.task.is_none() || self.key == entry.key {
                self.view.entry(entry);
            }
        }
    }
}

impl View {
    fn entry(&mut self, entry: &OutputEntry) {
        if self.json {
            return print::compact(&document(entry));
        }
        let (name, attempt) = (entry.key.id().to_string(), entry.attempt);
        let shown = self.shown.get(&entry.key);
        let is_new = shown.is_none_or(|shown| shown.fence != entry.fence);
        match &entry.what {
            Given::Piece(piece) => {
                if is_new && shown.is_some() {
                    self.note(&format!("{name}: attempt {attempt} begins anew"));
                }
                let at = if is_new { 0 } else { shown_at(&self.shown, &entry.key) };
                if piece.offset > at {
                    self.note(&format!("{name}: {} bytes are not kept", piece.offset - at));
                }
                let had_text = !is_new && self.shown.get(&entry.key).is_some_and(|shown| shown.has_text);
                let has_text = had_text || piece.stream != Stream::Stderr;
                let was_whole = is_new || self.shown.get(&entry.key).is_some_and(|shown| shown.is_whole);
                let is_whole = was_whole && piece.offset <= at;
                let shown = Shown { fence: entry.fence, at: piece.end(), has_text, is_whole };
                self.shown.insert(entry.key.clone(), shown);
                self.piece(&entry.key, piece);
            }
            Given::Truncated => {
                if let Some(shown) = self.shown.get_mut(&entry.key) {
                    shown.is_whole = false;
                }
                self.note(&format!("{name}: it gives more than is kept"));
            }
            Given::Ended(state) => {
                // The end of a task is told anyway.
                if TaskState::parse(state).is_some_and(|state| !state.is_ended()) {
                    self.note(&format!("{name}: attempt {attempt} has ended, and another one is to come"));
                }
            }
        }
    }

    fn text_of(&self, key: &TaskKey) -> Text {
        match self.shown.get(key) {
            Some(Shown { has_text: true, is_whole: true, .. }) => Text::Whole,
            Some(Shown { has_text: true, is_whole: false, .. }) => Text::Part,
            Some(Shown { has_text: false, .. }) | None => Text::Nothing,
        }
    }

    fn piece(&mut self, key: &TaskKey, piece: &Piece) {
        let text = if self.is_terminal { print::printable_lines(&piece.text) } else { piece.text.clone() };
        if piece.stream == Stream::Stderr {
            let prefix = if self.has_many { format!("{} | ", key.id()) } else { String::new() };
            self.close();
            return text.lines().for_each(|line| print::note(&format!("{prefix}{line}")));
        }
        if !self.has_many {
            print::bytes(text.as_bytes());
            self.open = (!text.ends_with('\n')).then(|| key.clone());
            return;
        }
        let mut out = String::new();
        if self.open.as_ref().is_some_and(|open| open != key) {
            out.push('\n');
            self.open = None;
        }
        for line in text.split_inclusive('\n') {
            if self.open.is_none() {
                out.push_str(&format!("{} | ", key.id()));
            }
            out.push_str(line);
            self.open = (!line.ends_with('\n')).then(|| key.clone());
        }
        print::bytes(out.as_bytes());
    }

    fn note(&mut self, text: &str) {
        self.close();
        print::note(text);
    }

    /// Ends an open line.
    fn close(&mut self) {
        if self.open.take().is_some() {
            print::bytes(b"\n");
        }
    }
}

fn shown_at(shown: &HashMap<TaskKey, Shown>, key: &TaskKey) -> u64 {
    shown.get(key).map_or(0, |shown| shown.at)
}

fn document(entry: &OutputEntry) -> Value {
    let mut document = json!({
        "task": entry.key.id(), "workflow_id": entry.key.workflow(), "attempt": entry.attempt,
        "position": entry.position.to_string(),
    });
    match &entry.what {
        Given::Piece(piece) => {
            document["stream"] = piece.stream.name().into();
            document["offset"] = piece.offset.into();
            document["text"] = piece.text.as_str().into();
        }
        Given::Truncated => document["truncated"] = true.into(),
        Given::Ended(state) => document["attempt_ended"] = state.as_str().into(),
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Id;

    /// What is known of a task's text after all of this has come: of which attempt, and what.
    fn after(entries: Vec<(u64, Given)>) -> Text {
        let key = TaskKey::alone(Id::parse("t").expect("valid"));
        let mut view =
            View { has_many: false, json: false, is_terminal: false, open: None, shown: HashMap::new() };
        for (fence, what) in entries {
            let (position, attempt) = (Position::START, 1);
            view.entry(&OutputEntry { position, key: key.clone(), attempt, fence: Fence(fence), what });
        }
        view.text_of(&key)
    }

    fn piece(stream: Stream, offset: u64) -> Given {
        Given::Piece(Piece { stream, offset, text: "some\n".to_owned() })
    }

    #[test]
    fn what_was_left_out_of_an_attempt_is_not_forgotten() {
        let text = |offset| piece(Stream::Text, offset);
        assert_eq!(after(vec![]), Text::Nothing);
        assert_eq!(after(vec![(1, piece(Stream::Stderr, 0))]), Text::Nothing);
        assert_eq!(after(vec![(1, text(0)), (1, text(5))]), Text::Whole);
        assert_eq!(after(vec![(1, text(0)), (1, text(5)), (1, text(5))]), Text::Whole, "given twice");
        assert_eq!(after(vec![(1, text(5))]), Text::Part, "the beginning is not kept");
        assert_eq!(after(vec![(1, text(0)), (1, text(6)), (1, text(11))]), Text::Part);
        assert_eq!(after(vec![(1, text(0)), (1, Given::Truncated)]), Text::Part);
        assert_eq!(after(vec![(1, text(5)), (2, text(0))]), Text::Whole, "of the last attempt");
    }
}
