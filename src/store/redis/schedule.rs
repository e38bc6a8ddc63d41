//! Schedules in Redis: a hash each, and a sorted set of their names.
//!
//! All have one hash tag (`keys.rs`), so that a step sees the schedule and the index at once. Schedules are few,
//! and what they run is elsewhere, so one slot is enough.

use async_trait::async_trait;
use redis::{Script, Value};

use super::RedisStore;
use super::reply::{Reply, corrupt};
use super::steps::millis;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::store::schedule::REMOVED_TTL;
use crate::store::{
    Arrangement, Begun, Firing, SCHEDULES_MAX, Schedule, ScheduleState, Schedules, StoreError, Turn,
};

/// How many schedules are read in one round trip: each may hold a large definition.
const PAGE: usize = 200;

/// What is read of a schedule, in this order.
const FIELDS: [&str; 11] = [
    "generation",
    "state",
    "definition",
    "armed",
    "last_slot",
    "last_run",
    "fired",
    "missed",
    "overlapped",
    "created",
    "changed",
];

/// The steps of schedules, ready to invoke.
#[derive(Debug)]
pub(super) struct Scripts {
    arrange: Script,
    begin: Script,
    fire: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        let names = FIELDS.map(|field| format!("'{field}'")).join(", ");
        let shared = format!(
            "local call = redis.call\nlocal function fields(key) return call('HMGET', key, {names}) end\n"
        );
        let step = |text: &str| Script::new(&format!("{shared}{text}"));
        Scripts {
            arrange: step(include_str!("lua/schedule_arrange.lua")),
            begin: step(include_str!("lua/schedule_begin.lua")),
            fire: step(include_str!("lua/schedule_fire.lua")),
        }
    }
}

#[async_trait]
impl Schedules for RedisStore {
    async fn arrange(&self, arrangement: &Arrangement, now: Timestamp) -> Result<Schedule, StoreError> {
        const STEP: &str = "arrange";
        let Arrangement { name, generation, state, definition, armed } = arrangement;
        let mut script = self.schedules.arrange.key(self.prefix.schedule(name));
        script
            .key(self.prefix.schedules())
            .arg(name.as_str())
            .arg(*generation)
            .arg(state.name())
            .arg(definition.as_ref())
            .arg(slot_text(*armed))
            .arg(now.to_string())
            .arg(millis(REMOVED_TTL));
        let reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        read(name, reply)?.ok_or_else(|| corrupt(STEP, format!("no schedule {name} after it was recorded")))
    }

    async fn begin(&self, turn: &Turn, until: Timestamp, now: Timestamp) -> Result<Begun, StoreError> {
        const STEP: &str = "begin";
        let mut script = self.schedules.begin.key(self.prefix.schedule(&turn.name));
        script
            .arg(turn.generation)
            .arg(turn.slot.to_string())
            .arg(turn.by.as_str())
            .arg(until.as_millis())
            .arg(now.as_millis());
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "held" => Ok(Begun::Held),
            "other" => Ok(Begun::Other(read(&turn.name, reply.list()?)?)),
            "yours" => match read(&turn.name, reply.list()?)? {
                Some(schedule) => Ok(Begun::Yours(schedule)),
                None => Err(corrupt(STEP, format!("schedule {} has no fields", turn.name))),
            },
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }

    async fn fire(&self, firing: &Firing, _now: Timestamp) -> Result<bool, StoreError> {
        const STEP: &str = "fire";
        let Firing { name, generation, slot, next, last, fired, missed, overlapped } = firing;
        let last = last.as_ref().map(|(slot, run)| (slot.to_string(), run.as_str()));
        let (last_slot, last_run) = last.unwrap_or_default();
        let mut script = self.schedules.fire.key(self.prefix.schedule(name));
        script
            .arg(*generation)
            .arg(slot.to_string())
            .arg(slot_text(*next))
            .arg(last_slot)
            .arg(last_run)
            .arg(*fired)
            .arg(*missed)
            .arg(*overlapped);
        Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?.flag()
    }

    async fn schedule(&self, name: &Id) -> Result<Option<Schedule>, StoreError> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.prefix.schedule(name)).arg(&FIELDS);
        read(name, Reply::new("schedule", self.connection.query("schedule", &cmd).await?)?)
    }

    async fn schedules(&self, after: Option<&Id>, limit: usize) -> Result<Vec<Schedule>, StoreError> {
        const STEP: &str = "schedules";
        let limit = limit.min(SCHEDULES_MAX);
        let mut found: Vec<Schedule> = Vec::new();
        let mut after = after.cloned();
        while found.len() < limit {
            let page = PAGE.min(limit - found.len());
            let from = after.as_ref().map_or_else(|| "-".to_owned(), |name| format!("({name}"));
            let mut cmd = redis::cmd("ZRANGEBYLEX");
            cmd.arg(self.prefix.schedules()).arg(from).arg("+").arg("LIMIT").arg(0).arg(page);
            let names: Vec<String> = self.connection.query(STEP, &cmd).await?;
            let names = names.iter().map(|name| Id::parse(name)).collect::<Result<Vec<Id>, _>>();
            let names = names.map_err(|error| corrupt(STEP, error.to_string()))?;
            let Some(last) = names.last() else { break };
            after = Some(last.clone());
            let mut pipeline = redis::pipe();
            for name in &names {
                pipeline.cmd("HMGET").arg(self.prefix.schedule(name)).arg(&FIELDS);
            }
            let answers: Vec<Value> = self.connection.pipeline(STEP, &pipeline).await?;
            for (name, answer) in names.iter().zip(answers) {
                let schedule = read(name, Reply::new(STEP, answer)?)?;
                found.extend(schedule.filter(|schedule| schedule.state != ScheduleState::Removed));
            }
        }
        Ok(found)
    }
}

fn slot_text(slot: Option<Timestamp>) -> String {
    slot.map(|slot| slot.to_string()).unwrap_or_default()
}

/// Reads [`FIELDS`]; `None` if there is no such schedule.
fn read(name: &Id, mut reply: Reply) -> Result<Option<Schedule>, StoreError> {
    let Some(generation) = reply.optional_text()? else { return Ok(None) };
    let generation =
        generation.parse().map_err(|_| reply.corrupt(format!("{generation:?} is no generation")))?;
    let state = reply.text()?;
    let state = ScheduleState::parse(&state)
        .ok_or_else(|| reply.corrupt(format!("{state:?} is no state of a schedule")))?;
    let definition = reply.bytes()?.unwrap_or_default();
    let armed = slot(&mut reply)?;
    let last_slot = reply.time()?;
    let last_run = reply.optional_text()?.map(|text| Id::parse(&text)).transpose();
    let last_run = last_run.map_err(|error| reply.corrupt(error.to_string()))?;
    let mut count = || -> Result<u64, StoreError> {
        let Some(text) = reply.optional_text()? else { return Ok(0) };
        text.parse().map_err(|_| corrupt(reply.step(), format!("{text:?} is not a count")))
    };
    let (fired, missed, overlapped) = (count()?, count()?, count()?);
    Ok(Some(Schedule {
        name: name.clone(),
        generation,
        state,
        definition,
        armed,
        last: last_slot.zip(last_run),
        fired,
        missed,
        overlapped,
        created_at: reply.time()?.unwrap_or_default(),
        changed_at: reply.time()?.unwrap_or_default(),
    }))
}

/// A slot, written as empty text where there is none.
fn slot(reply: &mut Reply) -> Result<Option<Timestamp>, StoreError> {
    let text = reply.optional_text()?.filter(|text| !text.is_empty());
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|_| reply.corrupt(format!("{text:?} is no slot")))
}
