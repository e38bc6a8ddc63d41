//! What this process may use of the machine: processors by its affinity and control groups, memory by its control groups
//! and what the machine has.

use std::path::{Path, PathBuf};

use crate::core::resources::{Kind, Totals};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";
/// Of this size or more, a limit of memory in the old hierarchy is none.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Processors and memory; what cannot be found out is not limited.
pub(super) fn totals() -> Totals {
    // It knows of affinity and of the quotas of control groups.
    let cores = std::thread::available_parallelism().ok().and_then(|cores| u64::try_from(cores.get()).ok());
    let memory = memory_bytes(&|path| std::fs::read_to_string(path).ok());
    let totals = Totals::default().with(Kind::Cpu, cores.map(|cores| cores.saturating_mul(1000)));
    totals.with(Kind::Memory, memory.map(|bytes| bytes / (1024 * 1024)))
}

/// The least of the machine's memory and the limits of every control group that the process is in.
fn memory_bytes(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let of_machine = read(Path::new("/proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let of_groups = groups.lines().filter_map(|line| {
        // `0::/a/b`, or in the old hierarchy `5:memory:/a/b`.
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        match controllers {
            "" => Some((PathBuf::from(GROUPS), group, "memory.max")),
            _ if controllers.split(',').any(|one| one == "memory") => {
                Some((PathBuf::from(GROUPS).join("memory"), group, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    let limits = of_groups.flat_map(|(root, group, file)| {
        // What a container sees of its groups may begin at its own one.
        let folders: Vec<PathBuf> = Path::new(group.trim_start_matches('/'))
            .ancestors()
            .map(|path| root.join(path).join(file))
            .collect();
        folders
    });
    let limits = limits.filter_map(|file| read(&file)?.trim().parse::<u64>().ok());
    limits.filter(|bytes| *bytes < NO_LIMIT_BYTES).chain(of_machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_least_of_what_there_is_and_what_groups_allow() {
        let bytes = |files: &[(&str, &str)]| {
            let read = |path: &Path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| (*text).to_owned())
            };
            memory_bytes(&read)
        };
        let machine = ("/proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n");
        assert_eq!(bytes(&[]), None);
        assert_eq!(bytes(&[machine]), Some(2 << 20));
        let new = ("/proc/self/cgroup", "0::/pod/worker\n");
        let outer = ("/sys/fs/cgroup/pod/memory.max", "1048576\n");
        let inner = ("/sys/fs/cgroup/pod/worker/memory.max", "max\n");
        assert_eq!(bytes(&[machine, new, outer, inner]), Some(1 << 20));
        let root = ("/sys/fs/cgroup/memory.max", "4096\n");
        assert_eq!(bytes(&[machine, ("/proc/self/cgroup", "0::/\n"), root]), Some(4096));
        let old = ("/proc/self/cgroup", "9:cpu,cpuacct:/a\n8:memory:/a\n");
        let none = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        let some = ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "524288\n");
        assert_eq!(bytes(&[machine, old, none]), Some(2 << 20));
        assert_eq!(bytes(&[machine, old, none, some]), Some(1 << 19));
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let totals = totals();
        assert!(totals.get(Kind::Cpu).is_some_and(|cores| cores >= 1000));
        assert!(totals.get(Kind::Memory).is_some_and(|megabytes| megabytes > 16));
    }
}
