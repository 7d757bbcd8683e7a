//! Moving tunnels away from endpoints that have more than their share.

use super::super::{Builder, duration};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Balance, Picking, RebalanceConfig};
use crate::config::raw::Section;

impl Builder<'_> {
    pub(super) fn rebalance(
        &mut self,
        upstream: &Section,
        picking: &Picking,
    ) -> Option<RebalanceConfig> {
        let at = upstream.written("rebalance")?;
        let section = upstream.optional("rebalance")?;
        // A client whose tunnel is closed would return to the same endpoint, or to any, and its next
        // tunnel would be closed again.
        let why = match picking.balance {
            Balance::Hash(_) => Some("a hash key always leads back to the same endpoint"),
            Balance::RoundRobin | Balance::Random => {
                Some("this `balance` does not look at the number of tunnels")
            }
            _ if upstream.written("sticky").is_some() => {
                Some("a sticky cookie leads back to the same endpoint")
            }
            _ if upstream.written("reports").is_some() => {
                Some("with `reports`, endpoints are chosen by tunnels of others, too")
            }
            Balance::LeastConnections | Balance::PowerOfTwo => None,
        };
        if let Some(why) = why {
            let message = format!("`rebalance` has nowhere to move tunnels to: {why}");
            let hint = "use `balance = \"least_connections\"` or `\"power_of_two\"`, and neither `sticky` nor `reports`";
            let span = at.span.clone();
            self.diagnostics
                .push(Diagnostic::error(Code::Conflict, span, message).hint(hint));
        }
        Some(RebalanceConfig {
            is_dry_run: section.text("mode").as_deref() != Some("on"),
            factor: section.number("factor")?,
            rate: section.rate("rate")?,
            min_age: duration(&section, "min_age"),
        })
    }
}
