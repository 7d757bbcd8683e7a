//! Which upstream of a split a request would go to, and why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::session::split::{Branch, BranchReason, Branches};
use crate::upstream::group::Availability;

/// How a route divides a request among its upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedSplit {
    /// Why the request would go to the first of them.
    pub why: String,
    /// The upstreams, in the order in which they would be tried.
    pub upstreams: Vec<ExplainedBranch>,
}

/// An upstream of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedBranch {
    /// The name of the upstream.
    pub upstream: String,
    /// Its weight in the split.
    pub weight: u32,
    /// Whether an endpoint of it can serve the request, full or not.
    pub state: BranchState,
}

/// Whether an upstream of a split can serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BranchState {
    /// An endpoint can.
    Up,
    /// None of its endpoints could be reached a moment ago, or all of them are tried although they are down.
    Doubtful,
    /// No endpoint can.
    Down,
}

impl ExplainedSplit {
    /// `None` for a route with a single upstream.
    pub(super) fn of(branches: &Branches<'_>) -> Option<Self> {
        let reason = match branches.reason {
            BranchReason::Only => return None,
            BranchReason::Named => "it has the endpoint that the request names",
            BranchReason::Reserved => "the client has a connection of its own there",
            BranchReason::Cookie => "its sticky cookie leads there",
            BranchReason::Key => "by its key",
            BranchReason::Chance => "by chance; this is the most likely one",
        };
        let why = match branches.instead_of {
            Some(chosen) => {
                format!("no endpoint of `{chosen}` can serve, which was chosen: {reason}")
            }
            None => reason.to_owned(),
        };
        Some(Self {
            why,
            upstreams: branches.iter().map(ExplainedBranch::of).collect(),
        })
    }
}

impl ExplainedBranch {
    fn of(branch: &Branch<'_>) -> Self {
        Self {
            upstream: branch.upstream.name.to_string(),
            weight: branch.weight,
            state: match branch.upstream.availability(branch.affinity) {
                Availability::Serving => BranchState::Up,
                Availability::Doubtful => BranchState::Doubtful,
                Availability::Down => BranchState::Down,
            },
        }
    }
}
