//! The limits that are configured: `[limits.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use toml::Value;

use super::{Config, Origin};
use crate::core::limit::{Cost, Key, Pace, Rule, Scope, rate};
use crate::core::near::did_you_mean;
use crate::core::protocol::ProtocolId;

/// What keys of limits start with; then the limit's name, then what is said of it.
pub(super) const LIMITS: &str = "limits.";

/// What can be said of a limit, and how.
const KEYS: [(&str, &str); 9] = [
    ("protocol", "a protocol, such as \"llm/v1\""),
    ("method", "a method of the protocol"),
    ("provider", "the name of a provider instance"),
    ("key", "a path into the parameters (params.model) or a header (header:x-tenant)"),
    ("rate", "a rate, such as \"100/s\""),
    ("burst", "a number of 1 or more"),
    ("scope", "\"global\" or \"local\""),
    ("cost", "\"1\", a path into the parameters (params.size) or \"llm_tokens\""),
    ("estimate", "a number of 1 or more"),
];
/// The longest name.
const NAME_MAX: usize = 64;
/// Without another word a burst is what comes in this many seconds: enough for a worker that is late by so much.
const BURST_SECONDS: f64 = 0.1;
/// What comes in this many seconds is the most that a burst may be where calls cost differently: what is dear waits so
/// long for it, and where it cannot wait in the broker, that is in a worker's hand.
const WAIT_SECONDS_MAX: f64 = 60.0;
/// What a call of a language model is reserved for that does not say how long its answer may be.
const ESTIMATE: f64 = 1000.0;
/// The largest burst and estimate.
const NUMBER_MAX: f64 = 1e9;

impl Config {
    /// The limits that are configured, by name.
    #[must_use]
    pub fn limits(&self) -> Vec<Rule> {
        read(&self.values).0
    }
}

/// Every problem with these keys.
pub(super) fn problems(values: &BTreeMap<String, (Value, Origin)>) -> Vec<String> {
    read(values).1
}

/// The limits that can be used, and what is wrong with the others.
fn read(values: &BTreeMap<String, (Value, Origin)>) -> (Vec<Rule>, Vec<String>) {
    let (mut rules, mut found, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (key, (_, origin)) in values.iter().filter(|(key, _)| key.starts_with(LIMITS)) {
        let Some((name, about)) = key[LIMITS.len()..].rsplit_once('.') else {
            found.push(format!(
                "{origin}: {key} must be a table, such as [limits.model] with protocol and rate"
            ));
            continue;
        };
        if !KEYS.iter().any(|(known, _)| *known == about) {
            let hint = did_you_mean(about, KEYS.map(|(known, _)| known));
            let known = KEYS.map(|(known, _)| known).join(", ");
            found.push(format!("{origin}: {key} is not known; there are {known}{hint}"));
        }
        names.insert(name);
    }
    for name in names {
        let mut table = Table { name, values, found: Vec::new() };
        let rule = table.rule();
        let is_sound = table.found.is_empty();
        found.append(&mut table.found);
        rules.extend(rule.filter(|_| is_sound));
    }
    (rules, found)
}

/// One limit while it is read.
struct Table<'a> {
    name: &'a str,
    values: &'a BTreeMap<String, (Value, Origin)>,
    found: Vec<String>,
}

impl Table<'_> {
    fn rule(&mut self) -> Option<Rule> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if self.name.is_empty() || self.name.len() > NAME_MAX || !self.name.bytes().all(plain) {
            let name = self.name;
            self.found
                .push(format!("{LIMITS}{name} must have a name of 1 to {NAME_MAX} of a-z, 0-9, - and _"));
        }
        let protocol = self.required("protocol").and_then(|text| {
            let parsed = text.parse::<ProtocolId>();
            parsed.map_err(|error| self.refuse("protocol", &error.to_string())).ok()
        });
        let per_second = self
            .required("rate")
            .and_then(|text| rate(&text).map_err(|error| self.refuse("rate", &error.to_string())).ok());
        let burst = self.number("burst").or(per_second.map(|rate| (rate * BURST_SECONDS).max(1.0)));
        let (method, provider) = (self.text("method"), self.text("provider"));
        let key = self.text("key").and_then(|text| {
            let key = match (path(&text), text.strip_prefix("header:")) {
                (Some(path), _) => Some(Key::Param(path)),
                (None, Some(header)) if !header.is_empty() => Some(Key::Header(header.to_owned())),
                (None, _) => None,
            };
            if key.is_none() {
                self.wrong("key");
            }
            key
        });
        if provider.is_some() && matches!(key, Some(Key::Header(_))) {
            self.refuse(
                "key",
                "cannot be a header where the limit is of a provider: leave out one of the two",
            );
        }
        let scope = match self.text("scope").as_deref() {
            None | Some("global") => Scope::Global,
            Some("local") => Scope::Local,
            Some(_) => {
                self.wrong("scope");
                Scope::Global
            }
        };
        let estimate = self.number("estimate");
        let cost = match self.text("cost").as_deref() {
            None | Some("1") => Cost::One,
            Some("llm_tokens") => Cost::Tokens { estimate: estimate.unwrap_or(ESTIMATE) },
            Some(text) => match path(text) {
                Some(path) => Cost::Param(path),
                None => {
                    self.wrong("cost");
                    Cost::One
                }
            },
        };
        if estimate.is_some() && !matches!(cost, Cost::Tokens { .. }) {
            self.refuse("estimate", "is only for cost = \"llm_tokens\"");
        }
        let pace = Pace { per_second: per_second?, burst: burst? };
        let burst_max = (pace.per_second * WAIT_SECONDS_MAX).max(1.0);
        if cost != Cost::One && pace.burst > burst_max {
            let why = format!(
                "must be at most what comes in {WAIT_SECONDS_MAX} s where calls cost differently, here {burst_max:.0}"
            );
            self.refuse("burst", &why);
        }
        Some(Rule {
            name: self.name.to_owned(),
            protocol: protocol?,
            method,
            provider,
            key,
            pace,
            scope,
            cost,
        })
    }

    fn value(&self, about: &str) -> Option<&(Value, Origin)> {
        self.values.get(&format!("{LIMITS}{}.{about}", self.name))
    }

    fn text(&mut self, about: &str) -> Option<String> {
        match self.value(about)?.0.clone() {
            Value::String(text) if !text.is_empty() => Some(text),
            Value::Integer(1) if about == "cost" => Some("1".to_owned()),
            _ => {
                self.wrong(about);
                None
            }
        }
    }

    fn required(&mut self, about: &str) -> Option<String> {
        if self.value(about).is_none() {
            let said =
                self.values.iter().find(|(key, _)| key.starts_with(&format!("{LIMITS}{}.", self.name)));
            let origin = said.map(|(_, (_, origin))| origin.to_string()).unwrap_or_default();
            self.found.push(format!("{origin}: {LIMITS}{}.{about} is missing", self.name));
            return None;
        }
        self.text(about)
    }

    fn number(&mut self, about: &str) -> Option<f64> {
        let number = match &self.value(about)?.0 {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        };
        let number = number.filter(|number| (1.0..=NUMBER_MAX).contains(number));
        if number.is_none() {
            self.wrong(about);
        }
        number
    }

    fn wrong(&mut self, about: &str) {
        let kind = KEYS.iter().find(|(known, _)| *known == about).map_or("known", |(_, kind)| *kind);
        self.refuse(about, &format!("must be {kind}"));
    }

    fn refuse(&mut self, about: &str, why: &str) {
        let origin = self.value(about).map(|(_, origin)| origin.to_string()).unwrap_or_default();
        self.found.push(format!("{origin}: {LIMITS}{}.{about} {why}", self.name));
    }
}

/// The names of the members in `params.a.b`.
fn path(text: &str) -> Option<Vec<String>> {
    let names: Vec<String> = text.strip_prefix("params.")?.split('.').map(str::to_owned).collect();
    names.iter().all(|name| !name.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn read(text: &str) -> Result<Vec<Rule>, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).expect("write");
        let config = load(&Sources { file: Some(path), ..Sources::default() });
        config.map(|config| config.limits()).map_err(|error| error.to_string())
    }

    #[test]
    fn limits_are_read_with_what_they_do_not_say_filled_in() {
        let rules = read(
            "[limits.all]\nprotocol = 'echo/v1'\nrate = '100/s'\n\
             [limits.tokens]\nprotocol = 'llm/v1'\nmethod = 'chat'\nkey = 'params.model'\nrate = '60000/min'\n\
             burst = 5000\nscope = 'local'\ncost = 'llm_tokens'\nestimate = 200\n\
             [limits.tenant]\nprotocol = 'llm/v1'\nkey = 'header:x-tenant'\nrate = '1/s'\ncost = 'params.a.b'\n",
        )
        .expect("valid");
        let [all, tenant, tokens] = &rules[..] else { panic!("{rules:?}") };
        assert_eq!((all.pace, all.scope), (Pace { per_second: 100.0, burst: 10.0 }, Scope::Global));
        assert_eq!((&all.cost, all.is_of_all()), (&Cost::One, true));
        assert_eq!(tenant.key, Some(Key::Header("x-tenant".to_owned())));
        assert_eq!((tenant.pace.burst, tenant.is_of_all()), (1.0, false));
        assert_eq!(tenant.cost, Cost::Param(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(tokens.pace, Pace { per_second: 1000.0, burst: 5000.0 });
        assert_eq!(tokens.cost, Cost::Tokens { estimate: 200.0 });
        assert_eq!((tokens.method.as_deref(), tokens.scope), (Some("chat"), Scope::Local));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let said = read(
            "[limits]\nloose = 1\n[limits.'Big One']\nprotocol = 'llm'\nrate = 'often'\nburst = 0\n\
             [limits.b]\nrates = '1/s'\nkey = 'model'\ncost = 'much'\nscope = 'here'\nestimate = 5\nprovider = 1\n",
        )
        .expect_err("all of it is wrong");
        for part in [
            "limits.loose must be a table",
            "limits.Big One must have a name",
            "limits.Big One.rate \"often\" is no rate",
            "limits.Big One.burst must be a number of 1 or more",
            "limits.b.rates is not known; there are protocol, method",
            "did you mean rate?",
            "limits.b.protocol is missing",
            "limits.b.rate is missing",
            "limits.b.key must be a path into the parameters",
            "limits.b.cost must be \"1\", a path",
            "limits.b.scope must be \"global\" or \"local\"",
            "limits.b.provider must be the name",
            "limits.b.estimate is only for cost",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = read("[limits.a]\nprotocol = 'llm/v1'\nprovider = 'x'\nrate = '1/s'\nkey = 'header:t'\n");
        assert!(said.expect_err("both").contains("limits.a.key cannot be a header"));
        let dear = "[limits.a]\nprotocol = 'llm/v1'\nrate = '60/min'\ncost = 'params.size'\n";
        assert!(read(&format!("{dear}burst = 60")).is_ok());
        let said = read(&format!("{dear}burst = 61")).expect_err("a minute and a second");
        assert!(said.contains("limits.a.burst must be at most what comes in 60 s"), "{said}");
        assert!(said.contains("here 60"), "{said}");
        assert!(read("[limits.a]\nprotocol = 'llm/v1'\nrate = '1/h'\ncost = 'params.size'\n").is_ok());
    }
}
