//! From a task to bytes: keys always in the same order, absent where nothing is said.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Number, Value};
use std::time::Duration;

use super::{Reply, Task};

/// The body of the task's message.
#[must_use]
pub fn encode(task: &Task) -> Bytes {
    let body = serde_json::to_vec(&Body(task)).expect("a task has text keys and no failing serialiser");
    Bytes::from(body)
}

struct Body<'a>(&'a Task);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Body(task) = self;
        let spec = &task.spec;
        let mut out = Members(serializer.serialize_map(None)?);
        out.some("id", task.id.as_ref())?;
        out.some("workflow", task.workflow.as_ref())?;
        out.some("name", spec.name.as_ref())?;
        out.put("protocol", &spec.protocol)?;
        out.put("method", &spec.method)?;
        let has_params = spec.params.as_object().is_none_or(|params| !params.is_empty());
        out.some("params", has_params.then_some(&spec.params))?;
        out.some("inputs", (!task.inputs.is_empty()).then_some(&task.inputs))?;
        out.some("substitutes", (!task.substitutes.is_empty()).then_some(&task.substitutes))?;
        out.some("when", task.when.as_ref())?;
        out.some("for_each", task.for_each.as_ref())?;
        out.some("max_parallel", task.max_parallel)?;
        out.some("item", task.item.as_ref().map(|item| &item.value))?;
        out.some("index", task.item.as_ref().map(|item| item.index))?;
        out.some("priority", task.priority())?;
        out.some("timeout", spec.timeout.map(seconds))?;
        out.some("retry", spec.retry.as_ref())?;
        out.some("not_before", spec.not_before)?;
        out.some("expires_at", spec.expires_at)?;
        out.some("reply", task.reply.as_ref().map(reply))?;
        out.some("attempt", (task.attempt > 1).then_some(task.attempt))?;
        out.some("metadata", (!spec.metadata.is_empty()).then_some(&spec.metadata))?;
        out.some("result_ttl", spec.result_ttl.map(seconds))?;
        out.some("ignore_result", spec.ignore_result.then_some(true))?;
        out.some("affinity", spec.affinity.as_ref())?;
        out.some("fairness_key", spec.fairness_key.as_ref())?;
        out.some("idempotency_key", spec.idempotency_key.as_ref())?;
        out.some("resource_requirements", spec.resource_requirements.as_ref())?;
        out.some("security_requirements", spec.security_requirements.as_ref())?;
        out.some("traceparent", task.traceparent.as_ref())?;
        for (key, value) in &task.extra {
            out.put(key, value)?;
        }
        out.0.end()
    }
}

struct Members<M>(M);

impl<M: SerializeMap> Members<M> {
    fn put(&mut self, key: &str, value: &impl Serialize) -> Result<(), M::Error> {
        self.0.serialize_entry(key, value)
    }

    fn some(&mut self, key: &str, value: Option<impl Serialize>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.put(key, &value))
    }
}

/// Seconds, whole ones without a fraction.
pub(crate) fn seconds(duration: Duration) -> Number {
    if duration.subsec_nanos() == 0 {
        return Number::from(duration.as_secs());
    }
    Number::from_f64(duration.as_secs_f64()).unwrap_or_else(|| Number::from(duration.as_secs()))
}

pub(super) fn reply(reply: &Reply) -> Value {
    match &reply.correlation_id {
        Some(id) => serde_json::json!({"to": reply.to, "correlation_id": id}),
        None => serde_json::json!({"to": reply.to}),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    use super::*;
    use crate::core::clock::Timestamp;
    use crate::core::id::Id;
    use crate::core::priority::Priority;
    use crate::core::retry::RetryPolicy;
    use crate::core::task::Spec;
    use crate::wire::Properties;
    use crate::wire::task::{Decoded, Item, decode};

    fn read(body: &[u8]) -> Task {
        let protocol = "python/v1".parse().expect("valid");
        match decode(body, &Properties::default(), &protocol).expect("a task") {
            Decoded::Task(task) => *task,
            Decoded::Newer { v, .. } => panic!("version {v}"),
        }
    }

    #[test]
    fn what_is_not_said_is_not_written() {
        let body = br#"{"method":"validate"}"#;
        assert_eq!(encode(&read(body)), r#"{"protocol":"python/v1","method":"validate"}"#);
    }

    #[test]
    fn keys_numbers_and_unknown_members_survive_as_they_were_written() {
        let body = concat!(
            r#"{"id":"t","workflow":"w","name":"N","protocol":"python/v1","method":"execute","#,
            r#""params":{"z":1.50,"a":123456789012345678901234567890,"m":1e-7,"n":-0.0,"e":{},"l":[]},"#,
            r#""inputs":{"A":"a"},"priority":7,"timeout":1.5,"not_before":"2026-01-02T03:04:05.000Z","#,
            r#""reply":{"to":"q","correlation_id":"c"},"attempt":3,"result_ttl":60,"later":{"y":1.0,"x":null}}"#
        );
        assert_eq!(encode(&read(body.as_bytes())), body);
    }

    #[test]
    fn positional_parameters_survive() {
        let body = r#"{"protocol":"python/v1","method":"execute","params":["1 + 1"]}"#;
        assert_eq!(encode(&read(body.as_bytes())), body);
        assert_eq!(encode(&read(br#"{"method":"execute","params":[]}"#)).len(), body.len() - 7);
    }

    fn any_params() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e300..1e300_f64).prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        let any = leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        });
        prop_oneof![
            prop::collection::vec(any.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", any, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    }

    prop_compose! {
        fn any_task()(
            (id, workflow) in prop_oneof![
                Just((None, None)),
                "[a-z][a-z0-9._:-]{0,9}".prop_map(|id| (Some(id), None)),
                ("[a-z]{1,9}", "[a-z]{1,9}").prop_map(|(id, workflow)| (Some(id), Some(workflow))),
            ],
            params in any_params(),
            name in prop::option::of(".{1,9}"),
            priority in prop::option::of(0..10_i64),
            millis in prop::option::of(1..100_000_000_u64),
            not_before in prop::option::of(0..4_000_000_000_000_i64),
            attempt in 1..20_u32,
            retry in prop::option::of(1..11_u32),
            ignore_result in any::<bool>(),
            key in prop::option::of(".{1,9}"),
            reply in prop::option::of(("[a-z]{1,9}", prop::option::of(".{1,9}"))),
            inputs in prop::collection::btree_map(".{1,9}", "[a-z]{1,9}", 0..3),
            when in prop::option::of(".{1,9}"),
            item in prop::option::of((any_params(), 0..9_u64)),
            (list, bound) in (prop::option::of(any_params()), prop::option::of(1..99_u32)),
            extra in prop::option::of(any_params()),
        ) -> Task {
            let id_of = |text: String| Id::parse(&text).expect("valid");
            let mut spec = Spec::new("python/v1".parse().expect("valid"), "execute", params);
            spec.name = name;
            spec.priority = priority.map(Priority::from_message_number);
            spec.timeout = millis.map(Duration::from_millis);
            spec.result_ttl = millis.map(Duration::from_millis);
            spec.not_before = not_before.map(Timestamp::from_millis);
            spec.retry = retry.map(|max_attempts| RetryPolicy { max_attempts, ..RetryPolicy::default() });
            spec.ignore_result = ignore_result;
            spec.fairness_key = key;
            let mut task = Task::new(id.map(id_of), spec);
            task.workflow = workflow.map(id_of);
            task.attempt = attempt;
            task.reply = reply.map(|(to, correlation_id)| Reply { to, correlation_id });
            task.inputs = inputs.into_iter().map(|(name, id)| (name, id_of(id))).collect::<BTreeMap<_, _>>();
            if task.workflow.is_some() {
                task.substitutes = task.inputs.values().map(|id| (id.clone(), Value::Null)).collect();
                task.when = when;
                task.item = item.map(|(value, index)| Item { value, index });
                task.for_each = list;
                task.max_parallel = bound.and_then(NonZeroU32::new);
            }
            if let Some(extra) = extra {
                task.extra.insert("later".to_owned(), extra);
                task.warnings.push("unknown key later".to_owned());
            }
            task
        }
    }

    proptest! {
        #[test]
        fn a_task_reads_back_what_it_wrote(task in any_task()) {
            let body = encode(&task);
            let again = read(&body);
            prop_assert_eq!(encode(&again), body);
            prop_assert_eq!(again, task);
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let protocol = "python/v1".parse().expect("valid");
            let _ = decode(&body, &Properties::default(), &protocol);
        }
    }
}
