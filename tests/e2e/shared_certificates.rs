//! Certificates that nodes share through a store: one orders, all serve, and what is in the store by mistake does no
//! harm.

use std::path::Path;
use std::sync::Arc;

use tidegate::config::model::{ChallengeKind, ManagedCertificate, Secret, StoreConfig, StorePlace};
use tidegate::store::seal::Sealer;
use tidegate::store::versioned_folder::VersionedFolder;
use tidegate::store::{ItemKind, ItemStore};

use crate::harness::acme_ca::AcmeCa;
use crate::harness::acme_node::{AcmeNode, files, wanted};
use crate::harness::acme_settings::CaSettings;
use crate::harness::etcd::Etcd;
use crate::harness::until;

fn secret(fill: u8) -> Secret {
    Secret::new(vec![fill; 32].into())
}

/// A certificate whose items are in `place`, sealed with the secret that has these bytes.
fn shared(ca: &AcmeCa, state: &Path, place: &StorePlace, fill: u8) -> ManagedCertificate {
    let http = &[ChallengeKind::Http01];
    wanted(ca, state, &["a.example.com"], http, |authority| {
        authority.shared = Some(Arc::new(StoreConfig {
            place: place.clone(),
            secrets: vec![secret(fill)],
        }));
    })
}

#[tokio::test]
async fn nodes_share_a_certificate_through_etcd_and_put_it_back() {
    let ca = AcmeCa::start(CaSettings::default()).await;
    let state = tempfile::tempdir().unwrap();
    let etcd = Etcd::start().await;
    let node = |name: &str| shared(&ca, &state.path().join(name), &etcd.place(), 1);
    let ordering = AcmeNode::keeping(&ca, &[node("first")]).await;
    let is_ordering = ordering.until("an order", |status| status.is_ordering);
    is_ordering.await;
    // The authority connects to the other one.
    let other = AcmeNode::keeping(&ca, &[node("second")]).await;
    let issued = [ordering.until_issued().await, other.until_issued().await];
    assert_eq!(issued[0].certified.cert, issued[1].certified.cert);
    assert_eq!((ca.history().orders, ca.history().issued), (1, 1));
    assert_eq!(ca.history().validated, ["a.example.com by http-01: Ok(())"]);
    let lock = |etcd: &Etcd| etcd.keys("/t/acme/ca/locks/").len();
    until("the lease to be released", || lock(&etcd) == 0).await;
    for key in etcd.keys("/t/acme/") {
        assert!(etcd.text(&key).unwrap().starts_with("sealed:"), "{key}");
    }
    assert!(!state.path().join("first").exists());

    let certificates = etcd.keys("/t/acme/ca/certificates/");
    let [key] = &certificates[..] else {
        panic!("{certificates:?}");
    };
    let first = etcd.text(key).unwrap();
    other.keepers.renew_now("a.example.com");
    for (node, before) in [&ordering, &other].into_iter().zip(&issued) {
        let renewed = node.until("the renewal", |status| {
            let served = status.served.as_ref();
            !status.is_ordering
                && served.is_some_and(|it| it.certified.cert != before.certified.cert)
        });
        renewed.await;
    }
    let renewed = [&ordering, &other].map(|node| node.keepers.status()[0].served.clone());
    let renewed = renewed.map(|served| served.unwrap().certified.cert.clone());
    assert_eq!(renewed[0], renewed[1]);

    // The store is restored from a backup, and then it has lost the certificate.
    etcd.put(key, &first, 0);
    let replaced = || etcd.text(key).is_some_and(|sealed| sealed != first);
    until("the certificate from before to be replaced", replaced).await;
    etcd.delete(key);
    until("the certificate to be put back", || {
        etcd.text(key).is_some()
    })
    .await;
    let started = AcmeNode::keeping(&ca, &[node("third")]).await;
    let served = started.until_issued().await;
    assert_eq!(served.certified.cert, renewed[0]);
    for node in [&ordering, &other] {
        let served = node.keepers.status()[0].served.clone().unwrap();
        assert_eq!(served.certified.cert, renewed[0]);
    }
    assert_eq!(ca.history().orders, 2);
}

#[tokio::test]
async fn what_was_sealed_with_a_secret_from_before_does_not_prevent_a_renewal() {
    let ca = AcmeCa::start(CaSettings::default()).await;
    let state = tempfile::tempdir().unwrap();
    let store = state.path().join("store");
    let place = StorePlace::Files(store.clone());
    let certificate = shared(&ca, &state.path().join("own"), &place, 2);
    let node = AcmeNode::keeping(&ca, std::slice::from_ref(&certificate)).await;
    node.until_issued().await;
    drop(node);
    let names: Vec<String> = files(&store.join("acme/ca/certificates"))
        .into_keys()
        .collect();
    let name = names[0].strip_suffix(".1").unwrap();
    // A node was killed in the middle of an order, and then the secret was changed.
    let folder = VersionedFolder::new(&store.join("acme/ca"));
    let before = Sealer::new(&[secret(1)], "acme/ca").unwrap();
    let challenge = format!("{name}@0123456789abcdef");
    for (kind, name) in [(ItemKind::Order, name), (ItemKind::Challenge, &*challenge)] {
        let sealed = before.seal(kind, name, b"{}").unwrap();
        folder.write(kind, name, sealed).await.unwrap();
    }
    let node = AcmeNode::keeping(&ca, &[certificate]).await;
    node.until_issued().await;
    node.keepers.renew_now("a.example.com");
    let ended = node.until("the renewal", |status| {
        !status.is_ordering && (ca.history().issued == 2 || status.failure.is_some())
    });
    assert_eq!(ended.await.failure.map(|failure| failure.error), None);
    let left = || {
        let files = files(&store);
        let open = |path: &&String| path.contains("orders/") || path.contains("challenges/");
        files.keys().filter(open).count()
    };
    until("all to be cleared", || left() == 0).await;
}
