//! What running tasks give: a stream for each root, in the root's slot.

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use redis::Script;
use std::collections::HashMap;
use std::str::FromStr;

use super::RedisStore;
use super::reply::{Reply, corrupt};
use super::steps::millis;
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::output::{OUTPUT_BYTES_MAX, Piece, Stream};
use crate::store::{
    Appended, ENTRY_BYTES, Fence, Given, Lease, OUTPUT_TTL, OutputEntry, Outputs, Position, ROOT_BYTES_MAX,
    StoreError,
};

const READ: &str = "output";

/// The step, ready to invoke.
#[derive(Debug)]
pub(super) struct Scripts {
    append: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        Scripts { append: Script::new(include_str!("lua/output.lua")) }
    }
}

#[async_trait]
impl Outputs for RedisStore {
    async fn append(&self, lease: &Lease, pieces: &[Piece], _now: Timestamp) -> Result<Appended, StoreError> {
        const STEP: &str = "append";
        let key = &lease.key;
        let mut script = self.outputs.append.key(self.prefix.task(key));
        script
            .key(self.prefix.root(&key.root))
            .key(self.prefix.output(&key.root))
            .arg(lease.fence.0)
            .arg(key.task.as_ref().map(Id::as_str).unwrap_or_default())
            .arg(lease.attempt)
            .arg(OUTPUT_BYTES_MAX)
            .arg(ROOT_BYTES_MAX)
            .arg(ENTRY_BYTES)
            .arg(millis(OUTPUT_TTL))
            .arg(self.prefix.output_channel(&key.root));
        for piece in pieces {
            script.arg(piece.stream.name()).arg(piece.offset).arg(&piece.text);
        }
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "written" => Ok(Appended::Written),
            "full" => Ok(Appended::Full),
            "lost" => Ok(Appended::Lost),
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }

    async fn output(&self, root: &Id, after: Position, limit: usize) -> Result<Vec<OutputEntry>, StoreError> {
        let (key, mut after) = (self.prefix.output(root), after);
        loop {
            let mut cmd = redis::cmd("XRANGE");
            cmd.arg(&key).arg(format!("({after}")).arg("+").arg("COUNT").arg(limit.max(1));
            let found: Vec<(String, HashMap<String, String>)> = self.connection.query(READ, &cmd).await?;
            let mut entries = Vec::with_capacity(found.len());
            for (position, fields) in &found {
                after = parsed(position)?;
                entries.extend(entry(root, after, fields)?);
            }
            // A later version may write what this one does not know: what comes behind it counts.
            if found.is_empty() || !entries.is_empty() {
                return Ok(entries);
            }
        }
    }

    async fn watch_output(&self, root: &Id) -> Result<BoxStream<'static, ()>, StoreError> {
        Ok(self.watch.output(root).await?.map(|_| ()).boxed())
    }
}

/// `None`: it is of a kind that we do not know.
fn entry(
    root: &Id,
    position: Position,
    fields: &HashMap<String, String>,
) -> Result<Option<OutputEntry>, StoreError> {
    let field = |name: &str| fields.get(name).map(String::as_str);
    let number = |name: &str| parsed(field(name).unwrap_or_default());
    let what = match (field("stream"), field("end"), field("truncated")) {
        (Some(stream), ..) => {
            let (Some(stream), Some(text)) = (Stream::parse(stream), field("text")) else { return Ok(None) };
            Given::Piece(Piece { stream, offset: number("offset")?, text: text.to_owned() })
        }
        (None, Some(state), _) => Given::Ended(state.to_owned()),
        (None, None, Some(_)) => Given::Truncated,
        (None, None, None) => return Ok(None),
    };
    let key = TaskKey { root: root.clone(), task: field("task").map(parsed).transpose()? };
    let attempt = parsed(field("attempt").unwrap_or_default())?;
    Ok(Some(OutputEntry { position, key, attempt, fence: Fence(number("fence")?), what }))
}

fn parsed<T: FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse()
        .map_err(|_| corrupt(READ, format!("{text:?} in a stream of output is not what was expected")))
}
