//! What a task of a workflow needs of the others, and what becomes of it.
//!
//! ```text
//! {"id": "load", "workflow": "w", ..., "for_each": "${list.files}", "max_parallel": 4,
//!  "inputs": {"list": "list"}, "substitutes": {"list": []}, "when": "${item.size} > 0"}
//! {"id": "load.0", "workflow": "w", ..., "item": {"size": 7}, "index": 0, "when": "${item.size} > 0"}
//! ```
//! A task with `for_each` stands for one task per item: whoever runs it makes these ([`Task::items`]), and its
//! parameters are theirs, not its own. A condition that asks for `${item}` or `${index}` is theirs too;
//! another one is asked once, before the list is read.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::{INPUT_BYTES_MAX, Item, Task};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::template::{self, Reference, Source, Unresolved, references, value_of};
use crate::core::workflow::ITEMS_MAX;

/// The names of the item and its position.
const ITEM: &str = "item";
const INDEX: &str = "index";

impl Task {
    /// The condition to be asked of this message, if there is one.
    #[must_use]
    pub fn condition(&self) -> Option<&str> {
        let when = self.when.as_deref()?;
        (self.for_each.is_none() || !asks_for_the_item(when)).then_some(when)
    }

    /// The tasks whose results are needed to go on with this message, each once: for the parameters, or for
    /// the list if it stands for one, and for the condition.
    #[must_use]
    pub fn needs(&self) -> Vec<Id> {
        let mut found = match &self.for_each {
            Some(list) => references(list, "for_each"),
            None => self.spec.references(),
        };
        found.extend(self.condition().map(in_text).unwrap_or_default());
        let meant = found.iter().filter_map(|reference| self.meant(reference));
        let mut ids: Vec<Id> = meant.map(|(_, id)| id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The name that a reference uses, and the task that it means.
    fn meant<'t>(&'t self, reference: &Reference) -> Option<(&'t String, &'t Id)> {
        let is_known = |name: &str| self.inputs.contains_key(name) || (self.item.is_some() && is_item(name));
        let name = reference.task(is_known)?;
        self.inputs.get_key_value(name)
    }

    /// The parameters with every reference replaced. `document` gives the result document of a needed task.
    /// Outside a workflow there is nothing to refer to, and the parameters are what they are.
    ///
    /// # Errors
    /// `TASK_PARAMETER_ERROR` names every reference that cannot be replaced, and why; one that stands in code
    /// among them, since not every message comes from a workflow that was checked.
    pub fn fill<'a>(&self, document: impl Fn(&Id) -> Option<&'a Value>) -> Result<Value, Failure> {
        if self.workflow.is_none() {
            return Ok(self.spec.params.clone());
        }
        let in_code: Vec<Unresolved> = self
            .spec
            .references()
            .into_iter()
            .filter(|reference| self.spec.is_code(&reference.at))
            .map(|Reference { text, at, .. }| Unresolved { text, at, reason: "it stands in code".to_owned() })
            .collect();
        if !in_code.is_empty() {
            return Err(template::failure(&in_code));
        }
        let sources = Sources::of(self, &document);
        let filled = self.spec.fill(&|name| sources.get(name), INPUT_BYTES_MAX);
        filled.map_err(|unresolved| template::failure(&unresolved))
    }

    /// The items of the list that the task stands for; `None` if it stands for itself.
    ///
    /// # Errors
    /// `TASK_PARAMETER_ERROR` if references cannot be replaced, if that makes no list, or a list of more than
    /// [`ITEMS_MAX`] items.
    pub fn fill_for_each<'a>(
        &self,
        document: impl Fn(&Id) -> Option<&'a Value>,
    ) -> Result<Option<Vec<Value>>, Failure> {
        let Some(list) = &self.for_each else { return Ok(None) };
        let sources = Sources::of(self, &document);
        let filled = template::fill(list.clone(), "for_each", &|name| sources.get(name), INPUT_BYTES_MAX);
        let refuse = |text: String| Err(Failure::new(Code::TaskParameterError, text));
        match filled.map_err(|unresolved| template::failure(&unresolved))? {
            Value::Array(items) if items.len() > ITEMS_MAX => {
                refuse(format!("for_each has {} items, at most {ITEMS_MAX} are allowed", items.len()))
            }
            Value::Array(items) => Ok(Some(items)),
            other => refuse(format!("for_each is no list, found {}", crate::core::reading::shown(&other))),
        }
    }

    /// What the references of [`Task::condition`] stand for, each by what is between its braces. Whatever is
    /// below null is null.
    ///
    /// # Errors
    /// `TASK_PARAMETER_ERROR` names every reference that stands for nothing, and why.
    pub fn condition_values<'a>(
        &self,
        document: impl Fn(&Id) -> Option<&'a Value>,
    ) -> Result<BTreeMap<String, Value>, Failure> {
        let sources = Sources::of(self, &document);
        let (mut values, mut unresolved) = (BTreeMap::new(), Vec::new());
        for reference in self.condition().map(in_text).unwrap_or_default() {
            match value_of(&reference, &|name| sources.get(name)) {
                Ok(value) => _ = values.insert(reference.text, value.clone()),
                Err(one) => unresolved.push(one),
            }
        }
        if unresolved.is_empty() { Ok(values) } else { Err(template::failure(&unresolved)) }
    }

    /// What the tasks for the items of the list have in common: this one without the list, and with what
    /// their parameters and condition refer to only. Its item and id are yet to be set.
    #[must_use]
    pub(crate) fn for_items(&self) -> Task {
        let mut task = Task::new(None, self.spec.clone());
        // Its parent needs the result, whoever else does, has waited for the time, and has been started in time.
        task.spec.ignore_result = false;
        task.spec.not_before = None;
        task.spec.expires_at = None;
        task.workflow = self.workflow.clone();
        task.when = self.when.clone().filter(|when| asks_for_the_item(when));
        task.traceparent = self.traceparent.clone();
        task.reply = self.reply.clone();
        task.extra = self.extra.clone();
        task.item = Some(Item { value: Value::Null, index: 0 });
        task.inputs = self.inputs.clone();
        let mut found = task.spec.references();
        found.extend(task.when.as_deref().map(in_text).unwrap_or_default());
        let names: BTreeSet<String> = found
            .iter()
            .filter_map(|reference| task.meant(reference))
            .map(|(name, _)| name.clone())
            .collect();
        task.inputs.retain(|name, _| names.contains(name));
        let ids: BTreeSet<&Id> = task.inputs.values().collect();
        let needed = self.substitutes.iter().filter(|(id, _)| ids.contains(id));
        task.substitutes = needed.map(|(id, value)| (id.clone(), value.clone())).collect();
        task
    }
}

/// The references of a condition.
fn in_text(when: &str) -> Vec<Reference> {
    references(&Value::from(when), "when")
}

fn is_item(name: &str) -> bool {
    name == ITEM || name == INDEX
}

fn asks_for_the_item(when: &str) -> bool {
    in_text(when).iter().any(|reference| reference.task(is_item).is_some())
}

/// What the names in a task's references stand for.
struct Sources<'s, 'a> {
    task: &'s Task,
    document: &'s dyn Fn(&Id) -> Option<&'a Value>,
    index: Value,
}

impl<'s, 'a: 's> Sources<'s, 'a> {
    fn of(task: &'s Task, document: &'s dyn Fn(&Id) -> Option<&'a Value>) -> Sources<'s, 'a> {
        Sources { task, document, index: task.item.as_ref().map_or(0, |item| item.index).into() }
    }

    fn get(&'s self, name: &str) -> Option<Source<'s>> {
        match &self.task.item {
            Some(item) if name == ITEM => return Some(Source::Value(&item.value)),
            Some(_) if name == INDEX => return Some(Source::Value(&self.index)),
            Some(_) | None => {}
        }
        let id = self.task.inputs.get(name)?;
        let document = (self.document)(id)?;
        Some(match self.task.substitutes.get(id) {
            Some(instead) => Source::Substituted { document, instead },
            None => Source::Task(document),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::task::Spec;

    fn task(params: Value) -> Task {
        let id = |text| Id::parse(text).expect("valid");
        let mut task =
            Task::new(Some(id("t")), Spec::new("python/v1".parse().expect("valid"), "execute", params));
        task.workflow = Some(id("w"));
        task.inputs = [("Load Data".to_owned(), id("load")), ("load".to_owned(), id("load"))].into();
        task
    }

    #[test]
    fn references_are_filled_by_the_names_that_they_use() {
        let document = json!({"id": "load", "result": {"result": [1, 2]}});
        let task =
            task(json!({"code": "context", "context": ["${Load Data}", "${load.result[1]}", "$${load}"]}));
        assert_eq!(task.needs().len(), 1);
        let filled = task.fill(|id| (id.as_str() == "load").then_some(&document));
        assert_eq!(filled, Ok(json!({"code": "context", "context": [[1, 2], 2, "${load}"]})));
    }

    #[test]
    fn nothing_is_filled_into_code_or_outside_a_workflow() {
        let document = json!({"result": "import os"});
        for params in [json!({"code": "${load}"}), json!(["${load}"])] {
            let failure = task(params).fill(|_| Some(&document)).expect_err("refused");
            assert_eq!(failure.code, Code::TaskParameterError);
            assert!(failure.message.contains("it stands in code"), "{failure}");
        }
        let mut alone = task(json!({"code": "f'${price}'", "context": "$${x}"}));
        alone.workflow = None;
        assert_eq!(alone.fill(|_| Some(&document)), Ok(alone.spec.params.clone()));
    }

    #[test]
    fn a_task_that_did_not_complete_has_its_substitute() {
        let document = json!({"id": "load", "status": "failed", "error": {"message": "no"}, "result": null});
        let mut task = task(json!({"context": ["${load.rows}", "${load.status}", "${Load Data}"]}));
        let by_id = |_: &Id| Some(&document);
        let failure = task.fill(by_id).expect_err("no result");
        assert!(failure.message.contains("the task is failed"), "{failure}");
        let id = Id::parse("load").expect("valid");
        task.substitutes.insert(id.clone(), Value::Null);
        assert_eq!(task.fill(by_id), Ok(json!({"context": [null, "failed", null]})));
        task.substitutes.insert(id, json!({"rows": [1]}));
        assert_eq!(task.fill(by_id), Ok(json!({"context": [[1], "failed", {"rows": [1]}]})));
    }

    #[test]
    fn a_list_is_made_of_a_reference_or_of_items_with_references() {
        let document = json!({"status": "completed", "result": {"rows": [{"n": 1}, null], "n": 7}});
        let by_id = |_: &Id| Some(&document);
        let mut task = task(json!({"code": "context", "context": "${item.n}"}));
        assert_eq!(task.fill_for_each(by_id), Ok(None));
        task.for_each = Some(json!("${load.rows}"));
        assert_eq!(task.fill_for_each(by_id), Ok(Some(vec![json!({"n": 1}), Value::Null])));
        task.for_each = Some(json!(["${load.n}", "x"]));
        assert_eq!(task.fill_for_each(by_id), Ok(Some(vec![json!(7), json!("x")])));
        task.for_each = Some(json!("${load.n}"));
        let failure = task.fill_for_each(by_id).expect_err("no list");
        assert_eq!(failure.code, Code::TaskParameterError);
        assert!(failure.message.contains("no list, found 7"), "{failure}");
        let many = json!({"status": "completed", "result": vec![0; ITEMS_MAX + 1]});
        task.for_each = Some(json!("${load}"));
        assert!(task.fill_for_each(|_| Some(&many)).is_err());
    }

    #[test]
    fn a_list_is_read_before_its_items_ask_for_anything() {
        let id = |text| Id::parse(text).expect("valid");
        let mut parent = task(json!({"context": ["${other.x}", "${item.load.y}", "${index}"]}));
        parent.inputs = ["load", "other", "gate"].map(|name| (name.to_owned(), id(name))).into();
        parent.substitutes = [(id("other"), Value::Null), (id("gate"), Value::Null)].into();
        parent.for_each = Some(json!("${load.rows}"));
        parent.when = Some("${gate.open} and ${index} > 0".to_owned());
        assert_eq!((parent.condition(), parent.needs()), (None, vec![id("load")]));
        parent.spec.expires_at = "2026-01-02T03:04:05Z".parse().ok();
        let mut child = parent.for_items();
        assert_eq!(child.spec.expires_at, None, "the list has been started in time");
        child.item = Some(Item { value: json!({"load": {"y": 5}}), index: 1 });
        assert_eq!(child.needs(), [id("gate"), id("other")]);
        assert_eq!((child.inputs.len(), child.substitutes.len()), (2, 2));
        assert_eq!((child.for_each.as_ref(), child.condition()), (None, parent.when.as_deref()));
        let document = json!({"status": "completed", "result": {"x": 1, "open": true}});
        let by_id = |_: &Id| Some(&document);
        assert_eq!(child.fill(by_id), Ok(json!({"context": [1, 5, 1]})));
        let values = child.condition_values(by_id).expect("values");
        assert_eq!(values, [("gate.open".to_owned(), json!(true)), ("index".to_owned(), json!(1))].into());

        parent.when = Some("${gate.open}".to_owned());
        assert_eq!(parent.needs(), [id("gate"), id("load")]);
        let child = parent.for_items();
        assert_eq!((child.when.as_deref(), child.needs()), (None, vec![id("other")]));
    }

    #[test]
    fn a_condition_may_look_below_null() {
        let document = json!({"status": "completed", "error": null, "result": {"n": 1}});
        let mut task = task(json!({}));
        task.when = Some("${load.error.code} == none and ${load.n} > 0".to_owned());
        let values = task.condition_values(|_| Some(&document)).expect("values");
        assert_eq!(values["load.error.code"], Value::Null);
        task.when = Some("${load.m} > 0 or ${nobody}".to_owned());
        let failure = task.condition_values(|_| Some(&document)).expect_err("nothing");
        assert!(
            failure.message.contains("${load.m} in when") && failure.message.contains("nobody"),
            "{failure}"
        );
    }

    #[test]
    fn a_nested_workflow_is_not_filled_from_outside() {
        let document = json!({"status": "completed", "result": [1]});
        let inner = json!({"tasks": [{"id": "load", "method": "x/y", "params": {"a": "${load} $${load}"}}]});
        let mut task = task(json!({"workflow": inner, "params": {"rows": "${load}"}}));
        task.spec.protocol = "workflow/v1".parse().expect("valid");
        task.spec.method = "run".to_owned();
        assert_eq!(task.fill(|_| Some(&document)), Ok(json!({"workflow": inner, "params": {"rows": [1]}})));
        task.inputs.clear();
        assert_eq!(task.needs(), []);
    }
}
