//! `dead show`: everything that a letter tells, in the order in which a person asks for it.

use serde_json::Value;
use std::fmt::Write;

use super::args::{Asked, Show};
use super::list::{code_of, deaths, what};
use super::{hold, unknown};
use crate::cli::print;
use crate::dead::{Keep, Letter};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::wire::envelope::{Envelope, Original};

/// How many are shown unless something else is said.
const SHOWN: usize = 20;
/// How much of the original message is shown to a person, in characters; `--json` has all of it.
const BODY_CHARACTERS: usize = 4_000;
/// How much of a history is shown to a person, in attempts.
const ATTEMPTS: usize = 20;
/// What to do about each code.
const ADVICE: &str = include_str!("../../../docs/errors.md");

/// `gleitzeit dead show`
pub(super) async fn show(runtime: &Runtime, args: &Show, asked: &Asked, json: bool) -> Result<u8, Error> {
    let mut look = hold(runtime, asked, Keep::Whole).await?;
    let chosen = look.take(|letter| asked.filter.takes(letter));
    unknown(asked, &chosen, look.has_more)?;
    let deaths = deaths(&chosen);
    let limit = args.which.limit.map_or(SHOWN, |limit| limit as usize);
    let shown = &deaths[deaths.len().saturating_sub(limit)..];
    if json {
        let documents: Vec<Value> = shown.iter().map(|(letter, _)| letter.to_json()).collect();
        print::json(&match <[Value; 1]>::try_from(documents) {
            Ok([one]) => one,
            Err(several) => Value::Array(several),
        });
    } else {
        let texts: Vec<String> = shown.iter().map(|(letter, _)| text(letter)).collect();
        print::bytes(texts.join("\n").as_bytes());
        match deaths.len() - shown.len() {
            _ if deaths.is_empty() => print::note("no dead letter is meant by that"),
            0 => {}
            left_out => print::note(&format!("{left_out} older ones not shown: --limit")),
        }
    }
    look.release(chosen).await;
    Ok(0)
}

fn text(letter: &Letter) -> String {
    let Some(envelope) = &letter.envelope else {
        return format!("{}: no dead letter of ours; `gleitzeit dead drop {0}`\n", letter.name);
    };
    let mut out = String::new();
    // Writing to a text cannot fail.
    let _ = write_letter(&mut out, letter, envelope);
    print::printable_lines(&out)
}

fn write_letter(out: &mut String, letter: &Letter, envelope: &Envelope) -> std::fmt::Result {
    writeln!(out, "{}  {}  {}", letter.label(), what(letter), code_of(letter))?;
    writeln!(out, "  {}", envelope.failure.message.replace('\n', "\n  "))?;
    if let Some(advice) = advice(code_of(letter)) {
        writeln!(out, "do: {advice}")?;
    }
    writeln!(out, "died: {} in {}", envelope.died_at, envelope.queue)?;
    writeln!(out, "letter: {} in gleitzeit.dead.{}", letter.name, letter.address)?;
    if envelope.replays > 0 {
        writeln!(out, "replayed: {} times before", envelope.replays)?;
    }
    let known = |who: &Option<String>| who.clone().unwrap_or_else(|| "-".to_owned());
    writeln!(out, "worker: {}  provider: {}", known(&envelope.worker), known(&envelope.provider))?;
    write_history(out, &envelope.history)?;
    let output = &envelope.output;
    let traceback = envelope.failure.details.get("traceback").and_then(Value::as_str).unwrap_or_default();
    if !output.stderr.contains(traceback.trim_end()) {
        write_block(out, "traceback", traceback)?;
    }
    write_block(out, "stdout", &output.stdout)?;
    write_block(out, "stderr", &output.stderr)?;
    write_original(out, &envelope.original)
}

fn write_history(out: &mut String, history: &[Value]) -> std::fmt::Result {
    let left_out = history.len().saturating_sub(ATTEMPTS);
    if left_out > 0 {
        writeln!(out, "attempts: {left_out} earlier ones not shown")?;
    }
    for entry in &history[left_out..] {
        let field = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("-");
        let attempt = entry.get("attempt").map(Value::to_string).unwrap_or_default();
        write!(out, "attempt {attempt}: {} from {} ", field("status"), field("started_at"))?;
        write!(out, "to {} by {}", field("ended_at"), field("worker_id"))?;
        if let Some(error) = entry.get("error").filter(|error| !error.is_null()) {
            let name = error.get("name").and_then(Value::as_str).unwrap_or_default();
            let message = error.get("message").unwrap_or(&Value::Null);
            write!(out, ": [{name}] {}", print::brief(message, 200))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_block(out: &mut String, name: &str, text: &str) -> std::fmt::Result {
    if text.is_empty() {
        return Ok(());
    }
    writeln!(out, "{name}:")?;
    text.lines().try_for_each(|line| writeln!(out, "  {line}"))
}

fn write_original(out: &mut String, original: &Original) -> std::fmt::Result {
    let properties = &original.properties;
    let mut beside = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        beside.extend(value.map(|value| format!("{name} {value}")));
    };
    add("message_id", properties.message_id.clone());
    add("priority", properties.priority.map(|priority| priority.to_string()));
    add("reply_to", properties.reply_to.clone());
    for (name, value) in &properties.headers {
        add(name, Some(value.clone()));
    }
    for (name, value) in &properties.other_headers {
        add(name, Some(value.to_string()));
    }
    writeln!(out, "message: {} bytes {}", original.bytes, beside.join(", "))?;
    if !original.is_whole() {
        writeln!(out, "  only its beginning was kept")?;
    }
    let body = match serde_json::from_slice::<Value>(&original.body) {
        Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_default(),
        Err(_) => String::from_utf8_lossy(&original.body).into_owned(),
    };
    let shown: String = body.chars().take(BODY_CHARACTERS).collect();
    shown.lines().try_for_each(|line| writeln!(out, "  {line}"))?;
    if shown.len() < body.len() {
        writeln!(out, "  ... (--json has all of it)")?;
    }
    Ok(())
}

/// What `docs/errors.md` says to do, in one line.
fn advice(code: &str) -> Option<String> {
    let (_, section) = ADVICE.split_once(&format!("\n## {code}\n"))?;
    let section = section.split("\n## ").next()?.split("\n# ").next()?;
    let (_, advice) = section.split_once("**Do:**")?;
    let advice = advice.split("\n\n").next()?;
    Some(advice.split_whitespace().collect::<Vec<&str>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::code::Code;

    #[test]
    fn there_is_advice_for_every_code() {
        let is_reserved = |code: &str| {
            ADVICE.contains(&format!("\n## {code}\n\n")) && {
                let section = ADVICE.split_once(&format!("\n## {code}\n")).map_or("", |(_, rest)| rest);
                section.split("\n## ").next().is_some_and(|section| section.contains("Reserved:"))
            }
        };
        for code in Code::ALL.iter().filter(|code| !is_reserved(code.name())) {
            let advice = advice(code.name()).unwrap_or_default();
            assert!(!advice.is_empty() && !advice.contains("##"), "{code}: {advice:?}");
        }
    }
}
