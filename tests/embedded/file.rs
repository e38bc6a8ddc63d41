//! The file itself: where it cannot be, and what happens when it is damaged.

use crate::support::{State, head, store};
use gleitzeit::sqlite::{Database, Durability, Error, Location};
use gleitzeit::store::{Accepted, Filter, Store, StoreError};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_damaged_file_is_said_to_be_damaged() {
    let state = State::new();
    let database = state.open().await;
    let accepted: Vec<_> = (0..500)
        .map(|number| Accepted::Task {
            head: head(&format!("t{number}")),
            digest: None,
            due: None,
            sent: None,
        })
        .collect();
    store(database.clone()).accept(&accepted, Default::default()).await.expect("accepts");
    database.close().await;
    // The header and the schema stay whole; everything after is garbage.
    let mut bytes = std::fs::read(state.path()).expect("reads");
    assert!(bytes.len() > 20 * 4096, "{}", bytes.len());
    let schema_end = 4 * 4096;
    bytes[schema_end..].fill(0xA5);
    std::fs::write(state.path(), bytes).expect("writes");
    let found = match Database::open(Location::File(state.path()), Durability::Process).await {
        Ok(database) => store(database).list(&Filter { state: None, limit: 1000 }).await.err(),
        Err(Error::File { path, reason }) => Some(StoreError::File { path, reason }),
        Err(error) => panic!("{error}"),
    };
    assert!(
        matches!(&found, Some(StoreError::File { reason, .. }) if reason.contains("malformed")),
        "{found:?}"
    );
    assert!(!found.expect("checked").is_transient());
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_said_to_be_so() {
    // Nobody can make files there, not even root.
    let places = ["/proc/self/state.db", "/dev/null/state.db"];
    for place in places {
        let opened = Database::open(Location::File(place.into()), Durability::Process).await;
        assert!(matches!(&opened, Err(Error::File { path, .. }) if path == place), "{opened:?}");
    }
    let state = State::new();
    let mode = |mode| std::fs::set_permissions(state.folder.path(), PermissionsExt::from_mode(mode));
    mode(0o500).expect("it is ours");
    // Root may write anywhere.
    if std::fs::write(state.folder.path().join("probe"), "").is_err() {
        let opened = Database::open(Location::File(state.path()), Durability::Process).await;
        assert!(matches!(opened, Err(Error::File { .. })), "{opened:?}");
    }
    mode(0o700).expect("it is ours");
}
