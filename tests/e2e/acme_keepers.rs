//! The layer `acme` against an authority that speaks the protocol over real sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate::acme::counters::OrderResult;
use tidegate::config::model::{
    ChallengeKind, ExternalAccount, KeyType, ManagedCertificate, Secret, StoreConfig, StorePlace,
    UntilIssued,
};

use crate::harness::acme_ca::AcmeCa;
use crate::harness::acme_node::{AcmeNode, files, wanted};
use crate::harness::acme_settings::{CaSettings, CannedFailure};
use crate::harness::{until, within};

const DNS: &[ChallengeKind] = &[ChallengeKind::Dns01];

/// An authority that behaves, and a folder for what nodes keep.
async fn authority_and_state() -> (AcmeCa, tempfile::TempDir) {
    let ca = AcmeCa::start(CaSettings::default()).await;
    (ca, tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn each_challenge_proves_a_name() {
    for (names, challenge) in [
        (&["a.example.com"][..], ChallengeKind::Http01),
        (
            &["a.example.com", "b.example.com"],
            ChallengeKind::TlsAlpn01,
        ),
        (&["a.example.com", "*.a.example.com"], ChallengeKind::Dns01),
    ] {
        let (ca, state) = authority_and_state().await;
        let certificate = wanted(&ca, state.path(), names, &[challenge], |_| {});
        let node = AcmeNode::keeping(&ca, std::slice::from_ref(&certificate)).await;
        let ended = node.until("an end", |status| {
            !status.is_ordering && (status.served.is_some() || status.failure.is_some())
        });
        let ended = ended.await;
        assert!(ended.failure.is_none(), "{challenge}: {:?}", ended.failure);
        let served = ended.served.unwrap();
        assert_eq!(&*served.issuer, "Test Intermediate");
        let history = ca.history();
        assert_eq!(
            (history.accounts, history.orders, history.issued),
            (1, 1, 1)
        );
        assert_eq!(history.validated.len(), names.len());
        for validated in &history.validated {
            assert!(
                validated.ends_with(&format!("by {challenge}: Ok(())")),
                "{validated}"
            );
        }
        assert_eq!(node.keepers.counters().get(OrderResult::Issued), 1);
        // What was open is closed: files, answers, records, the lease, the order.
        until("the lease to be released", || {
            !files(state.path())
                .keys()
                .any(|path| path.contains("locks/"))
        })
        .await;
        let left = files(state.path());
        let left: Vec<&String> = left.keys().filter(|path| path.starts_with("ca/")).collect();
        assert_eq!(left.len(), 3, "account, certificate, attempt: {left:?}");
        let records = std::fs::read_to_string(state.path().join("records")).unwrap_or_default();
        assert_eq!(records, "");
    }
}

#[tokio::test]
async fn bad_nonces_profiles_and_external_accounts() {
    let ca = AcmeCa::start(CaSettings {
        rejects_every: Some(3),
        profiles: vec!["shortlived"],
        external_account: Some("key-1"),
        ..CaSettings::default()
    })
    .await;
    let state = tempfile::tempdir().unwrap();
    let certificate = wanted(&ca, state.path(), &["a.example.com"], DNS, |authority| {
        authority.profile = Some("shortlived".into());
        authority.key_type = KeyType::Rsa2048;
        authority.external_account = Some(ExternalAccount {
            id: "key-1".into(),
            key: Secret::new(vec![7; 32].into()),
        });
    });
    let node = AcmeNode::keeping(&ca, &[certificate]).await;
    node.until_issued().await;
    let history = ca.history();
    assert!(history.rejected_nonces >= 2);
    assert_eq!(history.last_order["profile"], "shortlived");
}

#[tokio::test]
async fn a_restart_serves_what_is_stored_and_orders_nothing() {
    let (ca, state) = authority_and_state().await;
    let certificate = wanted(&ca, state.path(), &["a.example.com"], DNS, |_| {});
    let first = AcmeNode::keeping(&ca, std::slice::from_ref(&certificate)).await;
    let served = first.until_issued().await;
    drop(first);
    let mut second = AcmeNode::start().await;
    second
        .keepers
        .load(std::slice::from_ref(&certificate))
        .await
        .unwrap();
    // It is there before a listener opens.
    let loaded = second.served(&certificate).unwrap();
    assert_eq!(loaded.certified.cert, served.certified.cert);
    second.keepers.apply(&[certificate]);
    let planned = second
        .until("a plan", |status| status.next_attempt.is_some())
        .await;
    let due = planned
        .next_attempt
        .unwrap()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(due > Duration::from_secs(50 * 24 * 60 * 60), "{due:?}");
    assert_eq!(ca.history().orders, 1);
}

#[tokio::test]
async fn a_renewal_has_a_new_key_and_replaces_the_old_certificate() {
    let ca = AcmeCa::start(CaSettings {
        window: Some((1_000_000, 2_000_000)),
        ..CaSettings::default()
    })
    .await;
    let state = tempfile::tempdir().unwrap();
    let certificate = wanted(&ca, state.path(), &["a.example.com"], DNS, |_| {});
    let node = AcmeNode::keeping(&ca, &[certificate]).await;
    let old = node.until_issued().await;
    assert!(ca.history().last_order["replaces"].is_null());
    // The authority says when: its window is far earlier than two thirds of the life.
    let planned = node.until("the window", |status| {
        let next = status.next_attempt.unwrap_or(SystemTime::UNIX_EPOCH);
        let days = next
            .duration_since(SystemTime::now())
            .unwrap_or_default()
            .as_secs()
            / 86_400;
        (11..24).contains(&days)
    });
    planned.await;
    assert_eq!(node.keepers.renew_now("nothing"), 0);
    assert_eq!(node.keepers.renew_now("a.example.com"), 1);
    let renewed = node.until("the renewal", |status| {
        status
            .served
            .as_ref()
            .is_some_and(|served| !Arc::ptr_eq(served, &old))
            && !status.is_ordering
    });
    let renewed = renewed.await.served.unwrap();
    let key = |served: &tidegate::net::managed_certificates::ServedCertificate| {
        served.certified.key.public_key().unwrap().to_vec()
    };
    assert_ne!(key(&old), key(&renewed));
    assert!(ca.history().last_order["replaces"].is_string());
    assert_eq!(ca.history().accounts, 1);
}

/// An authority that validates nothing until it is told to, and a certificate to order from it, with its folder.
async fn unanswered() -> (AcmeCa, tempfile::TempDir, ManagedCertificate) {
    let ca = AcmeCa::start(CaSettings {
        holds_validations: true,
        ..CaSettings::default()
    })
    .await;
    let state = tempfile::tempdir().unwrap();
    let certificate = wanted(&ca, state.path(), &["a.example.com"], DNS, |_| {});
    (ca, state, certificate)
}

#[tokio::test]
async fn an_order_that_is_left_does_not_give_the_certificate_that_is_served() {
    let (ca, state, certificate) = unanswered().await;
    let node = AcmeNode::keeping(&ca, &[certificate]).await;
    let orders = || {
        let files = files(state.path()).into_iter();
        files.filter(|(path, _)| path.contains("orders/"))
    };
    until("the validation", || ca.is_validating()).await;
    let (path, content) = orders().next().unwrap();
    ca.change(|settings| settings.holds_validations = false);
    let old = node.until_issued().await;
    until("the order to be removed", || orders().count() == 0).await;
    // As if the store had been away at that moment: the certificate was stored later, by the scan.
    std::fs::write(state.path().join(path), content).unwrap();
    node.keepers.renew_now("a.example.com");
    let renewed = node.until("the renewal", |status| {
        let orders = ca.history().orders;
        !status.is_ordering && (orders == 2 || status.failure.is_some())
    });
    let renewed = renewed.await;
    assert!(renewed.failure.is_none(), "{:?}", renewed.failure);
    assert_ne!(renewed.served.unwrap().certified.cert, old.certified.cert);
    assert_eq!(ca.history().issued, 2);
}

fn canned(status: u16, problem: Option<&'static str>, retry_after: Option<u32>) -> CannedFailure {
    CannedFailure {
        status,
        problem,
        retry_after,
    }
}

#[tokio::test]
async fn failures_of_the_authority_are_reported_as_what_they_are() {
    for (failure, result, text, seconds) in [
        (
            canned(429, Some("rateLimited"), Some(7200)),
            OrderResult::RateLimited,
            "the authority's rate limit is reached: on purpose (rateLimited)",
            7200,
        ),
        (
            canned(503, None, None),
            OrderResult::Unreachable,
            "the authority cannot be reached: status 503",
            30,
        ),
        (
            canned(503, Some("serverInternal"), None),
            OrderResult::Unreachable,
            "cannot be reached: status 503: on purpose (serverInternal)",
            30,
        ),
        (
            canned(400, Some("rejectedIdentifier"), None),
            OrderResult::Rejected,
            "the authority rejects the order: on purpose (rejectedIdentifier)",
            120,
        ),
    ] {
        let (ca, state) = authority_and_state().await;
        let is_outage = failure.status >= 500;
        ca.change(|settings| settings.failures.push_back(failure));
        let certificate = wanted(&ca, state.path(), &["a.example.com"], DNS, |authority| {
            authority.until_issued = UntilIssued::SelfSigned;
        });
        let node = AcmeNode::keeping(&ca, &[certificate]).await;
        let failed = node
            .until("a failure", |status| status.failure.is_some())
            .await;
        let failure = failed.failure.unwrap();
        assert!(failure.error.ends_with(text), "{}", failure.error);
        assert_eq!(failure.in_a_row, 1);
        assert_eq!(node.keepers.counters().get(result), 1);
        assert!(failed.served.unwrap().is_self_signed);
        let requests = node.services.of("acme/ca");
        assert_eq!(requests.failed(), u64::from(is_outage));
        assert!(requests.succeeded() > 0);
        let error = requests.failure().map(|it| it.error);
        let status = "`localhost` responds with 503 Service Unavailable";
        assert_eq!(error.as_deref(), is_outage.then_some(status));
        let planned = node.until("a plan", |status| {
            let next = status.next_attempt.unwrap_or(SystemTime::UNIX_EPOCH);
            let wait = next
                .duration_since(SystemTime::now())
                .unwrap_or_default()
                .as_secs();
            (seconds * 3 / 4..seconds * 6 / 5).contains(&wait)
        });
        planned.await;
        // An operator need not wait.
        node.keepers.renew_now("a.example.com");
        node.until_issued().await;
        assert_eq!(ca.history().orders, 2);
        assert!(node.keepers.status()[0].failure.is_none());
    }
}

#[tokio::test]
async fn a_failed_validation_says_what_the_authority_saw() {
    let (ca, state) = authority_and_state().await;
    let certificate = wanted(
        &ca,
        state.path(),
        &["a.example.com", "b.example.com"],
        DNS,
        |_| {},
    );
    ca.change(|settings| settings.records = "/nonexistent".into());
    let node = AcmeNode::keeping(&ca, &[certificate]).await;
    let failed = node
        .until("a failure", |status| status.failure.is_some())
        .await;
    let error = failed.failure.unwrap().error;
    assert!(
        error.contains("a.example.com by dns-01: no record for a.example.com (connection)"),
        "{error}"
    );
    assert_eq!(ca.history().orders, 2, "it is tried once more");
    assert_eq!(
        node.keepers.counters().get(OrderResult::ValidationFailed),
        1
    );
}

#[tokio::test]
async fn an_authority_that_has_forgotten_the_account_gets_another_one() {
    let (ca, state) = authority_and_state().await;
    let certificate = wanted(&ca, state.path(), &["a.example.com"], DNS, |_| {});
    let node = AcmeNode::keeping(&ca, &[certificate]).await;
    let old = node.until_issued().await;
    ca.forget();
    node.keepers.renew_now("a.example.com");
    let renewed = node.until("the renewal", |status| {
        status
            .served
            .as_ref()
            .is_some_and(|served| !Arc::ptr_eq(served, &old))
    });
    renewed.await;
    assert_eq!(ca.history().accounts, 2);
}

#[tokio::test]
async fn of_two_nodes_one_orders_and_both_answer_and_serve() {
    let (ca, state) = authority_and_state().await;
    let http = &[ChallengeKind::Http01];
    let certificate = wanted(&ca, state.path(), &["a.example.com"], http, |_| {});
    let ordering = AcmeNode::keeping(&ca, std::slice::from_ref(&certificate)).await;
    ordering
        .until("an order", |status| status.is_ordering)
        .await;
    // The authority connects to the other one.
    let other = AcmeNode::keeping(&ca, &[certificate]).await;
    let issued = [ordering.until_issued().await, other.until_issued().await];
    assert_eq!(issued[0].certified.cert, issued[1].certified.cert);
    assert_eq!((ca.history().orders, ca.history().issued), (1, 1));
    assert_eq!(ca.history().validated, ["a.example.com by http-01: Ok(())"]);
}

#[tokio::test]
async fn nodes_with_folders_of_their_own_share_certificates_in_a_store() {
    let (ca, state) = authority_and_state().await;
    let folders = ["first", "second", "third", "store"].map(|name| state.path().join(name));
    let [first, second, third, store] = &folders;
    let node = |state: &Path, secret: u8| {
        let http = &[ChallengeKind::Http01];
        wanted(&ca, state, &["a.example.com"], http, |authority| {
            authority.shared = Some(Arc::new(StoreConfig {
                place: StorePlace::Files(store.clone()),
                secrets: vec![Secret::new(vec![secret; 32].into())],
            }));
        })
    };
    let ordering = AcmeNode::keeping(&ca, &[node(first, 1)]).await;
    ordering
        .until("an order", |status| status.is_ordering)
        .await;
    // The authority connects to the other one.
    let other = AcmeNode::keeping(&ca, &[node(second, 1)]).await;
    let issued = [ordering.until_issued().await, other.until_issued().await];
    assert_eq!(issued[0].certified.cert, issued[1].certified.cert);
    assert_eq!((ca.history().orders, ca.history().issued), (1, 1));
    for (file, content) in files(store) {
        let is_sealed = content.starts_with(b"sealed:");
        assert!(is_sealed || file.contains(".new-"), "{file}");
    }
    assert!(!first.exists() && !second.exists());
    // A node with another secret neither serves nor orders, and destroys nothing.
    let mut stranger = AcmeNode::start().await;
    stranger.keepers.apply(&[node(third, 2)]);
    let status = stranger
        .until("a failure", |status| status.folder_error.is_some())
        .await;
    let error = status.folder_error.unwrap();
    assert!(error.contains("`store.secret_file`"), "{error}");
    assert_eq!(ca.history().orders, 1);
    assert!(!files(store).keys().any(|file| file.contains("locks/")));
    let restarted = AcmeNode::keeping(&ca, &[node(first, 1)]).await;
    let served = restarted.until_issued().await;
    assert_eq!(served.certified.cert, issued[0].certified.cert);
}

#[tokio::test]
async fn the_order_of_a_killed_node_is_continued() {
    let (ca, state, certificate) = unanswered().await;
    let killed = {
        let (ca, certificate) = (ca.clone(), certificate.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let _node = AcmeNode::keeping(&ca, &[certificate]).await;
                until("the validation", || ca.is_validating()).await;
            });
            // Nothing is closed.
            runtime.shutdown_background();
        })
    };
    until("the node to be killed", || killed.is_finished()).await;
    let locks: Vec<_> = files(state.path())
        .into_keys()
        .filter(|path| path.contains("locks/"))
        .collect();
    assert_eq!(locks.len(), 1);
    // Others would wait for half a minute.
    std::fs::remove_file(state.path().join(&locks[0])).unwrap();
    ca.change(|settings| settings.holds_validations = false);
    let node = AcmeNode::keeping(&ca, &[certificate]).await;
    node.until_issued().await;
    assert_eq!((ca.history().accounts, ca.history().orders), (1, 1));
    let records = std::fs::read_to_string(state.path().join("records")).unwrap();
    assert_eq!(records, "", "the killed node's record");
}

#[tokio::test]
async fn what_is_suspended_in_the_middle_of_an_order_closes_it() {
    let (ca, state, certificate) = unanswered().await;
    let mut node = AcmeNode::keeping(&ca, &[certificate]).await;
    until("the validation", || ca.is_validating()).await;
    node.keepers.suspend();
    let open = || {
        files(state.path())
            .into_keys()
            .filter(|path| path.contains("locks/") || path.contains("challenges/"))
            .count()
    };
    until("all to be closed", || open() == 0).await;
    let order = files(state.path())
        .into_keys()
        .filter(|path| path.contains("orders/"))
        .count();
    assert_eq!(order, 1, "the next process continues it");
    assert!(node.keepers.status()[0].failure.is_none());
}

#[tokio::test]
async fn a_trial_stores_nothing_and_serves_nothing() {
    let (ca, state) = authority_and_state().await;
    let certificate = wanted(&ca, state.path(), &["a.example.com"], DNS, |_| {});
    let mut node = AcmeNode::start().await;
    let loading = node.keepers.load(std::slice::from_ref(&certificate));
    loading.await.unwrap();
    let trial = within("the trial", node.keepers.try_at_staging("a.example.com"))
        .await
        .unwrap();
    assert_eq!(*trial.directory, ca.directory());
    assert_eq!(&*trial.issuer, "Test Intermediate");
    assert!(node.served(&certificate).is_none());
    assert!(
        !files(state.path())
            .keys()
            .any(|path| path.starts_with("ca/"))
    );
    let unknown = node
        .keepers
        .try_at_staging("b.example.com")
        .await
        .unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "no managed certificate has the name `b.example.com`"
    );
}

#[tokio::test]
async fn names_that_stay_are_served_while_others_are_proved() {
    let (ca, state) = authority_and_state().await;
    let before = wanted(&ca, state.path(), &["a.example.com"], DNS, |_| {});
    let mut node = AcmeNode::keeping(&ca, std::slice::from_ref(&before)).await;
    let first = node.until_issued().await;
    ca.change(|settings| settings.holds_validations = true);
    let names = ["a.example.com", "b.example.com"];
    let after = wanted(&ca, state.path(), &names, DNS, |_| {});
    let other = wanted(&ca, state.path(), &["c.example.com"], DNS, |_| {});
    let both = [after.clone(), other.clone()];
    node.keepers.load(&both).await.unwrap();
    node.keepers.apply(&both);
    let served = node.served(&after).expect("the earlier certificate");
    assert_eq!(served.certified.cert, first.certified.cert);
    assert!(node.served(&other).is_none());
    ca.change(|settings| settings.holds_validations = false);
    until("the new certificate", || {
        let served = node.served(&after).unwrap();
        served.certified.cert != first.certified.cert
    })
    .await;
}

#[tokio::test]
async fn another_directory_is_not_kept_waiting_by_the_one_before() {
    let state = tempfile::tempdir().unwrap();
    let staging = AcmeCa::start(CaSettings::default()).await;
    let certificate = wanted(&staging, state.path(), &["a.example.com"], DNS, |_| {});
    let node = AcmeNode::keeping(&staging, std::slice::from_ref(&certificate)).await;
    let first = node.until_issued().await;
    drop(node);
    let production = AcmeCa::start(CaSettings::default()).await;
    let certificate = wanted(&production, state.path(), &["a.example.com"], DNS, |_| {});
    let node = AcmeNode::keeping(&production, std::slice::from_ref(&certificate)).await;
    until("a certificate of the other directory", || {
        let served = node.served(&certificate).unwrap();
        served.certified.cert != first.certified.cert
    })
    .await;
    assert_eq!(production.history().issued, 1);
}

#[tokio::test]
async fn trials_use_the_account_that_is_bound_to_an_external_one() {
    let ca = AcmeCa::start(CaSettings {
        external_account: Some("key-1"),
        ..CaSettings::default()
    })
    .await;
    let state = tempfile::tempdir().unwrap();
    let certificate = wanted(&ca, state.path(), &["a.example.com"], DNS, |authority| {
        authority.external_account = Some(ExternalAccount {
            id: "key-1".into(),
            key: Secret::new(vec![7; 32].into()),
        });
    });
    let mut node = AcmeNode::start().await;
    let wanted = [certificate];
    node.keepers.load(&wanted).await.unwrap();
    for _ in 0..2 {
        let trial = node.keepers.try_at_staging("a.example.com");
        within("the trial", trial).await.unwrap();
    }
    node.keepers.apply(&wanted);
    node.until_issued().await;
    assert_eq!(ca.history().accounts, 1);
}

#[tokio::test]
async fn a_changed_address_is_sent_to_the_authority() {
    let (ca, state) = authority_and_state().await;
    let with = |email: &'static str| {
        wanted(&ca, state.path(), &["a.example.com"], DNS, |authority| {
            authority.email = Some(email.into());
        })
    };
    let node = AcmeNode::keeping(&ca, &[with("ops@example.com")]).await;
    node.until_issued().await;
    drop(node);
    let node = AcmeNode::keeping(&ca, &[with("new@example.com")]).await;
    until("the new address", || !ca.history().contacts.is_empty()).await;
    node.keepers.renew_now("a.example.com");
    until("the renewal", || ca.history().issued == 2).await;
    let history = ca.history();
    assert_eq!(
        history.contacts,
        [serde_json::json!(["mailto:new@example.com"])]
    );
    assert_eq!(history.accounts, 1);
}
