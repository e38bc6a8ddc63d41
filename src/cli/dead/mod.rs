//! `dead list|show|replay|drop`: dead letters, for people and for scripts.

mod args;
mod change;
mod list;
mod show;

use self::args::Asked;
use super::print;
use crate::config::Config;
use crate::core::code::Code;
use crate::dead::{self, BYTES_MAX, Keep, LETTERS_MAX, Letter, Look};
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::topology::Queue;

pub(crate) use args::Dead;

/// `gleitzeit dead ...`
pub(crate) async fn dead(config: Config, command: Dead, json: bool) -> Result<u8, Error> {
    let topology = Runtime::topology(&config)?;
    // Who only looks, or throws away, needs no queue that is not there.
    let role = match &command {
        Dead::List(_) | Dead::Show(_) | Dead::Drop(_) => Role::Operator,
        Dead::Replay(_) => Role::Client,
    };
    let runtime = Runtime::open(config, role, None).await?;
    let now = runtime.clock.now();
    let code = match &command {
        Dead::List(args) => list::list(&runtime, args, &args.asked(&topology, now)?, json).await,
        Dead::Show(args) => show::show(&runtime, args, &args.asked(&topology, now)?, json).await,
        Dead::Replay(args) => change::replay(&runtime, args, &args.asked(&topology, now)?, json).await,
        Dead::Drop(args) => change::drop(&runtime, args, &args.asked(&topology, now)?, json).await,
    };
    runtime.close().await;
    code
}

/// Holds what is asked for; `keep` says how much of what the filter takes.
async fn hold(runtime: &Runtime, asked: &Asked, keep: Keep) -> Result<Look, Error> {
    let of = |letter: &Letter| if asked.filter.takes(letter) { keep } else { Keep::Facts };
    let look = dead::hold(&runtime.broker, &asked.addresses, of).await?;
    if look.has_more {
        print::note(&format!(
            "only a part was looked at: {LETTERS_MAX} letters and {} MiB of a queue fit in one look; those come first \
             again until they are replayed or dropped: name ids, or a --protocol",
            BYTES_MAX / (1024 * 1024)
        ));
    }
    for address in &look.missing {
        tracing::info!(queue = %Queue::Dead(address.clone()), "this dead queue is not there");
    }
    Ok(look)
}

/// Ids that were named and are called by no letter of this look.
fn unknown(asked: &Asked, chosen: &[Letter], has_more: bool) -> Result<(), Error> {
    let is_there = |id: &String| chosen.iter().any(|letter| dead::filter::is_called(letter, id));
    let missing: Vec<&str> = asked.filter.ids.iter().filter(|id| !is_there(id)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(", ");
    let text = if has_more {
        format!(
            "no dead letter of {names} is among those that were looked at, and there are more: replay or drop some"
        )
    } else {
        format!("no dead letter of {names} was found here; somebody else may hold it at this moment")
    };
    Err(Error::new(Code::TaskNotFound, text))
}
