//! News between the parts of one process: a counter per topic that waiters watch.
//!
//! `PRAGMA data_version` shows only what *other* connections commit, so what this process commits is told
//! here. A topic exists while somebody has it; touching one that nobody has costs a look into a map.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The topics that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Topics {
    counters: Mutex<HashMap<String, watch::Sender<u64>>>,
}

/// A waiter's end of a topic.
#[derive(Debug)]
pub(crate) struct Topic {
    name: String,
    counter: watch::Receiver<u64>,
    topics: Arc<Topics>,
}

impl Topics {
    /// Waits for news of `name` from now on.
    pub(super) fn follow(self: &Arc<Topics>, name: &str) -> Topic {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = counters.entry(name.to_owned()).or_insert_with(|| watch::channel(0).0);
        Topic { name: name.to_owned(), counter: sender.subscribe(), topics: Arc::clone(self) }
    }

    /// Tells everyone who follows `name`.
    pub(super) fn touch(&self, name: &str) {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = counters.get(name) {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl Topic {
    /// Returns once there is news since the last return. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        // The sender stays in the map as long as this receiver exists, so there is no error to see.
        let _ = self.counter.changed().await;
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let mut counters = self.topics.counters.lock().unwrap_or_else(PoisonError::into_inner);
        // This receiver is still counted.
        if counters.get(&self.name).is_some_and(|sender| sender.receiver_count() <= 1) {
            counters.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_topic_tells_what_happened_since_and_ends_with_its_last_follower() {
        let topics = Arc::new(Topics::default());
        topics.touch("nobody");
        let mut first = topics.follow("a");
        let second = topics.follow("a");
        topics.touch("a");
        first.changed().await;
        drop(second);
        topics.touch("a");
        first.changed().await;
        drop(first);
        assert!(topics.counters.lock().expect("whole").is_empty());
    }
}
