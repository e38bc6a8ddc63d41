//! Making the server carry a topology, and comparing what it has.
//!
//! Everything is looked for first, passively, which needs no permission; only what is missing is created.
//! So a worker without configure permission runs on a topology that an operator has applied. A passive look
//! says nothing about type and arguments: to compare them, `check` declares what exists once more, on a
//! channel that the server closes at the first difference, naming it.
//!
//! Bindings cannot be looked at in AMQP. They are made each time, which changes nothing if they exist, and
//! refused without harm where the user may not.

use lapin::Channel;
use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use std::time::Duration;

use super::connection::Link;
use super::failure::{ACCESS_REFUSED, Failure, NOT_FOUND, PRECONDITION_FAILED, within};
use crate::broker::{BrokerError, Finding};
use crate::topology::plan::{Argument, Binding, Exchange, ExchangeKind, Plan, QueueDeclaration};

/// What an operator must do when we may not.
const HINT: &str = "an operator must run `gleitzeit topology apply` as a user with configure permission";

/// One thing of a plan.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Exchange(&'a Exchange),
    Queue(&'a QueueDeclaration),
}

impl Part<'_> {
    /// `queue gleitzeit.workflows`.
    pub(super) fn name(self) -> String {
        match self {
            Part::Exchange(exchange) => format!("exchange {}", exchange.name),
            Part::Queue(queue) => format!("queue {}", queue.name),
        }
    }
}

/// What the server has of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PartState {
    Missing,
    AsDeclared,
    /// With other arguments; which.
    Differs(String),
}

/// Every exchange, then every queue.
pub(super) fn parts(plan: &Plan) -> impl Iterator<Item = Part<'_>> {
    plan.exchanges.iter().map(Part::Exchange).chain(plan.queues.iter().map(Part::Queue))
}

/// A channel that is opened again after the server has closed it.
#[derive(Debug)]
pub(super) struct Declarer<'a> {
    link: &'a Link,
    timeout: Duration,
    channel: Option<Channel>,
}

impl<'a> Declarer<'a> {
    pub(super) fn new(link: &'a Link, timeout: Duration) -> Declarer<'a> {
        Declarer { link, timeout, channel: None }
    }

    /// What of `plan` the server does not have.
    pub(super) async fn missing<'p>(&mut self, plan: &'p Plan) -> Result<Vec<Part<'p>>, BrokerError> {
        let mut missing = Vec::new();
        for part in parts(plan) {
            match self.declare(part, true).await? {
                Ok(()) => {}
                Err(failure) if failure.reply_code() == Some(NOT_FOUND) => missing.push(part),
                // Newer servers want some permission even to look. Who has none is told when it is used.
                Err(failure) if failure.reply_code() == Some(ACCESS_REFUSED) => {
                    tracing::debug!(part = part.name(), reason = failure.words(), "may not be looked at");
                }
                Err(failure) => return Err(failure.of(&format!("looking for {}", part.name()), HINT)),
            }
        }
        Ok(missing)
    }

    /// Creates `missing`, then makes every binding of `plan`.
    pub(super) async fn create(&mut self, missing: &[Part<'_>], plan: &Plan) -> Result<(), BrokerError> {
        for part in missing {
            let created = self.declare(*part, false).await?;
            created.map_err(|failure| failure.of(&format!("declaring {}", part.name()), HINT))?;
        }
        for binding in &plan.bindings {
            let Err(failure) = self.bind(binding).await? else { continue };
            let what = format!("binding {} to {}", binding.destination, binding.source);
            if failure.reply_code() == Some(ACCESS_REFUSED) && missing.is_empty() {
                tracing::debug!(what, reason = failure.words(), "left as it is");
                return Ok(());
            }
            return Err(failure.of(&what, HINT));
        }
        Ok(())
    }

    /// Compares what exists with `plan`. Whatever is in `missing` is not touched.
    pub(super) async fn compare(
        &mut self,
        plan: &Plan,
        missing: &[Part<'_>],
    ) -> Result<Vec<Finding>, BrokerError> {
        let missing: Vec<String> = missing.iter().map(|part| part.name()).collect();
        let mut findings: Vec<Finding> = missing
            .iter()
            .map(|what| finding(what, "is missing; `gleitzeit topology apply` creates it"))
            .collect();
        for part in parts(plan).filter(|part| !missing.contains(&part.name())) {
            let Err(failure) = self.declare(part, false).await? else { continue };
            match failure.reply_code() {
                Some(PRECONDITION_FAILED) => {
                    findings.push(finding(&part.name(), &difference(&failure.words())))
                }
                Some(ACCESS_REFUSED) => {
                    let problem = "this user may not compare arguments (that needs configure permission)";
                    findings.push(finding("the topology", problem));
                    break;
                }
                Some(_) | None => return Err(failure.of(&format!("comparing {}", part.name()), HINT)),
            }
        }
        Ok(findings)
    }

    /// Whether the server has `part`, and as it is declared.
    pub(super) async fn state(&mut self, part: Part<'_>) -> Result<PartState, BrokerError> {
        let wrong = |failure: Failure| failure.of(&format!("comparing {}", part.name()), HINT);
        match self.declare(part, true).await? {
            Ok(()) => {}
            Err(failure) if failure.reply_code() == Some(NOT_FOUND) => return Ok(PartState::Missing),
            Err(failure) => return Err(wrong(failure)),
        }
        match self.declare(part, false).await? {
            Ok(()) => Ok(PartState::AsDeclared),
            Err(failure) if failure.reply_code() == Some(PRECONDITION_FAILED) => {
                let words = failure.words();
                Ok(PartState::Differs(
                    argument(&words).map_or(words.clone(), |name| format!("has another {name}")),
                ))
            }
            Err(failure) => Err(wrong(failure)),
        }
    }

    /// Whether the server has `part`, whatever its arguments.
    pub(super) async fn exists(&mut self, part: Part<'_>) -> Result<bool, BrokerError> {
        match self.declare(part, true).await? {
            Ok(()) => Ok(true),
            Err(failure) if failure.reply_code() == Some(NOT_FOUND) => Ok(false),
            // Newer servers want some permission even to look; whoever may not migrate is told then.
            Err(failure) if failure.reply_code() == Some(ACCESS_REFUSED) => Ok(false),
            Err(failure) => Err(failure.of(&format!("looking for {}", part.name()), HINT)),
        }
    }

    /// Creates `part`; what exists with other arguments is left as it is.
    pub(super) async fn ensure(&mut self, part: Part<'_>) -> Result<(), BrokerError> {
        match self.declare(part, false).await? {
            Err(failure) if failure.reply_code() != Some(PRECONDITION_FAILED) => {
                Err(failure.of(&format!("declaring {}", part.name()), HINT))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes a binding, which changes nothing where it exists.
    pub(super) async fn tie(&mut self, binding: &Binding) -> Result<(), BrokerError> {
        let what = format!("binding {} to {}", binding.destination, binding.source);
        self.bind(binding).await?.map_err(|failure| failure.of(&what, HINT))
    }

    /// Ends a queue's binding, which changes nothing where there is none.
    pub(super) async fn untie(&mut self, binding: &Binding) -> Result<(), BrokerError> {
        let what = format!("unbinding {} from {}", binding.destination, binding.source);
        let channel = self.channel().await?;
        let (source, key) = (binding.source.as_str().into(), binding.routing_key.as_str().into());
        let unbound =
            channel.queue_unbind(binding.destination.as_str().into(), source, key, FieldTable::default());
        let unbound = within(self.timeout, unbound).await;
        self.noting_end(unbound).map_err(|failure| failure.of(&what, HINT))
    }

    /// Deletes a queue with whatever is in it; how many messages that were.
    pub(super) async fn delete_queue(&mut self, queue: &str) -> Result<u64, BrokerError> {
        let channel = self.channel().await?;
        let deleted = within(self.timeout, channel.queue_delete(queue.into(), QueueDeleteOptions::default()));
        let deleted = deleted.await.map_err(|failure| failure.of(&format!("deleting {queue}"), HINT))?;
        Ok(u64::from(deleted))
    }

    /// Deletes an exchange.
    pub(super) async fn delete_exchange(&mut self, exchange: &str) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let asked = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        let deleted = within(self.timeout, asked).await;
        let what = format!("deleting exchange {exchange}");
        self.noting_end(deleted).map_err(|failure| failure.of(&what, HINT))
    }

    /// The message count and consumer count of a queue.
    pub(super) async fn depth(&mut self, queue: &str) -> Result<(u64, u64), BrokerError> {
        let what = format!("counting {queue}");
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let channel = self.channel().await?;
        let asked = channel.queue_declare(queue.into(), options, FieldTable::default());
        let found = within(self.timeout, asked).await;
        let found = self.noting_end(found).map_err(|failure| no_queue(failure, queue, &what))?;
        Ok((u64::from(found.message_count()), u64::from(found.consumer_count())))
    }

    /// Removes what is ready in a queue.
    pub(super) async fn purge(&mut self, queue: &str) -> Result<u64, BrokerError> {
        let what = format!("purging {queue}");
        let channel = self.channel().await?;
        let asked = channel.queue_purge(queue.into(), Default::default());
        let removed = within(self.timeout, asked).await;
        let removed = self.noting_end(removed).map_err(|failure| no_queue(failure, queue, &what))?;
        Ok(u64::from(removed))
    }

    /// Closes the channel in order.
    pub(super) async fn finish(&mut self) {
        if let Some(channel) = self.channel.take() {
            let closed = within(self.timeout, channel.close(200, "done".into())).await;
            tracing::trace!(?closed, "declaring channel closed");
        }
    }

    /// The outer error is of the connection, the inner one of this part.
    async fn declare(&mut self, part: Part<'_>, passive: bool) -> Result<Result<(), Failure>, BrokerError> {
        let channel = self.channel().await?;
        let declared = match part {
            Part::Exchange(exchange) => {
                let options = ExchangeDeclareOptions { passive, durable: true, ..Default::default() };
                let (name, arguments) = (exchange.name.as_str().into(), exchange_arguments(exchange));
                within(self.timeout, channel.exchange_declare(name, kind(exchange.kind), options, arguments))
                    .await
            }
            Part::Queue(queue) => {
                let options = QueueDeclareOptions { passive, durable: true, ..Default::default() };
                let (name, arguments) = (queue.name.as_str().into(), queue_arguments(queue));
                within(self.timeout, channel.queue_declare(name, options, arguments)).await.map(|_| ())
            }
        };
        Ok(self.noting_end(declared))
    }

    async fn bind(&mut self, binding: &Binding) -> Result<Result<(), Failure>, BrokerError> {
        let channel = self.channel().await?;
        let (source, key) = (binding.source.as_str().into(), binding.routing_key.as_str().into());
        let (destination, arguments) = (binding.destination.as_str().into(), FieldTable::default());
        let bound = if binding.to_queue {
            let options = QueueBindOptions::default();
            within(self.timeout, channel.queue_bind(destination, source, key, options, arguments)).await
        } else {
            let options = ExchangeBindOptions::default();
            within(self.timeout, channel.exchange_bind(destination, source, key, options, arguments)).await
        };
        Ok(self.noting_end(bound))
    }

    /// An error of the server closes the channel: the next question needs another.
    fn noting_end<T>(&mut self, answer: Result<T, Failure>) -> Result<T, Failure> {
        if answer.is_err() {
            self.channel = None;
        }
        answer
    }

    async fn channel(&mut self) -> Result<Channel, BrokerError> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let (_connection, channel) = self.link.channel().await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }
}

fn no_queue(failure: Failure, queue: &str, what: &str) -> BrokerError {
    match failure.reply_code() {
        Some(NOT_FOUND) => BrokerError::NoQueue { queue: queue.to_owned() },
        Some(_) | None => failure.of(what, "grant the user a permission on it"),
    }
}

fn finding(what: &str, problem: &str) -> Finding {
    Finding { what: what.to_owned(), problem: problem.to_owned() }
}

/// The servers word a difference differently; only the argument's name is the same everywhere.
fn difference(words: &str) -> String {
    match argument(words) {
        Some(name) => {
            format!(
                "has another {name} ({words}); it is left as it is; `gleitzeit topology apply --migrate` moves it"
            )
        }
        None => format!("differs ({words})"),
    }
}

fn argument(words: &str) -> Option<&str> {
    let (_, rest) = words.split_once("inequivalent arg '")?;
    Some(rest.split_once('\'')?.0)
}

fn kind(kind: ExchangeKind) -> lapin::ExchangeKind {
    match kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
    }
}

fn exchange_arguments(exchange: &Exchange) -> FieldTable {
    let mut arguments = FieldTable::default();
    if let Some(alternate) = exchange.alternate {
        arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.into()));
    }
    arguments
}

fn queue_arguments(queue: &QueueDeclaration) -> FieldTable {
    let mut arguments = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert((*name).into(), value);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_in_every_servers_words() {
        let cases = [
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received none but current is the value 'quorum' of type 'longstr'",
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'classic' but current is 'quorum'",
        ];
        for words in cases {
            assert!(difference(words).starts_with("has another x-queue-type ("), "{words}");
        }
        assert_eq!(difference("PRECONDITION_FAILED - no"), "differs (PRECONDITION_FAILED - no)");
    }
}
