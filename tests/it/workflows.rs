//! Workflows with all they can say, by the real binary: each story embedded and over real servers.

use serde_json::{Value, json};

use crate::place::Place;
use crate::support::{Embedded, Ran, task, until};

/// Runs a story where there is nothing but a state file, and where there are servers and two workers.
fn everywhere(story: impl Fn(&dyn Fn(&[&str]) -> Ran, &dyn Fn(&str, &str) -> String)) {
    let here = Embedded::new();
    story(&|args| here.run(args), &|name, text| here.write(name, text));
    let Some(place) = Place::new() else { return };
    let _workers = [place.worker(&[]), place.worker(&[])];
    story(&|args| place.run(args), &|name, text| place.write(name, text));
}

fn status<'a>(document: &'a Value, id: &str) -> &'a Value {
    &task(document, id)["status"]
}

#[test]
fn every_edge_says_what_a_failure_means() {
    everywhere(|run, write| {
        let file = write(
            "w.yaml",
            "name: Policies\n\
             tasks:\n\
             - {id: bad, method: echo/error, params: {message: no}}\n\
             - {id: skipped, method: echo/ping, dependencies: [{task: bad, on_failure: skip}]}\n\
             - {id: after_skipped, method: echo/ping, dependencies: [skipped]}\n\
             - id: null_seen\n  method: echo/echo\n  params: {message: \"got ${bad.response}, ${bad.status}\"}\n  \
             dependencies: [{task: bad, on_failure: continue}]\n\
             - id: default_seen\n  method: echo/echo\n  params: {message: \"got ${bad.response}\"}\n  \
             dependencies: [{task: bad, default: {response: 7}}]\n\
             - {id: joined, method: echo/ping, dependencies: [null_seen, {task: skipped, on_failure: continue}]}\n",
        );
        let document = run(&["run", &file, "--json"]).expect(0).json();
        assert_eq!(document["status"], "completed", "no edge of the failed task fails: {document}");
        assert_eq!(status(&document, "bad"), "failed");
        assert_eq!(status(&document, "skipped"), "skipped");
        assert_eq!(status(&document, "after_skipped"), "skipped");
        assert_eq!(task(&document, "null_seen")["result"]["response"], "got null, failed");
        assert_eq!(task(&document, "default_seen")["result"]["response"], "got 7");
        assert_eq!(status(&document, "joined"), "completed");
    });
}

#[test]
fn a_task_that_is_not_critical_does_not_fail_its_workflow() {
    everywhere(|run, write| {
        let file = write(
            "w.yaml",
            "name: Tolerant\ntasks:\n\
             - {id: a, method: echo/error, params: {message: no}, critical: false}\n\
             - {id: b, method: echo/ping}\n",
        );
        let document = run(&["run", &file, "--json"]).expect(0).json();
        assert_eq!((&document["status"], status(&document, "a")), (&json!("completed"), &json!("failed")));
    });
}

#[test]
fn a_condition_on_results_decides_whether_a_task_runs() {
    everywhere(|run, write| {
        let file = write(
            "w.yaml",
            "name: Conditions\ntasks:\n\
             - {id: sum, method: mcp/tool.add, params: {a: 2, b: 3}}\n\
             - {id: big, method: echo/ping, dependencies: [sum], when: \"${sum.result} > 10\"}\n\
             - {id: small, method: echo/ping, dependencies: [sum], when: \"${sum.result} <= 10 and ${sum.status} == 'completed'\"}\n\
             - {id: after_big, method: echo/ping, dependencies: [big]}\n\
             - {id: always, method: echo/ping, dependencies: [{task: big, on_failure: continue}, small]}\n",
        );
        let document = run(&["run", &file, "--json"]).expect(0).json();
        let states: Vec<&Value> =
            ["sum", "big", "small", "after_big", "always"].map(|id| status(&document, id)).to_vec();
        assert_eq!(json!(states), json!(["completed", "skipped", "completed", "skipped", "completed"]));
        assert!(
            task(&document, "big")["metadata"]["reason"].as_str().is_some_and(|why| why.contains("> 10"))
        );
    });
}

#[test]
fn a_task_runs_once_for_each_item_and_its_result_is_the_list() {
    everywhere(|run, write| {
        let file = write(
            "w.yaml",
            "name: Items\ntasks:\n\
             - {id: load, method: python/execute, params: {code: \"[{'n': n, 't': '${secret}'} for n in range(5)]\"}}\n\
             - id: each\n  method: echo/echo\n  dependencies: [load]\n  for_each: ${load.result}\n  max_parallel: 2\n  \
             params: {message: \"${index}: ${item.n} ${item.t}\"}\n\
             - {id: all, method: echo/echo, dependencies: [each], params: {message: \"${each.3.response}\"}}\n\
             - {id: none, method: echo/ping, for_each: []}\n",
        );
        // A literal reference in code is refused, so the text comes from where references mean nothing.
        let text =
            std::fs::read_to_string(&file).expect("a file").replace("'${secret}'", "'$' + '{load.result}'");
        std::fs::write(&file, text).expect("a file");
        let document = run(&["run", &file, "--json"]).expect(0).json();
        assert_eq!(document["tasks"].as_array().map(Vec::len), Some(4), "items are not tasks of the file");
        let each = task(&document, "each")["result"].as_array().expect("a list").clone();
        let texts: Vec<&Value> = each.iter().map(|one| &one["response"]).collect();
        assert_eq!(texts[3], "3: 3 ${load.result}", "a result that looks like a reference is text");
        assert_eq!(texts.len(), 5);
        assert_eq!(task(&document, "all")["result"]["response"], "3: 3 ${load.result}");
        assert_eq!(task(&document, "none")["result"], json!([]));
        assert_eq!(task(&document, "each")["attempts"], 1);
    });
}

#[test]
fn one_failed_item_fails_the_task_after_all_have_run() {
    everywhere(|run, write| {
        let file = write(
            "w.yaml",
            "name: Items\ntasks:\n\
             - id: each\n  method: python/execute\n  for_each: [1, 0, 2]\n  \
             params: {context: {n: \"${item}\"}, code: \"6 // n\"}\n",
        );
        let ran = run(&["run", &file, "--id", "one-failed-item", "--json"]).expect(5);
        let document = ran.json();
        let error = &task(&document, "each")["error"];
        assert!(error["message"].as_str().is_some_and(|text| text.contains("1 of 3 items")), "{error}");
        assert_eq!(error["details"]["failed"][0]["id"], "each.1");
        let item = run(&["result", "one-failed-item/each.2", "--json"]).expect(0).json();
        assert_eq!(item["result"]["result"], 3);
    });
}

#[test]
fn a_workflow_is_a_task_of_another_one() {
    everywhere(|run, write| {
        let file = write(
            "w.yaml",
            "name: Outer\ntasks:\n\
             - {id: first, method: mcp/tool.add, params: {a: 1, b: 2}}\n\
             - id: inner\n  dependencies: [first]\n  params: {start: \"${first.result}\"}\n  workflow:\n    \
             name: Inner\n    parameters: {start: {type: number}}\n    tasks:\n    \
             - {id: twice, method: mcp/tool.multiply, params: {a: \"${start}\", b: 2}}\n    \
             - {id: more, method: mcp/tool.add, dependencies: [twice], params: {a: \"${twice.result}\", b: 1}}\n\
             - {id: last, method: echo/echo, dependencies: [inner], params: {message: \"${inner.more.result}\"}}\n",
        );
        let document = run(&["run", &file, "--json"]).expect(0).json();
        assert_eq!(task(&document, "inner")["result"]["more"]["result"], 7);
        assert_eq!(task(&document, "last")["result"]["response"], 7);
    });
}

#[test]
fn a_workflow_ends_when_its_time_is_over() {
    everywhere(|run, write| {
        let file = write(
            "w.yaml",
            "name: Slow\ntimeout: 1\ntasks:\n\
             - {id: quick, method: echo/ping}\n\
             - {id: slow, method: python/execute, params: {code: \"import time; time.sleep(100)\"}, timeout: 200, dependencies: [quick]}\n\
             - {id: after, method: echo/ping, dependencies: [slow]}\n",
        );
        let started = std::time::Instant::now();
        let document = run(&["run", &file, "--json"]).expect(5).json();
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "it did not wait for the slow task");
        assert_eq!(document["status"], "failed");
        assert_eq!(document["error"]["name"], "WORKFLOW_TIMEOUT");
        let states = ["quick", "slow", "after"].map(|id| status(&document, id).clone());
        assert_eq!(json!(states), json!(["completed", "cancelled", "cancelled"]));
    });
}

#[test]
fn a_retry_by_hand_runs_only_what_failed_and_what_depends_on_it() {
    everywhere(|run, write| {
        let ledger = write("ledger", "");
        let step = |id: &str, after: &str, code: &str| {
            format!(
                "- id: {id}\n  method: python/execute\n  dependencies: [{after}]\n  params:\n    context: {{path: {ledger:?}}}\n    \
                 code: |\n      import os\n      open(path, 'a').write('{id} ')\n      {code}\n"
            )
        };
        let file = write(
            "w.yaml",
            &format!(
                "name: Again\ntasks:\n{}{}{}",
                step("good", "", "1"),
                step("bad", "good", "1 / (os.path.exists(path + '.mended') and 1 or 0)"),
                step("after", "bad", "2"),
            ),
        );
        run(&["run", &file, "--id", "again"]).expect(5);
        std::fs::write(format!("{ledger}.mended"), "").expect("a file");
        run(&["retry", "again", "--wait"]).expect(0);
        let document = run(&["result", "again", "--json"]).expect(0).json();
        assert_eq!(document["status"], "completed");
        let ran = std::fs::read_to_string(&ledger).expect("the ledger");
        assert_eq!(ran, "good bad bad after ", "what had completed is not run again");
    });
}

#[test]
fn no_more_tasks_run_at_once_than_the_workflow_allows() {
    everywhere(|run, write| {
        let ledger = write("ledger", "");
        let step = |id: usize| {
            format!(
                "- id: s{id}\n  method: python/execute\n  params:\n    context: {{path: {ledger:?}}}\n    code: |\n      \
                 import time\n      open(path, 'a').write('+')\n      time.sleep(0.15)\n      open(path, 'a').write('-')\n"
            )
        };
        let tasks: String = (0..6).map(step).collect();
        let file = write("w.yaml", &format!("name: Turns\nmax_parallel: 2\ntasks:\n{tasks}"));
        run(&["run", &file]).expect(0);
        let mut open = 0_i32;
        let mut most = 0;
        for sign in std::fs::read_to_string(&ledger).expect("the ledger").chars() {
            open += if sign == '+' { 1 } else { -1 };
            most = most.max(open);
        }
        assert_eq!((open, most <= 2, most >= 1), (0, true, true), "at most two at once, saw {most}");
    });
}

#[test]
fn two_workflows_with_equal_task_names_that_run_at_once_do_not_see_each_other() {
    everywhere(|run, write| {
        let seen = ["one", "two"].map(|word| write(&format!("{word}.seen"), ""));
        // Each goes on when the other one has begun, so that both run at once.
        let text = |word: &str, mine: &str, other: &str| {
            format!(
                "name: {word}\ntasks:\n- {{id: a, method: echo/echo, params: {{message: {word}}}}}\n\
                 - id: meet\n  method: python/execute\n  dependencies: [a]\n  timeout: 60\n  params:\n    \
                 context: {{mine: {mine:?}, other: {other:?}, word: \"${{a.response}}\"}}\n    code: |\n      \
                 import os, time\n      open(mine, 'w').write(word)\n      \
                 while not os.path.getsize(other): time.sleep(0.02)\n      word\n\
                 - {{id: b, method: echo/echo, params: {{message: \"${{a.response}} ${{meet.result}}\"}}, dependencies: [a, meet]}}\n"
            )
        };
        for (word, mine, other) in [("one", &seen[0], &seen[1]), ("two", &seen[1], &seen[0])] {
            let file = write(&format!("{word}.yaml"), &text(word, mine, other));
            run(&["submit", &file, "--id", word]).expect(0);
        }
        // Where nobody else is there, this executes both; elsewhere the workers do.
        run(&["resume"]);
        for word in ["one", "two"] {
            let document = run(&["result", word, "--wait", "--timeout", "240", "--json"]).expect(0).json();
            assert_eq!(task(&document, "b")["result"]["response"], format!("{word} {word}"));
        }
    });
}

#[test]
fn no_provider_receives_a_reference() {
    everywhere(|run, write| {
        let ledger = write("ledger", "");
        let file = write(
            "w.yaml",
            &format!(
                "name: Filled\nparameters: {{who: {{type: string, default: you}}}}\ntasks:\n\
                 - {{id: src, method: python/execute, params: {{code: \"{{'n': 3, 't': 'x', 'l': [1, 2], 'none': None}}\"}}}}\n\
                 - id: sees\n  method: python/execute\n  dependencies: [src]\n  params:\n    context:\n      \
                 ledger: {ledger:?}\n      all: ${{src.result}}\n      number: ${{src.result.n}}\n      \
                 item: ${{src.result.l.1}}\n      none: ${{src.result.none}}\n      text: \"n is ${{src.result.n}}, ${{who}}\"\n      \
                 deep: [{{state: \"${{src.status}}\"}}]\n    code: |\n      \
                 import json\n      got = json.dumps([all, number, item, none, text, deep])\n      \
                 open(ledger, 'a').write(got)\n      got\n"
            ),
        );
        run(&["run", &file]).expect(0);
        let got = std::fs::read_to_string(&ledger).expect("the ledger");
        let expected = json!([
            {"n": 3, "t": "x", "l": [1, 2], "none": null}, 3, 2, null, "n is 3, you", [{"state": "completed"}]
        ]);
        assert_eq!(serde_json::from_str::<Value>(&got).expect("JSON"), expected);
    });
}

#[test]
fn a_reference_to_nothing_fails_before_any_provider_is_asked() {
    everywhere(|run, write| {
        let ledger = write("ledger", "");
        let file = write(
            "w.yaml",
            &format!(
                "name: Empty\ntasks:\n- {{id: src, method: python/execute, params: {{code: \"{{'n': 3}}\"}}}}\n\
                 - id: bad\n  method: python/execute\n  dependencies: [src]\n  params:\n    \
                 context: {{ledger: {ledger:?}, x: \"${{src.result.nothing}}\"}}\n    \
                 code: open(ledger, 'a').write(repr(x))\n"
            ),
        );
        let document = run(&["run", &file, "--json"]).expect(5).json();
        let bad = task(&document, "bad");
        assert_eq!(
            (&bad["error"]["name"], &bad["provider_id"]),
            (&json!("TASK_PARAMETER_ERROR"), &Value::Null)
        );
        assert_eq!(std::fs::read_to_string(&ledger).expect("the ledger"), "");
    });
}

#[test]
fn another_body_under_the_same_idempotency_key_is_reported() {
    let here = Embedded::new();
    let text = |word: &str| {
        format!(
            "name: W\nidempotency_key: k\ntasks:\n- {{id: a, method: echo/echo, params: {{message: {word}}}}}\n"
        )
    };
    let (one, two) = (here.write("one.yaml", &text("one")), here.write("two.yaml", &text("two")));
    let id = here.run(&["submit", &one]).expect(0).stdout;
    let same = here.run(&["submit", &one]).expect(0);
    assert_eq!((&same.stdout, same.stderr.contains("idempotency")), (&id, false));
    let other = here.run(&["submit", &two]).expect(0);
    assert_eq!(other.stdout, id);
    assert!(other.stderr.contains("idempotency key"), "{other:?}");
}

#[test]
fn a_killed_run_goes_on_in_the_middle_of_its_items() {
    let here = Embedded::new();
    let ledger = here.write("ledger", "");
    let file = here.write(
        "w.yaml",
        &format!(
            "name: Killed\ntasks:\n- id: each\n  method: python/execute\n  for_each: [1, 2, 3, 4]\n  max_parallel: 1\n  params:\n    \
             context: {{path: {ledger:?}, n: \"${{item}}\"}}\n    code: |\n      import time\n      time.sleep(0.2)\n      \
             open(path, 'a').write(str(n))\n      n\n"
        ),
    );
    let mut command = here.command(&["run", &file, "--id", "killed"]);
    let null = std::process::Stdio::null;
    let mut run =
        crate::support::Running(command.stdout(null()).stderr(null()).spawn().expect("the binary starts"));
    until("the second item", || std::fs::read_to_string(&ledger).is_ok_and(|text| text.len() >= 2));
    run.kill();
    here.run(&["resume", "killed"]).expect(0);
    let document = here.run(&["result", "killed", "--json"]).expect(0).json();
    let results: Vec<&Value> = task(&document, "each")["result"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["result"])
        .collect();
    assert_eq!(json!(results), json!([1, 2, 3, 4]));
}

#[test]
fn results_that_the_document_leaves_out_are_in_the_output() {
    let here = Embedded::new();
    // Five of almost 4 MB are more than a document of 16 MiB holds.
    let tasks: String = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|id| format!("- {{id: {id}, method: python/execute, params: {{code: \"'{id}' * 3900000\"}}}}\n"))
        .collect();
    let file = here.write("w.yaml", &format!("name: Large\ntasks:\n{tasks}"));
    for suffix in ["csv", "json"] {
        let out = here.path(&format!("out.{suffix}")).to_string_lossy().into_owned();
        let ran = here.run(&["run", &file, "--output", &out]).expect(0);
        let written = std::fs::read_to_string(&out).expect("it was written");
        for id in ["a", "b", "c", "d", "e"] {
            assert!(written.contains(&id.repeat(3_900_000)), "{id} is not whole in {suffix}");
        }
        assert!(ran.stdout.contains("(see gleitzeit result "), "a document left one out: {}", ran.stderr);
    }
}
