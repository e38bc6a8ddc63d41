//! Slots: a cron expression in a time zone.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use std::fmt;

use crate::core::clock::Timestamp;

/// The longest cron expression, in bytes.
pub const CRON_BYTES_MAX: usize = 256;

/// The longest name of a time zone, in bytes.
const ZONE_BYTES_MAX: usize = 64;

/// The slots of a cron expression in a time zone.
#[derive(Clone)]
pub struct Timetable {
    cron_text: String,
    zone_name: String,
    cron: Cron,
    zone: TimeZone,
}

impl fmt::Debug for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timetable").field(&self.cron_text).field(&self.zone_name).finish()
    }
}

impl PartialEq for Timetable {
    fn eq(&self, other: &Timetable) -> bool {
        (&self.cron_text, &self.zone_name) == (&other.cron_text, &other.zone_name)
    }
}

/// What is wrong with a cron expression; `None` if nothing is.
#[must_use]
pub fn check_cron(text: &str) -> Option<String> {
    read_cron(text).err()
}

/// What is wrong with the name of a time zone; `None` if nothing is.
#[must_use]
pub fn check_zone(name: &str) -> Option<String> {
    read_zone(name).err()
}

impl Timetable {
    /// The slots of `cron`, five fields (minute, hour, day of the month, month, day of the week), six with seconds
    /// in front, or `@hourly` and the like, in the zone of that IANA name.
    ///
    /// # Errors
    /// What is wrong with the expression or the zone.
    pub fn new(cron: &str, zone: &str) -> Result<Timetable, String> {
        Ok(Timetable {
            cron: read_cron(cron)?,
            zone: read_zone(zone)?,
            cron_text: cron.to_owned(),
            zone_name: zone.to_owned(),
        })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn cron(&self) -> &str {
        &self.cron_text
    }

    /// The zone's name.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// The first slot later than `time`; `None` if there is none in the next centuries.
    #[must_use]
    pub fn after(&self, time: Timestamp) -> Option<Timestamp> {
        // Slots are whole seconds, so what is behind the second does not matter and must not confuse the search.
        let second = time.as_millis().div_euclid(1000);
        let from = jiff::Timestamp::from_second(second).ok()?.to_zoned(self.zone.clone());
        let slot = self.cron.find_next_occurrence(&from, false).ok()?;
        let slot = Timestamp::from_millis(slot.timestamp().as_second().checked_mul(1000)?);
        // A chain of slots that does not rise would never end.
        (slot > time).then_some(slot)
    }

    /// The slots at or after `time`, in order.
    pub fn from(&self, time: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        let first = self.after(millis_before(time));
        std::iter::successors(first, |slot| self.after(*slot))
    }

    /// A time as it is in the zone: `2026-03-29T03:00:00+02:00`.
    #[must_use]
    pub fn local(&self, time: Timestamp) -> String {
        let Ok(instant) = jiff::Timestamp::from_millisecond(time.as_millis()) else {
            return time.to_string();
        };
        instant.to_zoned(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }

    /// The newest slots in `[from, now]`, at most `max`, in order.
    pub(super) fn newest(&self, from: Timestamp, now: Timestamp, max: usize) -> Vec<Timestamp> {
        let slots = |from: Timestamp, most: usize| -> Vec<Timestamp> {
            self.from(from).take_while(|slot| *slot <= now).take(most).collect()
        };
        let found = slots(from, max + 1);
        if found.len() <= max {
            return found;
        }
        // Too many from `low` on and not from `high` on: the fewer there are, the later one begins.
        let (mut low, mut high) = (from.as_millis(), now.as_millis() + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if slots(Timestamp::from_millis(middle), max + 1).len() > max {
                low = middle;
            } else {
                high = middle;
            }
        }
        slots(Timestamp::from_millis(high), max)
    }
}

fn millis_before(time: Timestamp) -> Timestamp {
    Timestamp::from_millis(time.as_millis().saturating_sub(1))
}

fn read_cron(text: &str) -> Result<Cron, String> {
    if text.len() > CRON_BYTES_MAX {
        return Err(format!("it has more than {CRON_BYTES_MAX} characters"));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let cron = parser.parse(text).map_err(|error| lowercase(&error.to_string()))?;
    // One that never comes (30 February) is a mistake.
    let any = jiff::Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    match cron.find_next_occurrence(&any, false) {
        Ok(_) => Ok(cron),
        Err(_) => Err("no day ever matches it".to_owned()),
    }
}

fn read_zone(name: &str) -> Result<TimeZone, String> {
    // A name of the database; never a path, and never what the machine's own zone happens to be.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
    let is_name = !name.is_empty() && name.len() <= ZONE_BYTES_MAX && name.bytes().all(allowed);
    let zone = is_name.then(|| TimeZone::get(name).ok()).flatten();
    zone.ok_or_else(|| "no time zone has this name".to_owned())
}

/// As our own messages are.
fn lowercase(text: &str) -> String {
    let text = text.trim_end_matches('.').trim_start_matches("Invalid pattern: ");
    let text = text.trim_start_matches("Component error: ");
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}
