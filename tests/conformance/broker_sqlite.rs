//! The embedded broker, as a backend of the suite.

use gleitzeit::broker::Broker;
use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::sqlite::{Database, Durability, Location};
use std::any::Any;
use std::sync::Arc;

use crate::wall_clock::WallClock;

/// It needs nothing that is not here.
pub(crate) fn is_here() -> Result<(), String> {
    Ok(())
}

/// A broker over a file of its own; the folder is kept until the case is over.
pub(crate) async fn start() -> (Arc<dyn Broker>, Box<dyn Any + Send>) {
    let folder = tempfile::tempdir().expect("a folder");
    let location = Location::File(folder.path().join("state.db"));
    let database = Database::open(location, Durability::Process).await.expect("it opens");
    (Arc::new(SqliteBroker::new(database, Arc::new(WallClock))), Box::new(folder))
}
