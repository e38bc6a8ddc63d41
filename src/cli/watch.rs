//! `watch`: following what runs elsewhere.

use super::args;
use super::follow::{self, Outcome};
use super::live::Live;
use super::look::unknown;
use super::pieces::Pieces;
use super::print;
use super::run::seconds;
use super::signals::Signals;
use crate::client::Ended;
use crate::config::Config;
use crate::core::id::TaskKey;
use crate::error::Error;
use crate::runtime::State;

/// `gleitzeit watch ID`
pub(crate) async fn watch(config: Config, args: args::Watch, json: bool) -> Result<u8, Error> {
    let key: TaskKey = args.id.parse()?;
    let timeout = seconds(args.timeout)?;
    let state = State::open(&config).await?;
    let reader = state.reader();
    let signals = Signals::listen();
    let now = reader.state(&key).await?;
    if now.is_none() && reader.ended(&key).await?.is_none() {
        return Err(unknown(&args.id));
    }
    let mut pieces =
        args.follow.then(|| Pieces::new(&state.store, &key, now.is_some_and(|now| now.is_workflow), json));
    let outcome = match &mut pieces {
        None => follow::to_end(&state.store, &signals, &key, Live::joining(), timeout).await?,
        Some(pieces) => {
            let live = Live::joining().without_picture();
            pieces.beside(follow::to_end(&state.store, &signals, &key, live, timeout)).await?
        }
    };
    let code = match outcome {
        Outcome::Ended(ended) => {
            match pieces.filter(|_| !json && !ended.is_workflow) {
                Some(pieces) => {
                    let document = follow::document(&ended, &key);
                    super::call::show_followed(&document, pieces.text_of(&key));
                }
                None => show(&ended, &key, json),
            }
            follow::exit_code(&ended)
        }
        Outcome::TimeOver => {
            show_unfinished(&state, &key, json).await?;
            6
        }
        Outcome::Interrupted(signal) => {
            show_unfinished(&state, &key, json).await?;
            128 + signal
        }
    };
    state.close().await;
    Ok(code)
}

/// What an end is shown as: the results for a person, the document for a program.
pub(super) fn show(ended: &Ended, key: &TaskKey, json: bool) {
    let document = follow::document(ended, key);
    if ended.is_workflow {
        super::run::show(&document, json);
    } else {
        super::call::show(&document, json);
    }
}

async fn show_unfinished(state: &State, key: &TaskKey, json: bool) -> Result<(), Error> {
    let now = state.reader().state(key).await?;
    let (name, is_workflow) = now.map_or(("unknown", false), |now| (now.name, now.is_workflow));
    print::note(&format!("{key} is {name}: gleitzeit watch {key}"));
    if json {
        print::json(&follow::without_result(key, name, is_workflow));
    }
    Ok(())
}
