use super::*;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Otherwise, TaskRecord};
use crate::wire::record::Head;

#[test]
fn a_workflow_is_drawn_with_lanes_states_times_and_reasons() {
    let mut tasks = vec![
        task("collect", TaskState::Completed, &[]),
        task("mean", TaskState::Completed, &["collect"]),
        task("extremes", TaskState::Running, &["collect"]),
        task("trend", TaskState::Delayed, &["collect"]),
        task("compare", TaskState::Waiting, &["mean", "extremes", "trend"]),
    ];
    tasks[2].attempts = 2;
    tasks[3].due = Some(Timestamp::from_millis(12_500));
    tasks[3].history =
        vec![r#"{"attempt": 1, "error": {"name": "TASK_TIMEOUT", "message": "too slow"}}"#.to_owned()];
    assert_eq!(
        draw(&workflow(tasks), &view()),
        "\
w1  running  \"Report\"  2 of 5 ended  10.00 s
✓ collect             completed     1.50 s
├─✓ mean              completed     1.50 s
├─│─▶ extremes        running       9.00 s  2 attempts
↻ │ │ trend           delayed               again in 2.50 s after [TASK_TIMEOUT] too slow
│ │ │
·─┴─╯ compare         waiting               for extremes, trend
"
    );
}

#[test]
fn many_tasks_that_are_alike_share_a_row_and_those_that_failed_are_named() {
    let mut tasks = vec![task("split", TaskState::Completed, &[])];
    let names: Vec<String> = (0..10_000).map(|n| format!("page-{n}")).collect();
    tasks.extend(names.iter().map(|name| task(name, TaskState::Completed, &["split"])));
    tasks[8].state = TaskState::Failed;
    tasks[10_000].state = TaskState::Queued;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    tasks.push(task("join", TaskState::Waiting, &names));
    assert_eq!(
        draw(&workflow(tasks), &view()),
        "\
w1  running  \"Report\"  10,000 of 10,002 ended  10.00 s
✓ split               completed     1.50 s
│
✗ page-0 … page-9999  10,000 tasks: 9,998 completed, 1 failed, 1 queued
│   ✗ page-7          failed        1.50 s
│
· join                waiting               for page-9999
"
    );
}

#[test]
fn what_a_task_has_planned_follows_it_folded() {
    let mut tasks = vec![task("pages", TaskState::Waiting, &[]), task("end", TaskState::Waiting, &["pages"])];
    for n in 0..12 {
        let state = if n < 10 { TaskState::Completed } else { TaskState::Running };
        tasks.insert(1 + n, child(&format!("pages.{n}"), "pages", state));
    }
    assert_eq!(
        draw(&workflow(tasks), &view()),
        "\
w1  running  \"Report\"  10 of 14 ended  10.00 s
· pages                   waiting               for 2 tasks of its own
│   ▶ pages.0 … pages.11  12 tasks: 10 completed, 2 running
│     ▶ pages.10          running       9.00 s
│     ▶ pages.11          running       9.00 s
│
· end                     waiting               for pages
"
    );
}

#[test]
fn a_graph_that_is_too_long_becomes_a_line_per_range_of_layers() {
    let names: Vec<String> = (0..1000).map(|n| format!("step-{n}")).collect();
    let mut tasks = vec![task("step-0", TaskState::Completed, &[])];
    for n in 1..1000 {
        let state = if n < 500 { TaskState::Completed } else { TaskState::Waiting };
        tasks.push(task(&names[n], state, &[&names[n - 1]]));
    }
    tasks[500].state = TaskState::Running;
    let drawn = draw(&workflow(tasks), &View { lines_max: Some(24), ..view() });
    assert_eq!(drawn.lines().count(), 13, "{drawn}");
    assert!(drawn.contains("✓ layers 1 to 100 "), "{drawn}");
    assert!(drawn.contains("▶ layers 501 to 600"), "{drawn}");
    assert!(drawn.contains("100 1 running, 99 waiting"), "{drawn}");
    assert!(drawn.contains("  ▶ step-500"), "{drawn}");
    assert!(drawn.ends_with("--all shows every task\n"), "{drawn}");
}

#[test]
fn every_task_is_shown_where_that_is_asked_for_also_without_lines() {
    let names: Vec<String> = (0..100).map(|n| format!("t{n}")).collect();
    let mut tasks: Vec<TaskRecord> = names.iter().map(|name| task(name, TaskState::Completed, &[])).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    tasks.push(task("end", TaskState::Completed, &names));
    let drawn = draw(&workflow(tasks), &View { lines_max: None, ..view() });
    assert_eq!(drawn.lines().count(), 102);
    assert!(drawn.ends_with("after t0, t1, t2 and 97 more\n"), "{drawn}");
}

#[test]
fn a_picture_keeps_within_its_height_and_width() {
    let tasks = (0..200).map(|n| child(&format!("a-long-name-{n}"), "nobody", TaskState::Failed)).collect();
    let view = View { lines_max: Some(6), width: Some(30), colour: true, ..view() };
    let drawn = draw(&workflow(tasks), &view);
    assert!(drawn.lines().count() <= 6, "{drawn}");
    for line in drawn.lines() {
        let plain = line.split('\x1b').map(|part| {
            part.split_once('m').map_or(part, |(code, rest)| if code.starts_with('[') { rest } else { part })
        });
        let plain: String = plain.collect();
        assert!(plain.chars().count() <= 30, "{plain:?} of {line:?}");
    }
}

#[test]
fn ascii_stands_for_box_drawing_and_colours_are_left_out() {
    let tasks = vec![
        task("a", TaskState::Completed, &[]),
        task("b", TaskState::Failed, &["a"]),
        task("c", TaskState::Skipped, &["a", "b"]),
    ];
    let drawn = draw(&workflow(tasks), &View { unicode: false, ..view() });
    assert!(drawn.is_ascii(), "{drawn}");
    assert!(drawn.contains("\n|-x b"), "{drawn}");
    assert!(drawn.contains("\no-' c"), "{drawn}");
}

#[test]
fn a_name_cannot_give_orders_to_the_terminal() {
    let mut tasks = vec![task("a", TaskState::Completed, &[])];
    tasks[0].head.name = "x\x1b[2J\ny".to_owned();
    let drawn = draw(&workflow(tasks), &view());
    assert!(drawn.contains("a (x·[2J·y)"), "{drawn:?}");
}

fn view() -> View {
    let now = Timestamp::from_millis(10_000);
    View { now, lines_max: Some(40), width: None, unicode: true, colour: false }
}

fn workflow(tasks: Vec<TaskRecord>) -> WorkflowRecord {
    WorkflowRecord {
        id: id("w1"),
        name: "Report".to_owned(),
        state: WorkflowState::Running,
        created_at: Timestamp::from_millis(0),
        ended_at: None,
        tasks,
    }
}

fn child(name: &str, parent: &str, state: TaskState) -> TaskRecord {
    TaskRecord { parent: Some(id(parent)), ..task(name, state, &[]) }
}

fn task(name: &str, state: TaskState, dependencies: &[&str]) -> TaskRecord {
    let started = state.is_ended() || state == TaskState::Running;
    TaskRecord {
        head: Head {
            key: TaskKey::within(id("w1"), id(name)),
            name: name.to_owned(),
            protocol: "echo/v1".to_owned(),
            method: "echo".to_owned(),
        },
        state,
        attempts: u32::from(started),
        crashes: 0,
        session: None,
        started_at: started.then(|| Timestamp::from_millis(1000)),
        ended_at: state.is_ended().then(|| Timestamp::from_millis(2500)),
        due: None,
        history: Vec::new(),
        dependencies: dependencies.iter().map(|name| (id(name), Otherwise::Fail)).collect(),
        parent: None,
        tolerated: false,
    }
}

fn id(text: &str) -> Id {
    Id::parse(text).expect("a valid id")
}
