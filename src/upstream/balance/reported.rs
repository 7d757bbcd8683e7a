//! What endpoints carry by their own reports, for picks.
//!
//! A process knows its own leases at once, and those of all proxies only from a report, which is old by the time
//! of the pick. If every proxy added only its own changes since, each of them would send everything to the
//! endpoint that was the least loaded then, and together they would overload it. So a change here stands for as
//! many as all proxies have made, if they are like this one.

/// The parts of a weight's factor: a report may say 0.01.
pub const WEIGHT_PARTS: u32 = 100;

/// The maximum of [`fleet_scale`]. A process that has just started has next to nothing of the total.
const MAX_SCALE: f32 = 1000.0;

/// The leases of this process in a group of [`fleet_scale`], at least.
const MIN_GROUP_OWN: u64 = 4;

/// What an endpoint has reported, and what this process had there at that time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReportedTotal {
    /// The tunnels of the endpoint, over all proxies.
    pub tunnels: u32,
    /// The leases of this process when the report arrived.
    pub own: u32,
}

impl ReportedTotal {
    /// The load of the endpoint now that this process has `own` leases, where each that has come or gone here
    /// since stands for `scale`: those of all proxies. Never less than `own`. Of an endpoint that has not
    /// reported, the default gives a load that can be compared with those of others.
    pub fn load(self, own: usize, scale: f32) -> usize {
        let change = own as f32 - self.own as f32;
        let load = self.tunnels as f32 + change * scale;
        (load.max(0.0) as usize).max(own)
    }

    /// The total as far as this process knows it: with its own changes, and no others.
    pub fn total(self, own: usize) -> usize {
        let total = (self.tunnels as usize).saturating_add(own);
        total.saturating_sub(self.own as usize).max(own)
    }
}

/// How many tunnels all proxies have for each lease of this process: at least 1.
///
/// An endpoint that reports something else than its tunnels, such as all that it has ever had, must not change what
/// the others get. So this is the median of several groups, each with enough leases of this process that their number
/// is not mere chance.
pub fn fleet_scale(reports: impl Iterator<Item = ReportedTotal>) -> f32 {
    let mut groups: Vec<(u64, u64)> = Vec::new();
    let (mut all, mut own) = (0, 0);
    for report in reports {
        all += u64::from(report.tunnels);
        own += u64::from(report.own);
        if own >= MIN_GROUP_OWN {
            groups.push((all, own));
            (all, own) = (0, 0);
        }
    }
    match groups.last_mut() {
        Some(last) => *last = (last.0 + all, last.1 + own),
        None => groups.push((all, own)),
    }
    let ratios = groups
        .iter()
        .map(|(all, own)| *all as f32 / (*own).max(1) as f32);
    let mut ratios: Vec<f32> = ratios.collect();
    ratios.sort_unstable_by(f32::total_cmp);
    // The lower one of two: wrong totals are usually too large.
    let median = ratios.get((ratios.len() - 1) / 2);
    median.copied().unwrap_or(1.0).clamp(1.0, MAX_SCALE)
}

#[cfg(test)]
mod tests {
    use super::super::{Balancer, Candidate, Policy};
    use super::*;
    use proptest::prelude::*;

    const NODES: usize = 20;

    fn report(tunnels: u32, own: u32) -> ReportedTotal {
        ReportedTotal { tunnels, own }
    }

    #[test]
    fn changes_since_a_report_are_added_to_it() {
        assert_eq!(report(500, 10).load(10, 50.0), 500);
        assert_eq!(report(500, 10).load(12, 50.0), 600);
        assert_eq!(report(500, 10).load(8, 50.0), 400);
        assert_eq!(report(500, 10).total(12), 502);
        // Never less than what this process has itself.
        assert_eq!(report(0, 0).load(3, 1.0), 3);
        assert_eq!(report(5, 5).total(0), 0);
        assert_eq!(report(100, 50).load(3, 50.0), 3);
        // Without a report, as much as others would have.
        assert_eq!(ReportedTotal::default().load(10, 50.0), 500);
        assert_eq!(
            fleet_scale([report(500, 10), report(700, 14)].into_iter()),
            50.0
        );
        assert_eq!(fleet_scale([].into_iter()), 1.0);
        assert_eq!(fleet_scale([report(0, 9)].into_iter()), 1.0);
        assert_eq!(fleet_scale([report(u32::MAX, 0)].into_iter()), MAX_SCALE);
    }

    #[test]
    fn the_scale_is_right_whatever_a_few_endpoints_report_and_however_few_leases_there_are() {
        let scale = |reports: &[ReportedTotal]| fleet_scale(reports.iter().copied());
        let counter = report(1_000_000_000, 12);
        assert_eq!(scale(&[report(500, 10), counter, report(700, 14)]), 50.0);
        assert_eq!(scale(&[counter, report(500, 10)]), 50.0);
        assert_eq!(
            scale(&[report(500, 10), report(0, 8), report(700, 14)]),
            50.0
        );
        // A lease at one of four endpoints.
        let few: Vec<_> = (0..1000)
            .map(|at| report(10, u32::from(at % 4 == 0)))
            .collect();
        assert_eq!(scale(&few), 40.0);
        assert_eq!(scale(&[report(9, 1), report(1, 1)]), 5.0);
    }

    proptest! {
        #[test]
        fn a_load_is_bounded_and_grows_with_own_leases(
            tunnels in 0..1_000_000_u32,
            then in 0..10_000_u32,
            own in 0..10_000_usize,
            scale in 1.0..1000.0_f32,
        ) {
            let it = report(tunnels, then);
            prop_assert!(it.load(own, scale) >= own && it.total(own) >= own);
            prop_assert!(it.load(own + 1, scale) >= it.load(own, scale));
            prop_assert!(it.total(own + 1) >= it.total(own));
            prop_assert_eq!(it.load(then as usize, scale), tunnels.max(then) as usize);
            // With a scale of one, both are the same.
            prop_assert_eq!(it.load(own, 1.0), it.total(own));
        }
    }

    proptest! {
        // Each is thousands of picks.
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Many nodes get the same reports at once and pick without hearing of each other: what they place
        /// together fills the endpoints evenly. If each counted only its own, all of them would fill the
        /// endpoint that was the emptiest.
        #[test]
        fn nodes_with_the_same_old_reports_do_not_all_fill_the_same_endpoint(
            missing in 1..50_u32,
            seed: u64,
        ) {
            const ENDPOINTS: usize = 10;
            let mut totals = [1000_u32; ENDPOINTS];
            totals[0] -= missing;
            let placed = 20 * ENDPOINTS;
            let mut arrived = [0; ENDPOINTS];
            for node in 0..NODES {
                let mut own = totals.map(|total| total as usize / NODES);
                let reports: Vec<_> =
                    totals.iter().zip(own).map(|(total, own)| report(*total, own as u32)).collect();
                let scale = fleet_scale(reports.iter().copied());
                let mut balancer =
                    Balancer::new(Policy::LeastConnections, ENDPOINTS, seed.wrapping_add(node as u64));
                for _ in 0..placed {
                    let candidates = reports.iter().zip(own).map(|(report, own)| Candidate {
                        weight: 1,
                        in_flight: report.load(own, scale),
                        eligible: true,
                        warmth: None,
                        identity: 0,
                    });
                    let picked = balancer.pick(candidates, None).unwrap();
                    own[picked] += 1;
                    arrived[picked] += 1;
                }
            }
            let after = totals.iter().zip(arrived).map(|(total, arrived)| total + arrived);
            let mean = (totals.iter().sum::<u32>() + arrived.iter().sum::<u32>()) / ENDPOINTS as u32;
            // Each node may be off by a few, and all of them by as many.
            for load in after {
                prop_assert!(load.abs_diff(mean) <= 3 * NODES as u32, "{load} of {mean}");
            }
        }
    }
}
