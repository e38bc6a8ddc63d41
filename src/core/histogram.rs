//! How values are spread: counted in buckets whose width grows with the values, so that the size is bounded and the error
//! of a quantile is too.
//!
//! ```text
//! 0, 1, .. 15      a bucket each: exact
//! 16 .. 31         a bucket each
//! 32 .. 63         16 buckets of 2
//! 2^e .. 2^(e+1)   16 buckets of 2^(e-4)
//! ```
//! What is told of a bucket is its middle: off by less than a 32nd of the value. Histograms add up to what one of all
//! values would be.

use std::collections::BTreeMap;

/// Buckets for each power of two.
const PARTS: u64 = 16;
/// Of `PARTS`, as a power of two.
const PARTS_BITS: u32 = 4;

/// How many buckets there are for all values of 64 bits.
pub const BUCKETS_MAX: u16 = 976;

/// How many values were seen of each size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Only those that have any.
    buckets: BTreeMap<u16, u64>,
    max: u64,
}

impl Histogram {
    /// Counts a value.
    pub fn note(&mut self, value: u64) {
        *self.buckets.entry(bucket_of(value)).or_default() += 1;
        self.max = self.max.max(value);
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (bucket, count) in &other.buckets {
            let own = self.buckets.entry(*bucket).or_default();
            *own = own.saturating_add(*count);
        }
        self.max = self.max.max(other.max);
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The largest value, exactly; `None` without any.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        (!self.buckets.is_empty()).then_some(self.max)
    }

    /// The value that this share of all values (0 to 1) is not above, nearly; `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let rank = ((share.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0_u64;
        for (bucket, count) in &self.buckets {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                return Some(middle_of(*bucket).min(self.max));
            }
        }
        // Rounding may make the rank one more than there are.
        self.max()
    }

    /// The buckets that have any, in order, with their counts.
    pub fn buckets(&self) -> impl Iterator<Item = (u16, u64)> {
        self.buckets.iter().map(|(bucket, count)| (*bucket, *count))
    }

    /// What [`Histogram::buckets`] and [`Histogram::max`] gave; `None` if that is not of one.
    #[must_use]
    pub fn of(buckets: impl IntoIterator<Item = (u16, u64)>, max: u64) -> Option<Histogram> {
        let mut read = Histogram { buckets: BTreeMap::new(), max };
        for (bucket, count) in buckets {
            if bucket >= BUCKETS_MAX || count == 0 || read.buckets.insert(bucket, count).is_some() {
                return None;
            }
        }
        let last = read.buckets.keys().next_back().copied();
        (last.map_or(max == 0, |last| last == bucket_of(max))).then_some(read)
    }
}

fn bucket_of(value: u64) -> u16 {
    if value < PARTS {
        return u16::try_from(value).expect("less than 16");
    }
    let power = value.ilog2();
    let part = (value >> (power - PARTS_BITS)) & (PARTS - 1);
    let bucket = PARTS * u64::from(power - PARTS_BITS + 1) + part;
    u16::try_from(bucket).expect("61 powers of two with 16 buckets each")
}

fn middle_of(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    let (lowest, width) = ((PARTS + bucket % PARTS) << shift, 1_u64 << shift);
    lowest + (width - 1) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.note(*value));
        histogram
    }

    /// Values of every size.
    fn values() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec((any::<u64>(), 0..64_u32).prop_map(|(value, shift)| value >> shift), 1..200)
    }

    #[test]
    fn small_values_are_exact_and_the_largest_of_all_has_a_bucket() {
        for value in 0..32 {
            assert_eq!(of(&[value]).quantile(0.5), Some(value));
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS_MAX - 1);
        assert_eq!(of(&[u64::MAX]).max(), Some(u64::MAX));
        assert_eq!((of(&[]).quantile(0.5), of(&[]).max(), of(&[]).count()), (None, None, 0));
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_32nd_of_the_exact_one(mut values in values(), share in 0.0..=1.0_f64) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let told = histogram.quantile(share).expect("there are values");
            prop_assert!(told.abs_diff(exact) <= exact / 32, "{} for {}", told, exact);
            prop_assert!(told <= values[values.len() - 1], "never more than the largest");
            prop_assert_eq!(histogram.max(), values.last().copied());
        }

        #[test]
        fn parts_add_up_to_the_whole_in_any_order(values in values(), at in 0..200_usize) {
            let at = at.min(values.len());
            let (mut one, mut two) = (of(&values[..at]), of(&values[at..]));
            let (first, second) = (one.clone(), two.clone());
            one.merge(&second);
            two.merge(&first);
            prop_assert_eq!(&one, &of(&values));
            prop_assert_eq!(&two, &one);
            prop_assert_eq!(one.count(), values.len() as u64);
        }

        #[test]
        fn what_it_holds_reads_back_and_is_bounded(values in values()) {
            let histogram = of(&values);
            let read = Histogram::of(histogram.buckets(), histogram.max().unwrap_or_default());
            prop_assert_eq!(read, Some(histogram.clone()));
            prop_assert!(histogram.buckets().count() <= usize::from(BUCKETS_MAX));
        }

        #[test]
        fn buckets_are_in_the_order_of_their_values(value in any::<u64>(), shift in 0..64_u32) {
            let value = value >> shift;
            prop_assert_eq!(bucket_of(middle_of(bucket_of(value))), bucket_of(value));
            prop_assert!(bucket_of(value) <= bucket_of(value.saturating_add(1)));
        }
    }

    #[test]
    fn what_is_of_no_histogram_is_not_read() {
        for (buckets, max) in [
            (vec![(BUCKETS_MAX, 1)], 1),
            (vec![(1, 0)], 1),
            (vec![(1, 1), (1, 1)], 1),
            (vec![(1, 1)], 7),
            (vec![], 1),
        ] {
            assert_eq!(Histogram::of(buckets.clone(), max), None, "{buckets:?} {max}");
        }
    }
}
