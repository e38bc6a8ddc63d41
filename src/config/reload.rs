//! What may change while a worker runs, and what may not.
//!
//! | keys | at run time |
//! |---|---|
//! | `limits.*` | hold from the next call on |
//! | `breaker.*` | hold from the next call on |
//! | `providers.NAME.weight`, `rank` (not of kind `mcp`), `region`, `models`, `labels`, `gpu_memory_mb` | hold from the next call on |
//! | `providers.NAME.pool.min`, `pool.max` | the pool grows or shrinks to it |
//! | all of a `providers.NAME` that was not there, or is there no more | it comes, or goes |
//! | everything else | refused, by its name |

use std::collections::BTreeSet;

use super::Config;
use super::limits::LIMITS;
use super::providers::{INSTANCES, kind_of, split};

/// What is said of a provider to those who choose.
const TRAITS: [&str; 6] = ["weight", "rank", "region", "models", "labels", "gpu_memory_mb"];
/// How many instances it has.
const BOUNDS: [&str; 2] = ["pool.min", "pool.max"];

/// How a configuration differs from one that was read before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Every key that differs, but for the values, which may be secret.
    pub keys: Vec<String>,
    /// Those that cannot change at run time.
    pub refused: Vec<String>,
    /// Providers whose number of instances differs.
    pub pools: BTreeSet<String>,
}

impl Config {
    /// How `new` differs from this one.
    #[must_use]
    pub fn changes(&self, new: &Config) -> Changes {
        let keys: BTreeSet<&String> = self.values.keys().chain(new.values.keys()).collect();
        let of = |config: &Config, key: &str| config.values.get(key).map(|(value, _)| value.clone());
        let mut changes = Changes::default();
        for key in keys.into_iter().filter(|key| of(self, key) != of(new, key)) {
            changes.keys.push(key.clone());
            if let Some((name, said)) = split(key) {
                if !self.has_provider(name) || !new.has_provider(name) {
                    continue;
                }
                // A server of tools that gets its first rank means other names.
                let is_of_mcp = said == "rank" && kind_of(&self.values, name) == Some("mcp");
                if TRAITS.contains(&said) && !is_of_mcp {
                    continue;
                }
                if BOUNDS.contains(&said) {
                    changes.pools.insert(name.to_owned());
                    continue;
                }
            } else if key.starts_with(LIMITS) || key.starts_with("breaker.") {
                continue;
            }
            changes.refused.push(key.clone());
        }
        changes
    }

    /// Whether it configures a provider of this name.
    #[must_use]
    pub fn has_provider(&self, name: &str) -> bool {
        self.values.contains_key(&format!("{INSTANCES}{name}.kind"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::providers::tests::read;

    const BEFORE: &str = "[providers.a]\nkind = 'rpc'\nprotocol = 'a/v1'\ncommand = ['a']\npool.max = 2\n\
         [providers.old]\nkind = 'ollama'\nurl = 'http://o'\n[limits.l]\nprotocol = 'a/v1'\nrate = '1/s'\n";

    #[test]
    fn what_may_change_is_told_from_what_may_not_by_the_names_of_keys() {
        let before = read(BEFORE).expect("valid");
        assert_eq!(before.changes(&before), super::Changes::default());
        let after = read(
            "[providers.a]\nkind = 'rpc'\nprotocol = 'a/v1'\ncommand = ['b']\npool.max = 3\nweight = 2\n\
             [providers.new]\nkind = 'ollama'\nurl = 'http://n'\n[limits.l]\nprotocol = 'a/v1'\nrate = '2/s'\n\
             [worker]\ngrace = 1\n[breaker]\nfailures = 9\n",
        )
        .expect("valid");
        let changes = before.changes(&after);
        assert_eq!(changes.refused, ["providers.a.command", "worker.grace"]);
        assert_eq!(Vec::from_iter(&changes.pools), ["a"]);
        for key in [
            "breaker.failures",
            "limits.l.rate",
            "providers.a.pool.max",
            "providers.a.weight",
            "providers.new.url",
            "providers.old.kind",
        ] {
            assert!(changes.keys.iter().any(|changed| changed == key), "{key} in {changes:?}");
        }
    }
}
