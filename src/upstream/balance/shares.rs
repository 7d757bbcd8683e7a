//! Dividing by weight without any state: a number from 0 to 1 falls on one of the weights.

/// The position of the weight on which `point` falls, if the weights cover the numbers from 0 to 1.
pub fn drawn(weights: impl Iterator<Item = u32> + Clone, point: f64) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    let target = point * total as f64;
    let mut covered = 0;
    let mut last = None;
    for (position, weight) in weights.enumerate() {
        if weight == 0 {
            continue;
        }
        covered += u64::from(weight);
        last = Some(position);
        if target < covered as f64 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::split_point;
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(weights: &[u32], point: f64, expected: Option<usize>) {
        assert_eq!(
            drawn(weights.iter().copied(), point),
            expected,
            "{weights:?} {point}"
        );
    }

    #[test]
    fn a_point_falls_on_a_weight() {
        check(&[90, 10], 0.0, Some(0));
        check(&[90, 10], 0.899, Some(0));
        check(&[90, 10], 0.9, Some(1));
        check(&[90, 10], 0.999_999, Some(1));
        check(&[0, 10], 0.0, Some(1));
        check(&[10, 0], 1.0, Some(0));
        check(&[0, 0], 0.5, None);
        check(&[], 0.5, None);
    }

    proptest! {
        /// Shares are as the weights say, and a greater weight takes keys from others and loses none.
        #[test]
        fn keys_are_divided_by_weight(weights in prop::collection::vec(1..100u32, 2..5), more in 1..100u32) {
            const KEYS: u32 = 4000;
            let points: Vec<f64> = (0..KEYS).map(|key| split_point(&key.to_be_bytes())).collect();
            let total: u32 = weights.iter().sum();
            for (at, weight) in weights.iter().enumerate() {
                let got = points.iter().filter(|point| drawn(weights.iter().copied(), **point) == Some(at));
                let (got, share) = (got.count() as f64 / f64::from(KEYS), f64::from(*weight) / f64::from(total));
                prop_assert!((got - share).abs() < 0.05, "{} {}", got, share);
            }
            let mut grown = weights.clone();
            grown[0] += more;
            for point in points {
                let before = drawn(weights.iter().copied(), point);
                let after = drawn(grown.iter().copied(), point);
                prop_assert!(before != Some(0) || after == Some(0));
            }
        }
    }
}
