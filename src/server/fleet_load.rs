//! How this node is, for the other nodes of its fleet.

use std::sync::Arc;

use crate::admin::view::View;
use crate::fleet::membership::LoadSource;
use crate::fleet::record::MemberLoad;
use crate::observe::counters::Totals;

/// What says how this process is.
pub(super) fn source(view: &Arc<View>) -> LoadSource {
    let view = Arc::clone(view);
    LoadSource::new(move || load(&view))
}

fn load(view: &View) -> MemberLoad {
    let counters = view.workers.counters();
    let totals = Totals::of(counters.iter().map(|each| &**each));
    let load = MemberLoad {
        draining: view.shared.process.is_draining(),
        tunnels: totals.tunnels_open,
        ..MemberLoad::default()
    };
    load.with_drains(drains(view))
}

/// The endpoints and listeners that operators have drained.
fn drains(view: &View) -> Vec<String> {
    let snapshot = view.shared.snapshot.load();
    let mut drains = Vec::new();
    for upstream in snapshot.upstreams() {
        let endpoints = upstream.endpoints();
        let drained = endpoints.iter().filter(|endpoint| endpoint.is_drained());
        drains.extend(drained.map(|it| format!("endpoint {} of {}", it.address, upstream.name)));
    }
    let listening = view.listening.load();
    let listeners = listening.iter().filter(|it| it.is_drained);
    drains.extend(listeners.map(|it| format!("listener {}", it.name)));
    drains
}
