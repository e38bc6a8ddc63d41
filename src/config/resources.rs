//! What tasks may hold at once: `[worker.resources]`.

use std::collections::BTreeMap;
use toml::Value;

use super::{Config, Origin};
use crate::core::requirements::{AMOUNT_MAX, CPU_CORES_MAX};
use crate::core::resources::{Kind, Totals, thousandths};

/// What these keys start with; the rest is the name of a kind.
pub(super) const RESOURCES: &str = "worker.resources.";

/// What is said of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// What there is.
    Auto,
    /// As much as is asked for.
    Unlimited,
    /// So much.
    Amount(u64),
}

impl Config {
    /// What tasks may hold at once. `machine`: what this process may use.
    #[must_use]
    pub fn resources(&self, machine: &Totals) -> Totals {
        let total = |kind: Kind| match read(kind, self.text(&format!("{RESOURCES}{}", kind.name()))) {
            Some(Said::Auto) => machine.get(kind),
            Some(Said::Amount(amount)) => Some(amount),
            // The checks while loading have refused all others.
            Some(Said::Unlimited) | None => None,
        };
        Kind::ALL.into_iter().fold(Totals::default(), |totals, kind| totals.with(kind, total(kind)))
    }
}

/// Every problem with these keys.
pub(super) fn problems(values: &BTreeMap<String, (Value, Origin)>) -> Vec<String> {
    let problem = |kind: Kind| {
        let key = format!("{RESOURCES}{}", kind.name());
        let (value, origin) = values.get(&key)?;
        let is_right = value.as_str().is_some_and(|text| read(kind, text).is_some());
        let words = if has_auto(kind) { "\"auto\", \"unlimited\"" } else { "\"unlimited\"" };
        let number = match kind {
            Kind::Cpu => format!("a number, at most {CPU_CORES_MAX}"),
            Kind::Memory | Kind::GpuMemory | Kind::Disk | Kind::Bandwidth => {
                format!("a whole number, at most {AMOUNT_MAX}")
            }
        };
        (!is_right).then(|| format!("{origin}: {key} must be {words} or {number}"))
    };
    Kind::ALL.into_iter().filter_map(problem).collect()
}

fn has_auto(kind: Kind) -> bool {
    matches!(kind, Kind::Cpu | Kind::Memory)
}

fn read(kind: Kind, text: &str) -> Option<Said> {
    match (text, kind) {
        ("auto", _) => has_auto(kind).then_some(Said::Auto),
        ("unlimited", _) => Some(Said::Unlimited),
        (text, Kind::Cpu) => {
            let cores: f64 = text.parse().ok()?;
            (0.0..=CPU_CORES_MAX).contains(&cores).then(|| Said::Amount(thousandths(cores)))
        }
        (text, Kind::Memory | Kind::GpuMemory | Kind::Disk | Kind::Bandwidth) => {
            text.parse().ok().filter(|amount| *amount <= AMOUNT_MAX).map(Said::Amount)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::providers::tests::read;
    use super::*;

    #[test]
    fn what_tasks_may_hold_is_what_there_is_unless_something_is_said() {
        let machine = Totals::default().with(Kind::Cpu, Some(2000)).with(Kind::Memory, Some(4096));
        let resources = |text: &str| read(text).expect("valid").resources(&machine);
        assert_eq!(resources(""), machine);
        let said = resources(
            "[worker.resources]\ncpu_cores = 1.5\nmemory_mb = 'unlimited'\ngpu_memory_mb = 0\ndisk_space_mb = '7'\n",
        );
        let wanted = Totals::default().with(Kind::Cpu, Some(1500)).with(Kind::GpuMemory, Some(0));
        assert_eq!(said, wanted.with(Kind::Disk, Some(7)));
        assert_eq!(resources("[worker.resources]\ncpu_cores = 4").get(Kind::Cpu), Some(4000));
    }

    #[test]
    fn what_is_no_amount_is_told() {
        let said = read(
            "[worker.resources]\ncpu_cores = -1\nmemory_mb = 1.5\ngpu_memory_mb = 'auto'\ndisk_space_mb = 'much'\n\
             network_bandwidth_mbps = true\nmemory = 5\n",
        )
        .expect_err("all of it is wrong");
        for part in [
            "worker.resources.cpu_cores must be \"auto\", \"unlimited\" or a number, at most 1024",
            "worker.resources.memory_mb must be \"auto\", \"unlimited\" or a whole number",
            "worker.resources.gpu_memory_mb must be \"unlimited\" or a whole number",
            "worker.resources.disk_space_mb must be",
            "worker.resources.network_bandwidth_mbps must be of type string, not boolean",
            "no key worker.resources.memory;",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}
