//! Servers of one test's own, for what would disturb others: kills, alarms, failovers.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::place::{Place, environment, missing};
use crate::rabbitmq::Server;
use crate::support::root;

/// A stack of one test's own; gone with it.
#[derive(Debug)]
pub(crate) struct Own {
    folder: tempfile::TempDir,
    /// What `scripts/stack` says of it.
    variables: BTreeMap<String, String>,
}

/// Whether everything is asked for that takes long (`scripts/test --full`).
pub(crate) fn is_full() -> bool {
    environment("GLEITZEIT_TEST_FULL").is_some()
}

impl Own {
    /// Starts it; `None`, said in a line, where tests have no servers.
    pub(crate) fn start(options: &[&str]) -> Option<Own> {
        if environment("GLEITZEIT_AMQP_URL").is_none() {
            return missing("servers (`scripts/stack start` prints them)");
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut own = Own { folder, variables: BTreeMap::new() };
        let release = environment("GLEITZEIT_STACK_RELEASE").unwrap_or_else(|| "distro".to_owned());
        let mut words = vec!["start", "--release", &release];
        words.extend(options);
        for line in own.stack(&words).lines() {
            let (name, value) = line.trim_start_matches("export ").split_once('=').expect("NAME=VALUE");
            own.variables.insert(name.to_owned(), value.trim_matches('\'').to_owned());
        }
        Some(own)
    }

    /// Runs `scripts/stack` on it; what it prints.
    pub(crate) fn stack(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("scripts/stack starts");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// `scripts/stack`, to be run on it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(root().join("scripts/stack"));
        command.arg(words[0]).arg("--dir").arg(self.folder.path()).args(&words[1..]);
        command.stdin(Stdio::null());
        command
    }

    /// The value of a variable that `scripts/stack` prints.
    pub(crate) fn variable(&self, name: &str) -> String {
        self.variables.get(name).unwrap_or_else(|| panic!("{name} in {:?}", self.variables)).clone()
    }

    /// A place on its RabbitMQ and its Redis.
    pub(crate) fn place(&self) -> Place {
        let (amqp, api) = (self.variable("GLEITZEIT_AMQP_URL"), self.variable("GLEITZEIT_RABBITMQ_API"));
        let server = Server::at(&amqp, &api).expect("addresses");
        Place::on(&server, self.variable("GLEITZEIT_REDIS_URL"))
    }

    /// Runs `rabbitmqctl` on its node; what it prints.
    pub(crate) fn rabbitmqctl(&self, words: &[&str]) -> String {
        let program = self.variable("GLEITZEIT_STACK_RABBITMQCTL");
        let output = Command::new(program).args(words).stdin(Stdio::null()).output().expect("it starts");
        assert!(output.status.success(), "rabbitmqctl {words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.command(&["stop", "--purge"]).output();
    }
}
