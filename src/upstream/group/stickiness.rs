//! The sticky cookie of an upstream, and its keys: one from a file, or one of this process's own beside those that
//! nodes have agreed on.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::config::model::{SharedKeys, Sticky};
use crate::protocol::sticky_cookie::{CookieSigner, CookieSigners};
use crate::upstream::registry::UpstreamState;

/// The sticky cookie of an upstream.
#[derive(Debug)]
pub struct Stickiness {
    /// The configuration of the cookie.
    pub settings: Sticky,
    signers: ArcSwap<CookieSigners>,
}

impl Stickiness {
    pub(super) fn new(settings: &Sticky, state: &UpstreamState, shared: &SharedKeys) -> Self {
        Self {
            signers: ArcSwap::from_pointee(signers(settings, state, shared)),
            settings: settings.clone(),
        }
    }

    /// What signs the cookie and verifies it.
    pub fn signers(&self) -> Guard<Arc<CookieSigners>> {
        self.signers.load()
    }

    /// Uses the keys that nodes have agreed on, unless the key is in a file.
    pub(super) fn share(&self, state: &UpstreamState, shared: &SharedKeys) {
        let signers = signers(&self.settings, state, shared);
        self.signers.store(Arc::new(signers));
    }
}

fn signers(settings: &Sticky, state: &UpstreamState, shared: &SharedKeys) -> CookieSigners {
    let signer = |secret: &[u8]| CookieSigner::new(secret, &state.name);
    if let Some(secret) = &settings.secret {
        return CookieSigners::new(signer(secret.bytes()), Vec::new());
    }
    let current = shared.current.and_then(|at| shared.secrets.get(at));
    let others = shared.secrets.iter().enumerate();
    let others = others.filter(|(at, _)| Some(*at) != shared.current);
    let mut others: Vec<_> = others.map(|(_, secret)| signer(secret.bytes())).collect();
    match current {
        Some(current) => {
            // Cookies that this process has issued before the nodes agreed.
            others.extend(state.known_secret().map(signer));
            CookieSigners::new(signer(current.bytes()), others)
        }
        None => CookieSigners::new(signer(state.secret()), others),
    }
}
