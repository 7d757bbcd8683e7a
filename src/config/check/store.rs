//! What is shared without a store that can have it.

use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Config, StorePlace};

pub(super) fn check(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let store = &places.store;
    for (shared, span) in &places.fleet.shared {
        let is_secret = **shared != *"members";
        let has_etcd = |it: &StorePlace| matches!(it, StorePlace::Etcd(_));
        let (code, message, hint) = if store.table.is_none() {
            (
                Code::Missing,
                format!("`{shared}` cannot be shared: there is no `[store]`"),
                "add e.g. `[store]` with `etcd = { endpoints = [\"https://10.0.0.21:2379\"] }`",
            )
        } else if is_secret && store.secret.is_none() {
            (
                Code::Missing,
                format!(
                    "`{shared}` cannot be shared without `store.secret_file`, which seals them"
                ),
                "create one for all nodes with `openssl rand -hex 32`",
            )
        } else if !is_secret && config.store.as_ref().is_some_and(|it| !has_etcd(&it.place)) {
            (
                Code::Conflict,
                "`members` requires `store.etcd`: a folder does not notice that a node is gone"
                    .to_owned(),
                "leave `members` out, or use etcd",
            )
        } else {
            continue;
        };
        let error = Diagnostic::error(code, span.clone(), message);
        diagnostics.push(error.hint(hint));
    }
}
