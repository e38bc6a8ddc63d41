//! `schedule list` and `schedule show`: what there is, and what became of it.

use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::args::{List, Show};
use super::{next_slots, unknown};
use crate::cli::print;
use crate::config::Config;
use crate::core::id::{Id, TaskKey};
use crate::error::Error;
use crate::runtime::State;
use crate::store::{SCHEDULES_MAX, Schedule, ScheduleState, Store};
use crate::wire::schedule::{Definition, Work};

/// Most slots that are shown.
const NEXT_MAX: usize = 1000;

pub(super) async fn list(config: Config, args: &List, json: bool) -> Result<u8, Error> {
    let after = args.after.as_deref().map(Id::parse).transpose()?;
    let limit = args.limit.min(SCHEDULES_MAX);
    let state = State::open(&config).await?;
    let mut rows = Vec::new();
    for schedule in state.store.schedules(after.as_ref(), limit).await? {
        let status = last_status(&state.store, &schedule).await?;
        rows.push(row(&schedule, status.as_deref()));
    }
    state.close().await;
    if json {
        print::json(&Value::Array(rows.into_iter().map(Value::Object).collect()));
        return Ok(0);
    }
    for row in &rows {
        let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let count = |key: &str| row.get(key).and_then(Value::as_u64).unwrap_or_default();
        print::line(&format!(
            "{:<20}  {:<7}  {:<18}  {:<14}  next {:<24}  last {:<24}  {} {}  fired {} missed {} overlapped {}  {}",
            text("name"),
            text("state"),
            text("cron"),
            text("zone"),
            text("next"),
            text("last_slot"),
            text("last_id"),
            text("last_status"),
            count("fired"),
            count("missed"),
            count("overlapped"),
            print::printable(&text("runs")),
        ));
    }
    if rows.is_empty() {
        print::note("no schedules");
    }
    Ok(0)
}

pub(super) async fn show(config: Config, args: &Show, json: bool) -> Result<u8, Error> {
    let name = Id::parse(&args.name)?;
    let state = State::open(&config).await?;
    let there = state.store.schedule(&name).await?;
    let Some(there) = there.filter(|there| there.state != ScheduleState::Removed) else {
        return Err(unknown(&name));
    };
    let status = last_status(&state.store, &there).await?;
    state.close().await;
    let definition = Definition::decode(&there.definition)?;
    let mut document = row(&there, status.as_deref());
    document.extend(definition.members());
    document.insert("generation".to_owned(), there.generation.into());
    document.insert("created_at".to_owned(), json!(there.created_at));
    document.insert("changed_at".to_owned(), json!(there.changed_at));
    let slots = if there.state == ScheduleState::Active {
        next_slots(&definition, args.next.min(NEXT_MAX))
    } else {
        Vec::new()
    };
    document.insert("next_slots".to_owned(), Value::Array(slots));
    if json {
        print::json(&Value::Object(document));
        return Ok(0);
    }
    for (key, value) in &document {
        match value {
            Value::Array(slots) => print_slots(slots),
            Value::String(text) => print::line(&format!("{key:<12} {}", print::printable(text))),
            Value::Null => print::line(&format!("{key:<12} -")),
            other => print::line(&format!("{key:<12} {}", print::brief(other, 200))),
        }
    }
    Ok(0)
}

/// Tells of a schedule that was added.
pub(super) fn added(schedule: &Schedule, definition: &Definition, next: usize, json: bool) {
    let slots = next_slots(definition, next);
    if json {
        let mut document = row(schedule, None);
        document.insert("generation".to_owned(), schedule.generation.into());
        document.insert("next_slots".to_owned(), Value::Array(slots));
        return print::json(&Value::Object(document));
    }
    print::line(&format!("schedule {}: {}", schedule.name, definition.what()));
    print_slots(&slots);
}

/// Tells of a schedule that was paused, resumed or removed.
pub(super) fn changed(schedule: &Schedule, json: bool) {
    if json {
        let (name, state) = (&schedule.name, schedule.state.name());
        return print::json(&json!({"name": name, "state": state, "next": schedule.armed}));
    }
    let next = schedule.armed.map(|next| format!(", next {next}")).unwrap_or_default();
    print::line(&format!("schedule {} is {}{next}", schedule.name, schedule.state.name()));
}

fn print_slots(slots: &[Value]) {
    for slot in slots {
        let text = |key: &str| slot.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        print::line(&format!("{:<12} {}  ({})", "next", text("local"), text("utc")));
    }
}

fn row(schedule: &Schedule, last_status: Option<&str>) -> Map<String, Value> {
    let definition = Definition::decode(&schedule.definition).ok();
    let timetable = definition.as_ref().map(|definition| &definition.rules.timetable);
    let last = schedule.last.as_ref();
    let row = json!({
        "name": schedule.name,
        "state": schedule.state.name(),
        "cron": timetable.map(|timetable| timetable.cron()),
        "zone": timetable.map(|timetable| timetable.zone()),
        "runs": definition.as_ref().map(Definition::what),
        "next": schedule.armed,
        "last_slot": last.map(|(slot, _)| slot),
        "last_id": last.map(|(_, id)| id),
        "last_status": last_status,
        "fired": schedule.fired,
        "missed": schedule.missed,
        "overlapped": schedule.overlapped,
    });
    match row {
        Value::Object(row) => row,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// Where the last run is; `None` if there was none, or nothing is known of it any more.
async fn last_status(store: &Arc<dyn Store>, schedule: &Schedule) -> Result<Option<String>, Error> {
    let Some((_, id)) = &schedule.last else { return Ok(None) };
    let is_workflow =
        matches!(Definition::decode(&schedule.definition), Ok(Definition { work: Work::Workflow(_), .. }));
    if is_workflow {
        let workflow = store.workflow(id).await?;
        return Ok(workflow.map(|workflow| workflow.state.name().to_owned()));
    }
    let task = store.task(&TaskKey::alone(id.clone())).await?;
    Ok(task.map(|task| task.state.name().to_owned()))
}
