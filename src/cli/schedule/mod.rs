//! `schedule`: what is to run again and again.
//!
//! Each change is a message that a worker carries out, so that it is not lost with whoever sent it. It names the
//! generation that it makes, one more than what is seen here: of two changes at once one is refused, and a command
//! that was killed in the middle can be given again.

pub(crate) mod args;
mod show;

use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::Instant;

use self::args::{Add, Name};
use super::args::Source;
use super::call::read_params;
use super::{load, print};
use crate::config::Config;
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::id::Id;
use crate::error::Error;
use crate::runtime::{Role, Runtime, clock::SystemClock};
use crate::store::{Schedule, ScheduleState};
use crate::topology::Queue;
use crate::wire::schedule::{Change, Definition, Order};

/// How long to wait for a worker to carry a change out; after that it is only known to be kept.
const TAKEN_MAX: Duration = Duration::from_secs(10);
/// How often to look meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many slots are shown of a schedule that was added.
const NEXT_SHOWN: usize = 3;

/// `gleitzeit schedule ...`
pub(crate) async fn schedule(config: Config, command: args::Schedule, json: bool) -> Result<u8, Error> {
    match command {
        args::Schedule::Add(args) => Box::pin(add(config, *args, json)).await,
        args::Schedule::List(args) => show::list(config, &args, json).await,
        args::Schedule::Show(args) => show::show(config, &args, json).await,
        args::Schedule::Pause(args) => change(config, &args, Change::Pause, json).await,
        args::Schedule::Resume(args) => change(config, &args, Change::Resume, json).await,
        args::Schedule::Remove(args) => change(config, &args, Change::Remove, json).await,
        args::Schedule::RunNow(args) => run_now(config, &args, json).await,
    }
}

async fn add(config: Config, args: Add, json: bool) -> Result<u8, Error> {
    let name = Id::parse(&args.name)?;
    let replace = args.replace;
    let definition = definition(&config, args)?;
    let runtime = Runtime::open(config, Role::Client, None).await?;
    let there = runtime.store.schedule(&name).await?;
    let generation = there.as_ref().map_or(1, |there| there.generation.saturating_add(1));
    if let Some(there) = there.filter(|there| there.state != ScheduleState::Removed) {
        let is_same = there.definition == definition.encode();
        if is_same && there.state == ScheduleState::Active {
            // Perhaps a command that was killed is given again.
            print::note(&format!("schedule {name} is so already"));
            runtime.close().await;
            show::added(&there, &definition, NEXT_SHOWN, json);
            return Ok(0);
        }
        if !replace {
            let state = there.state.name();
            let text = format!("there is a schedule {name} already ({state}); --replace replaces it");
            return Err(Error::new(Code::InvalidRequest, text));
        }
    }
    let order = Order::Set {
        name: name.clone(),
        generation: Some(generation),
        definition: definition.clone().into(),
    };
    let taken = send(&runtime, &order, generation).await?;
    runtime.close().await;
    let Some(there) = taken else { return Ok(not_taken(&name, json)) };
    if there.generation != generation || there.definition != definition.encode() {
        return Err(changed_by_another(&name));
    }
    show::added(&there, &definition, NEXT_SHOWN, json);
    Ok(0)
}

/// The definition that the flags mean, everything wrong with it at once.
fn definition(config: &Config, args: Add) -> Result<Definition, Error> {
    let protocols = Runtime::protocols(config)?;
    let mut members = Map::new();
    members.insert("cron".to_owned(), args.cron.into());
    members.insert("zone".to_owned(), args.tz.into());
    members.insert("catch_up".to_owned(), args.catch_up.into());
    members.insert("grace".to_owned(), json!(args.grace));
    members.insert("overlap".to_owned(), args.overlap.into());
    match args.workflow {
        Some(file) => {
            let source = Source { file, params: args.given, strict: args.strict };
            let (document, _) = load::workflow(&source, &protocols)?;
            members.insert("workflow".to_owned(), document);
        }
        None => {
            let params = read_params(&args.params)?;
            let mut task = Map::new();
            task.insert("protocol".to_owned(), args.protocol.unwrap_or_default().into());
            task.insert("method".to_owned(), args.method.unwrap_or_default().into());
            task.insert("params".to_owned(), params);
            if let Some(timeout) = args.timeout {
                task.insert("timeout".to_owned(), json!(timeout));
            }
            if let Some(priority) = args.priority {
                let number = priority.parse::<i64>().map(Value::from);
                task.insert("priority".to_owned(), number.unwrap_or(Value::String(priority)));
            }
            members.insert("task".to_owned(), Value::Object(task));
        }
    }
    Ok(Definition::new(&members, &protocols)?)
}

async fn change(config: Config, args: &Name, change: Change, json: bool) -> Result<u8, Error> {
    let name = Id::parse(&args.name)?;
    let runtime = Runtime::open(config, Role::Client, None).await?;
    let there = known(&runtime, &name).await?;
    let wanted = match change {
        Change::Pause => ScheduleState::Paused,
        Change::Resume => ScheduleState::Active,
        Change::Remove => ScheduleState::Removed,
    };
    if there.state == wanted {
        print::note(&format!("schedule {name} is {} already", wanted.name()));
        runtime.close().await;
        show::changed(&there, json);
        return Ok(0);
    }
    let generation = there.generation.saturating_add(1);
    let order = Order::Change { name: name.clone(), generation: Some(generation), change };
    let taken = send(&runtime, &order, generation).await?;
    runtime.close().await;
    let Some(there) = taken else { return Ok(not_taken(&name, json)) };
    if there.generation != generation || there.state != wanted {
        return Err(changed_by_another(&name));
    }
    show::changed(&there, json);
    Ok(0)
}

async fn run_now(config: Config, args: &Name, json: bool) -> Result<u8, Error> {
    let name = Id::parse(&args.name)?;
    let runtime = Runtime::open(config, Role::Client, None).await?;
    let there = known(&runtime, &name).await?;
    let definition = Definition::decode(&there.definition)?;
    let id = runtime.client().run_scheduled(&name, &definition).await?;
    if json {
        print::json(&json!({"name": name, "id": id, "status": "accepted"}));
    } else {
        print::line(id.as_str());
    }
    if runtime.is_embedded() {
        print::note("queued in the state file; `gleitzeit worker` or `gleitzeit resume` executes it");
    }
    runtime.close().await;
    Ok(0)
}

/// The schedule of this name, unless there is none (any more).
async fn known(runtime: &Runtime, name: &Id) -> Result<Schedule, Error> {
    let there = runtime.store.schedule(name).await?;
    there.filter(|there| there.state != ScheduleState::Removed).ok_or_else(|| unknown(name))
}

fn unknown(name: &Id) -> Error {
    let text = format!("there is no schedule {name}; `gleitzeit schedule list` has all");
    Error::new(Code::ScheduleNotFound, text)
}

/// Sends the order and looks until it is carried out; what stands there then. `None` if no worker has taken it in
/// time.
async fn send(runtime: &Runtime, order: &Order, generation: u32) -> Result<Option<Schedule>, Error> {
    runtime.client().order(order).await?;
    if runtime.is_embedded() {
        // Nobody else may be there to take the message, so this process does.
        runtime.coordinator().work_off(&Queue::Workflows).await?;
    }
    let started = Instant::now();
    loop {
        let there = runtime.store.schedule(order.name()).await?;
        if there.as_ref().is_some_and(|there| there.generation >= generation) {
            return Ok(there);
        }
        if started.elapsed() >= TAKEN_MAX {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn not_taken(name: &Id, json: bool) -> u8 {
    print::note(&format!(
        "no worker has taken the change of schedule {name} yet; it is kept, and waits for one"
    ));
    if json {
        print::json(&json!({"name": name, "status": "accepted"}));
    }
    0
}

fn changed_by_another(name: &Id) -> Error {
    let text = format!(
        "schedule {name} was changed by somebody else at the same time; look with `gleitzeit schedule show {name}`"
    );
    Error::new(Code::WorkflowInvalidState, text)
}

/// The next slots from now on, as times in UTC and in the schedule's zone.
fn next_slots(definition: &Definition, count: usize) -> Vec<Value> {
    let timetable = &definition.rules.timetable;
    let slots = timetable.from(SystemClock.now()).take(count);
    slots.map(|slot| json!({"utc": slot, "local": timetable.local(slot)})).collect()
}
