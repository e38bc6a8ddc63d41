//! Finds the names that a misspelt one may have meant, so that a refusal can say "did you mean".

/// Longest name that is compared; nobody misspells more, and the work grows with the square.
const LENGTH_MAX: usize = 64;

/// How many suggestions are worth reading.
const SUGGESTIONS_MAX: usize = 3;

/// The names of `known` that are nearest to `wanted`, nearest first, at most three, often none.
///
/// Near means: at most a third of the letters differ (at least one may), upper and lower case being the same.
pub fn near<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted_letters: Vec<char> = wanted.to_lowercase().chars().take(LENGTH_MAX + 1).collect();
    if wanted_letters.len() > LENGTH_MAX {
        return Vec::new();
    }
    let differences_max = (wanted_letters.len() / 3).max(1);
    let mut found: Vec<(usize, &str)> = Vec::new();
    for name in known {
        let letters: Vec<char> = name.to_lowercase().chars().take(LENGTH_MAX + 1).collect();
        if letters.len().abs_diff(wanted_letters.len()) > differences_max {
            continue;
        }
        let differences = differences(&wanted_letters, &letters);
        if differences <= differences_max {
            found.push((differences, name));
        }
    }
    found.sort();
    found.dedup();
    found.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| name).collect()
}

/// `; did you mean a, b?`, or nothing when nothing is near. Made to end a message.
pub fn did_you_mean<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let names = near(wanted, known);
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(", ")) }
}

/// Levenshtein's distance: the fewest letters to insert, remove or replace.
fn differences(left: &[char], right: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, left_letter) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right_letter) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(left_letter != right_letter);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_its_neighbours() {
        let known = ["execute", "validate", "echo", "ping"];
        let check = |wanted: &str, expected: &[&str]| assert_eq!(near(wanted, known), expected, "{wanted}");
        check("exectue", &["execute"]);
        check("EXECUTE", &["execute"]);
        check("pong", &["ping"]);
        check("validte", &["validate"]);
        check("", &[]);
        check("summarise", &[]);
        check(&"x".repeat(1000), &[]);
    }

    #[test]
    fn the_hint_ends_a_message_or_is_empty() {
        assert_eq!(did_you_mean("temprature", ["temperature", "model"]), "; did you mean temperature?");
        assert_eq!(did_you_mean("zzz", ["temperature", "model"]), "");
    }
}
