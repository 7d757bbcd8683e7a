//! Which upstream of a route a request goes to, and which ones follow if no endpoint of that one can serve.
//!
//! `tidegate explain` asks the same for requests that were never sent.

use super::affinity;
use crate::config::model::LeadsTo;
use crate::protocol::rejection::Rejection;
use crate::protocol::request_key::KeyTraits;
use crate::protocol::sticky_cookie::StickyCookie;
use crate::snapshot::{Route, RouteBranch};
use crate::upstream::balance;
use crate::upstream::group::{Affinity, Availability, Upstream};

/// An upstream that a request may go to, and what leads the client to one of its endpoints.
#[derive(Debug)]
pub struct Branch<'a> {
    /// The upstream.
    pub upstream: &'a Upstream,
    /// Its share of new clients, relative to the other branches.
    pub weight: u32,
    /// What leads the client to an endpoint of it.
    pub affinity: Affinity,
    /// The valid sticky cookie of this upstream that the request carries, if any.
    pub sticky_cookie: Option<StickyCookie>,
}

/// What decided between the branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchReason {
    /// There is only one.
    Only,
    /// The request names an endpoint, and only these have one of that name.
    Named,
    /// The client has a connection of its own to an endpoint of this one.
    Reserved,
    /// The client has a sticky cookie of this one, which is its newest.
    Cookie,
    /// The request's key.
    Key,
    /// Chance.
    Chance,
}

/// The branches that a request may take, in the order in which they are tried.
#[derive(Debug)]
pub struct Branches<'a> {
    /// The first.
    pub first: Branch<'a>,
    /// The others.
    pub others: Vec<Branch<'a>>,
    /// What decided for the branch that is `first`, or that would be if it could serve.
    pub reason: BranchReason,
    /// The upstream that was chosen and cannot serve.
    pub instead_of: Option<&'a str>,
}

/// The branches of `route` for a request; if it has to name its endpoint, those that have one of that name.
/// `reserved` finds the endpoint of an upstream to which the client has a connection of its own; `chance` is a
/// number from 0 to 1, for a request without any other reason.
///
/// # Errors
/// [`Rejection::EndpointUnknown`]; [`Rejection::NoRoute`] for a route without upstreams.
pub fn branches<'a>(
    route: &'a Route,
    traits: KeyTraits<'_>,
    reserved: impl Fn(&Upstream) -> Option<u64>,
    chance: impl FnOnce() -> f64,
) -> Result<Branches<'a>, Rejection> {
    let branch = |each: &'a RouteBranch| {
        let (mut affinity, sticky_cookie) = affinity::of(&each.upstream, traits);
        affinity.reserved = reserved(&each.upstream);
        Branch {
            upstream: &each.upstream,
            weight: each.weight,
            affinity,
            sticky_cookie,
        }
    };
    let LeadsTo::Split(split) = &route.settings.leads_to else {
        let mut only = [branch(route.branches.first().ok_or(Rejection::NoRoute)?)];
        bind_to_named(&mut only, route, traits)?;
        let [first] = only;
        return Ok(Branches {
            first,
            others: Vec::new(),
            reason: BranchReason::Only,
            instead_of: None,
        });
    };
    let mut left: Vec<Branch<'a>> = route.branches.iter().map(branch).collect();
    let is_named = bind_to_named(&mut left, route, traits)?;
    if is_named {
        left.retain(|branch| branch.affinity.named.is_some());
    }
    let newest = newest_cookie(&mut left);
    let key = split.by.as_ref().and_then(|key| traits.value(key));
    let (point, mut reason) = match key {
        Some(key) => (balance::split_point(&key), BranchReason::Key),
        None => (chance(), BranchReason::Chance),
    };
    let mut ordered = Vec::with_capacity(left.len());
    let is_reserved = |branch: &Branch<'_>| branch.affinity.reserved.is_some();
    // A client that has moved to another upstream still has the cookie of the one before.
    let has_newest = |branch: &Branch<'_>| newest.is_some() && issued(branch) == newest;
    if let Some(at) = left.iter().position(is_reserved) {
        reason = BranchReason::Reserved;
        ordered.push(left.remove(at));
    } else if let Some(at) = left.iter().position(has_newest) {
        reason = BranchReason::Cookie;
        ordered.push(left.remove(at));
    }
    while let Some(at) = balance::drawn(left.iter().map(|branch| branch.weight), point) {
        ordered.push(left.remove(at));
    }
    if is_named {
        reason = BranchReason::Named;
        // A weight of 0 keeps those away that may go elsewhere.
        ordered.append(&mut left);
    }
    let chosen = ordered.first().ok_or(Rejection::NoRoute)?;
    let availability = |branch: &Branch<'_>| branch.upstream.availability(branch.affinity);
    let serves = availability(chosen) == Availability::Serving;
    let chosen = &*chosen.upstream.name;
    // The others are asked only if it matters: each of them costs its lock.
    if !serves {
        ordered.sort_by_cached_key(availability);
    }
    let first = ordered.remove(0);
    Ok(Branches {
        instead_of: (*first.upstream.name != *chosen).then_some(chosen),
        first,
        others: ordered,
        reason,
    })
}

/// Binds the request to the endpoint that it names, in each branch that has one of that name, and returns whether one
/// has. If none has, the route decides whether the request may go to any endpoint.
fn bind_to_named(
    branches: &mut [Branch<'_>],
    route: &Route,
    traits: KeyTraits<'_>,
) -> Result<bool, Rejection> {
    let Some(naming) = &route.naming else {
        return Ok(false);
    };
    let mut is_named = false;
    if let Some(name) = naming.name(traits, affinity::seconds()) {
        for branch in branches {
            branch.affinity.named = branch.upstream.named(&name);
            is_named |= branch.affinity.named.is_some();
        }
    }
    match is_named || naming.falls_back {
        true => Ok(is_named),
        false => Err(Rejection::EndpointUnknown),
    }
}

/// When the sticky cookie of a branch was issued.
fn issued(branch: &Branch<'_>) -> Option<u64> {
    branch.sticky_cookie.map(|cookie| cookie.issued)
}

/// When the newest sticky cookie was issued. If the request comes to the branch of another one after all, that
/// must become the newest.
fn newest_cookie(branches: &mut [Branch<'_>]) -> Option<u64> {
    let newest = branches.iter().filter_map(issued).max();
    let cookies = branches.iter_mut();
    for cookie in cookies.filter_map(|branch| branch.sticky_cookie.as_mut()) {
        cookie.is_aging |= Some(cookie.issued) != newest;
    }
    newest
}

/// The number that chance is most likely to be near: one on which the greatest weight falls.
pub fn likely(route: &Route) -> f64 {
    let weights = || route.branches.iter().map(|branch| branch.weight);
    let total: u64 = weights().map(u64::from).sum();
    let mut before = 0;
    let mut greatest = (0, 0);
    for weight in weights() {
        if weight > greatest.1 {
            greatest = (before, weight);
        }
        before += u64::from(weight);
    }
    (greatest.0 as f64 + f64::from(greatest.1) / 2.0) / total.max(1) as f64
}

impl<'a> Branches<'a> {
    /// All branches, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Branch<'a>> {
        std::iter::once(&self.first).chain(&self.others)
    }
}
