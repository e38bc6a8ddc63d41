//! Durations as people write them: `90`, `90s`, `5m`, `2h`, `1.5d`.

use std::time::Duration;

use super::reading::SECONDS_MAX;

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no duration; write seconds (90) or a number with s, m, h or d (90s, 5m, 2h, 1d), at most 10 years"
)]
pub struct InvalidDuration(String);

/// Reads a number, with or without a fraction, and a unit: `s` seconds (also without a unit), `m` minutes, `h` hours,
/// `d` days of 24 hours. Nothing is negative, nothing longer than ten years.
///
/// # Errors
/// [`InvalidDuration`] for anything else.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let wrong = || InvalidDuration(text.chars().take(40).collect());
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 24.0 * 3600.0,
        _ => return Err(wrong()),
    };
    let is_plain = number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let seconds = number.parse::<f64>().ok().filter(|_| is_plain).map(|number| number * unit);
    let seconds = seconds.filter(|seconds| *seconds <= SECONDS_MAX).ok_or_else(wrong)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_or_without_a_unit_is_a_duration() {
        for (text, seconds) in [
            ("90", 90.0),
            ("90s", 90.0),
            ("5m", 300.0),
            ("2h", 7200.0),
            ("1d", 86_400.0),
            ("0.5", 0.5),
            ("1.5h", 5400.0),
            ("0", 0.0),
            ("3660d", 316_224_000.0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_named() {
        for text in [
            "", "s", "-1", "+1", "1e3", "1 h", "1h30m", "5M", "1w", "1..5", "inf", "NaN", "3661d", "1ms", "١",
        ] {
            let refused = parse(text).expect_err(text).to_string();
            assert!(refused.starts_with(&format!("{text:?} is no duration")), "{refused}");
        }
    }
}
