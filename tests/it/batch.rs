//! Batches that ask models, and batches over servers.

use serde_json::{Value, json};
use std::process::Stdio;

use crate::ollama_server::Ollama;
use crate::place::Place;
use crate::support::{Embedded, Ran, Running};

/// A folder with two texts and a picture; its path.
fn folder(write: &dyn Fn(&str, &str) -> String) -> String {
    write("data/a.txt", "alpha");
    write("data/b.txt", "beta");
    write("data/c.png", "no real picture").replace("/c.png", "")
}

#[test]
fn a_prompt_is_asked_about_each_text_and_each_picture() {
    let (here, ollama) = (Embedded::new(), Ollama::start());
    std::fs::create_dir(here.path("data")).expect("a folder");
    let data = folder(&|name, text| here.write(name, text));
    let config = here.write(
        "config.toml",
        &format!("[ollama]\nurl = {:?}\n[llm]\nread_paths = [{data:?}]\n", ollama.url()),
    );
    let ask = |flags: &[&str]| {
        let args =
            [&["--config", &config, "batch", &data, "--prompt", "Cost of ${x} in words"], flags].concat();
        Ran::of(here.command(&[&args[..], &["--json"]].concat()).output().expect("the binary starts"))
    };
    let document = ask(&["--pattern", "*.txt", "--model", "m"]).expect(0).json();
    let results = document["results"].as_object().expect("results by file");
    let names: Vec<&str> = results.keys().map(String::as_str).collect();
    assert_eq!(names, [format!("{data}/a.txt"), format!("{data}/b.txt")]);
    assert_eq!(document["parameters"]["prompt"], "Cost of ${x} in words");
    let mut asked: Vec<String> = ollama.asked().iter().map(|asked| asked.body.to_string()).collect();
    asked.sort();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for text in ["alpha", "beta"] {
        let about =
            asked.iter().find(|body| body.contains(text)).unwrap_or_else(|| panic!("{text}: {asked:?}"));
        assert!(about.contains("Cost of ${x} in words"), "a prompt is text: {about}");
    }
    assert!(results.values().all(|result| result["status"] == "success"), "{document}");

    let document = ask(&["--pattern", "*.{png,jpg}", "--vision", "--model", "v"]).expect(0).json();
    assert_eq!(document["summary"]["successful"], json!(1), "{document}");
    let last = ollama.asked().pop().expect("a request").body;
    assert!(last.to_string().contains("bm8gcmVhbCBwaWN0dXJl"), "the picture goes along: {last}");
    // A model that is not there fails its files, with exit 5 and the reason.
    let document = ask(&["--pattern", "a.txt", "--model", "absent"]).expect(5).json();
    let result = document["results"].as_object().and_then(|results| results.values().next()).expect("one");
    assert_eq!(result["status"], "error", "{document}");
}

#[test]
fn files_that_models_may_not_see_are_refused_with_what_would_allow_them() {
    let (here, ollama) = (Embedded::new(), Ollama::start());
    std::fs::create_dir(here.path("data")).expect("a folder");
    let data = folder(&|name, text| here.write(name, text));
    let setting = format!("GLEITZEIT_LLM_READ_PATHS={data}");
    for flags in [&["--pattern", "*.txt"][..], &["--pattern", "*.png", "--vision"]] {
        let ask = |allowed: Option<&str>| {
            let args = [&["batch", &data, "--prompt", "Who?", "--model", "m"], flags].concat();
            let mut command = here.command(&args);
            command.env("GLEITZEIT_OLLAMA_URL", ollama.url());
            command.envs(allowed.map(|folder| ("GLEITZEIT_LLM_READ_PATHS", folder)));
            Ran::of(command.output().expect("the binary starts"))
        };
        let refused = ask(None).expect(5);
        assert!(refused.stdout.contains(&format!("{setting} where the task runs")), "{refused:?}");
        assert!(refused.stdout.contains(&format!("read_paths = [{data:?}]")), "{refused:?}");
        assert_eq!(ollama.asked().len(), 0, "nothing was sent");
        let elsewhere = ask(Some("/nonexistent")).expect(5);
        assert!(
            elsewhere.stdout.contains(&format!("add {data:?} to read_paths under [llm]")),
            "{elsewhere:?}"
        );
    }
    let mut command = here.command(&["batch", &data, "--prompt", "Who?", "--pattern", "*.txt", "--json"]);
    command.env("GLEITZEIT_OLLAMA_URL", ollama.url()).env("GLEITZEIT_LLM_READ_PATHS", &data);
    Ran::of(command.output().expect("the binary starts")).expect(0);
}

#[test]
fn a_batch_over_servers_is_done_by_workers_and_taken_up_again() {
    let Some(place) = Place::new() else { return };
    let _workers = [place.worker(&[]), place.worker(&[])];
    std::fs::create_dir(place.path("data")).expect("a folder");
    for (name, text) in [("a.txt", "one"), ("b.txt", "two words"), ("c.txt", "bad")] {
        place.write(&format!("data/{name}"), text);
    }
    let data = place.path("data").to_string_lossy().into_owned();
    let script = place
        .write("count.py", "words = open(file_path).read().split()\nassert words != ['bad']\nlen(words)\n");
    let document = place.run(&["batch", &data, "--script", &script, "--json"]).expect(5).json();
    let of = |document: &Value, name: &str| document["results"][format!("{data}/{name}")].clone();
    assert_eq!(of(&document, "b.txt"), json!({"status": "success", "content": 2}), "{document}");
    assert_eq!(of(&document, "c.txt")["status"], "error");
    place.write("data/c.txt", "good at last now");
    let id = document["batch_id"].as_str().expect("an id");
    let again = place.run(&["batch", "--resume", id, "--json"]).expect(0).json();
    assert_eq!(
        (of(&again, "c.txt")["content"].clone(), of(&again, "a.txt")["content"].clone()),
        (json!(4), json!(1))
    );
}

#[test]
fn a_batch_over_servers_goes_on_without_who_started_it() {
    let Some(place) = Place::new() else { return };
    std::fs::create_dir(place.path("data")).expect("a folder");
    place.write("data/a.txt", "one");
    let data = place.path("data").to_string_lossy().into_owned();
    let script = place.write("read.py", "open(file_path).read()\n");
    let mut command = place.command(&["batch", &data, "--script", &script, "--timeout", "0.5", "--json"]);
    let started = Ran::of(command.stdin(Stdio::null()).output().expect("the binary starts")).expect(6).json();
    let id = started["batch_id"].as_str().expect("an id");
    let _worker: Running = place.worker(&[]);
    let document = place.run(&["batch", "--resume", id, "--json"]).expect(0).json();
    assert_eq!(document["summary"]["successful"], json!(1), "{document}");
}
