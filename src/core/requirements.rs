//! What a method or a task asks of the machine it runs on, and how far it wants to be confined.
//!
//! Both are plain data. A task only tightens what its method and the operator grant; that is decided where
//! the limits are enforced.

use serde::{Deserialize, Serialize};

use crate::core::violation::{Path, Violation, Violations};

/// Longest execution that can be asked for, in seconds: a week.
pub const EXECUTION_TIMEOUT_MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// Most processor cores that can be asked for.
pub const CPU_CORES_MAX: f64 = 1024.0;

/// The largest amount of memory or disk in MiB, or bandwidth in Mbit/s, that can be asked for.
pub const AMOUNT_MAX: u64 = 1 << 24;

/// Most entries in one list of modules or paths.
pub const LIST_MAX: usize = 1000;

/// Resources that one execution needs. What is absent is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceRequirements {
    /// CPU cores, above 0, at most 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<f64>,
    /// Memory in MiB, 1 to 2^24.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Memory of the graphics processor in MiB, 1 to 2^24.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_mb: Option<u64>,
    /// Temporary disk space in MiB, 1 to 2^24.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_space_mb: Option<u64>,
    /// Network bandwidth in Mbit/s, 1 to 2^24.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_bandwidth_mbps: Option<u64>,
    /// Longest execution in seconds, above 0, at most [`EXECUTION_TIMEOUT_MAX_SECONDS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_timeout: Option<f64>,
}

impl ResourceRequirements {
    /// The keys that it is written with.
    pub const KEYS: [&'static str; 6] = [
        "cpu_cores",
        "memory_mb",
        "gpu_memory_mb",
        "disk_space_mb",
        "network_bandwidth_mbps",
        "execution_timeout",
    ];

    /// These, and what `other` says of what they do not say.
    #[must_use]
    pub fn or(self, other: &ResourceRequirements) -> ResourceRequirements {
        ResourceRequirements {
            cpu_cores: self.cpu_cores.or(other.cpu_cores),
            memory_mb: self.memory_mb.or(other.memory_mb),
            gpu_memory_mb: self.gpu_memory_mb.or(other.gpu_memory_mb),
            disk_space_mb: self.disk_space_mb.or(other.disk_space_mb),
            network_bandwidth_mbps: self.network_bandwidth_mbps.or(other.network_bandwidth_mbps),
            execution_timeout: self.execution_timeout.or(other.execution_timeout),
        }
    }

    /// Every value that is out of its bounds, with paths below `root`.
    pub fn check(&self, root: &str) -> Vec<Violation> {
        let root = Path::Root(root);
        let mut violations = Violations::default();
        let fractions = [
            ("cpu_cores", self.cpu_cores, CPU_CORES_MAX),
            ("execution_timeout", self.execution_timeout, EXECUTION_TIMEOUT_MAX_SECONDS),
        ];
        for (name, value, max) in fractions {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && *value <= max)) {
                violations.add(&root.key(name), format!("found {value}"), format!("above 0, at most {max}"));
            }
        }
        let counts = [
            ("memory_mb", self.memory_mb),
            ("gpu_memory_mb", self.gpu_memory_mb),
            ("disk_space_mb", self.disk_space_mb),
            ("network_bandwidth_mbps", self.network_bandwidth_mbps),
        ];
        for (name, value) in counts {
            if let Some(value) = value.filter(|value| !(1..=AMOUNT_MAX).contains(value)) {
                violations.add(&root.key(name), format!("found {value}"), format!("1 to {AMOUNT_MAX}"));
            }
        }
        violations.into_vec()
    }
}

/// How strongly foreign code is confined, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IsolationLevel {
    /// A process group and a clean environment; not a boundary.
    None,
    /// Landlock and a system call filter.
    Landlock,
    /// Namespaces of its own besides.
    Namespaces,
    /// A container.
    #[serde(alias = "docker")]
    Container,
}

/// How far an execution wants to be confined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityRequirements {
    /// The weakest level that will do; absent: what the operator set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<IsolationLevel>,
    /// Whether the network is needed (`true`) or must be closed (`false`); absent: what the operator set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<bool>,
    /// Modules that may be imported; absent: all but the blocked ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_modules: Option<Vec<String>>,
    /// Modules that must not be imported.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked_modules: Vec<String>,
    /// Files and directories that must be readable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read_paths: Vec<String>,
}

impl SecurityRequirements {
    /// The keys that it is written with.
    pub const KEYS: [&'static str; 5] =
        ["level", "network", "allowed_modules", "blocked_modules", "read_paths"];

    /// Every list that is too long or names nothing, with paths below `root`.
    pub fn check(&self, root: &str) -> Vec<Violation> {
        let root = Path::Root(root);
        let mut violations = Violations::default();
        let lists = [
            ("allowed_modules", self.allowed_modules.as_deref().unwrap_or_default()),
            ("blocked_modules", &self.blocked_modules),
            ("read_paths", &self.read_paths),
        ];
        for (name, list) in lists {
            let path = root.key(name);
            if list.len() > LIST_MAX {
                violations.add(&path, format!("has {} entries", list.len()), format!("at most {LIST_MAX}"));
                continue;
            }
            for (index, entry) in list.iter().enumerate() {
                if entry.is_empty() || entry.contains('\0') {
                    violations.add(&path.index(index), format!("found {entry:?}"), "a name or a path");
                }
            }
        }
        violations.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_are_read_and_bounded() {
        let check = |value: serde_json::Value, expected: &[&str]| {
            let resources: ResourceRequirements = serde_json::from_value(value).expect("well typed");
            let paths: Vec<String> = resources.check("resources").into_iter().map(|v| v.path).collect();
            assert_eq!(paths, expected);
        };
        check(json!({}), &[]);
        check(json!({"cpu_cores": 0.5, "memory_mb": 256, "execution_timeout": 30}), &[]);
        check(json!({"cpu_cores": 0, "memory_mb": 0}), &["resources.cpu_cores", "resources.memory_mb"]);
        check(json!({"execution_timeout": 1e9}), &["resources.execution_timeout"]);
        check(json!({"disk_space_mb": 1_u64 << 40}), &["resources.disk_space_mb"]);
    }

    #[test]
    fn security_is_read_and_levels_are_ordered() {
        let security: SecurityRequirements = serde_json::from_value(
            json!({"level": "docker", "network": false, "blocked_modules": ["os", ""]}),
        )
        .expect("well typed");
        assert_eq!(security.level, Some(IsolationLevel::Container));
        assert!(IsolationLevel::Landlock < IsolationLevel::Namespaces);
        assert_eq!(security.check("s")[0].path, "s.blocked_modules[1]");
        assert_eq!(
            serde_json::to_value(&security).expect("plain data"),
            json!({"level": "container", "network": false, "blocked_modules": ["os", ""]})
        );
    }

    #[test]
    fn the_listed_keys_are_the_ones_that_are_written() {
        let resources = json!({"cpu_cores": 1.0, "memory_mb": 1, "gpu_memory_mb": 1, "disk_space_mb": 1,
            "network_bandwidth_mbps": 1, "execution_timeout": 1.0});
        let read: ResourceRequirements = serde_json::from_value(resources.clone()).expect("well typed");
        assert_eq!(serde_json::to_value(read).expect("plain data"), resources);
        assert_eq!(
            resources.as_object().expect("object").keys().collect::<Vec<_>>(),
            ResourceRequirements::KEYS
        );
    }
}
