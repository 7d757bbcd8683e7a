//! Messages as etcd 3.4.23 writes them, those of other versions, and any others.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn bytes(message: &Value) -> Vec<u8> {
    message.to_string().into()
}

#[test]
fn a_page_has_items_and_the_revision_of_the_store() {
    let page = json!({
        "header": { "cluster_id": "14841639068965178418", "member_id": "10276657743932975437", "revision": "9", "raft_term": "2" },
        "kvs": [{ "key": "L2EvYg==", "create_revision": "7", "mod_revision": "8", "version": "2", "value": "aGk=", "lease": "7587" },
                { "key": "/w==", "create_revision": 7, "mod_revision": 9 }],
        "more": true,
        "count": "3",
    });
    let page = read_page(&bytes(&page)).unwrap();
    let item = EtcdItem {
        key: "/a/b".into(),
        value: Bytes::from_static(b"hi"),
        created: 7,
        modified: 8,
        lease: 7587,
    };
    assert_eq!(page.items[0], item);
    assert_eq!(&*page.items[1].key, "\u{fffd}/w==");
    assert_eq!(page.last_key, [0xff]);
    assert_eq!((page.revision, page.has_more, page.count), (9, true, 3));
    let empty = read_page(br#"{"header":{"revision":"1"}}"#).unwrap();
    assert_eq!(
        (empty.items.len(), empty.has_more, empty.count),
        (0, false, 0)
    );
}

#[test]
fn a_transaction_is_applied_or_reads_what_is_there() {
    let applied = json!({ "header": { "revision": "4" }, "succeeded": true,
        "responses": [{ "response_put": { "header": { "revision": "4" } } }] });
    let result = read_transaction(&bytes(&applied)).unwrap();
    assert!(result.is_applied && result.found.is_empty());
    let refused = json!({ "header": { "revision": "4" }, "responses": [
        { "response_range": { "header": { "revision": "4" }, "kvs": [{ "key": "L2E=", "mod_revision": "3" }], "count": "1" } },
        { "response_range": { "header": { "revision": "4" } } },
    ] });
    let result = read_transaction(&bytes(&refused)).unwrap();
    assert!(!result.is_applied);
    assert_eq!((&*result.found[0].key, result.found[0].modified), ("/a", 3));
}

#[test]
fn leases_are_granted_renewed_and_over() {
    let granted = br#"{"header":{},"ID":"7587848390850123524","TTL":"30"}"#;
    let expected = GrantedLease {
        id: 7_587_848_390_850_123_524,
        ttl: 30,
    };
    assert_eq!(read_lease(granted), Ok(expected));
    let renewed = br#"{"result":{"header":{},"ID":"7587848390850123524","TTL":"30"}}"#;
    assert_eq!(read_renewal(renewed), Ok(Ok(expected)));
    let over = br#"{"result":{"header":{},"ID":"7"}}"#;
    assert_eq!(read_renewal(over), Ok(Ok(GrantedLease { id: 7, ttl: 0 })));
    let failed = br#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"Service Unavailable"}}"#;
    let failure = read_renewal(failed).unwrap().unwrap_err();
    assert_eq!(
        (failure.code, &*failure.message),
        (14, "etcdserver: no leader")
    );
    assert_eq!(read_renewal(b"{}"), Err(MalformedMessage));
}

#[test]
fn a_watch_brings_changes_progress_and_its_end() {
    let changed = json!({ "result": { "header": { "revision": "12" }, "events": [
        { "kv": { "key": "L2E=", "create_revision": "11", "mod_revision": "11", "version": "1", "value": "eA==" } },
        { "type": "DELETE", "kv": { "key": "L2I=", "mod_revision": "12" } },
        { "type": "PUT", "kv": { "key": "L2M=", "mod_revision": "12" } },
        { "type": 1, "kv": { "key": "L2Q=", "mod_revision": "12" } },
    ] } });
    let news = read_news(&bytes(&changed)).unwrap();
    assert_eq!((news.revision, news.end), (12, None));
    assert!(matches!(&news.changes[0], ItemChange::Put(item) if &*item.value == b"x"));
    assert_eq!(news.changes[1], ItemChange::Delete("/b".into()));
    assert!(matches!(&news.changes[2], ItemChange::Put(_)));
    assert_eq!(news.changes[3], ItemChange::Delete("/d".into()));
    let created = br#"{"result":{"header":{"revision":"12"},"created":true}}"#;
    let news = read_news(created).unwrap();
    assert_eq!((news.revision, news.changes.len(), news.end), (0, 0, None));
    let progress = br#"{"result":{"header":{"revision":"12"}}}"#;
    assert_eq!(read_news(progress).unwrap().revision, 12);
    // A watch that is behind gets its changes in parts.
    let part = br#"{"result":{"header":{"revision":"900"},"events":[{"kv":{"key":"L2E=","mod_revision":"7"}}]}}"#;
    assert_eq!(read_news(part).unwrap().revision, 7);
    let compacted =
        br#"{"result":{"header":{"revision":"12"},"canceled":true,"compact_revision":"9"}}"#;
    assert_eq!(
        read_news(compacted).unwrap().end,
        Some(WatchEnd::Compacted(9))
    );
    let cancelled =
        br#"{"result":{"header":{},"canceled":true,"cancel_reason":"etcdserver: no leader"}}"#;
    assert_eq!(
        read_news(cancelled).unwrap().end,
        Some(WatchEnd::Cancelled("etcdserver: no leader".into()))
    );
    let failed = br#"{"error":{"code":14,"message":"etcdserver: no leader","details":[]}}"#;
    assert!(matches!(
        read_news(failed).unwrap().end,
        Some(WatchEnd::Failed(_))
    ));
}

#[test]
fn failures_have_a_code_and_a_sentence_in_every_version() {
    for (json, expected) in [
        (
            r#"{"error":"etcdserver: a","message":"etcdserver: a","code":5}"#,
            Some((5, "etcdserver: a")),
        ),
        (
            r#"{"error":"etcdserver: a","code":5}"#,
            Some((5, "etcdserver: a")),
        ),
        (
            r#"{"code":5,"message":"etcdserver: a","details":[]}"#,
            Some((5, "etcdserver: a")),
        ),
        ("{}", None),
        ("404 page not found\n", None),
    ] {
        let read = read_failure(json.as_bytes());
        let read = read.as_ref().map(|it| (it.code, &*it.message));
        assert_eq!(read, expected, "{json}");
    }
}

#[test]
fn a_token_can_stand_in_a_header() {
    let token = read_token(br#"{"header":{},"token":"abc.17"}"#).unwrap();
    assert_eq!(token.bytes(), b"abc.17");
    for json in [r#"{"token":""}"#, r#"{"token":"a\r\nb"}"#, "{}"] {
        assert!(read_token(json.as_bytes()).is_err(), "{json}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i64>().prop_map(|number| number.to_string().into()),
        "[A-Za-z0-9+/=]{0,12}".prop_map(Value::from),
    ];
    let names = "(header|revision|kvs|key|value|result|error|events|kv|type|compact_revision|canceled|ID|TTL|more|count|responses|response_range|message|code)";
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn read_each(json: &[u8]) {
    let _ = (read_page(json), read_transaction(json), read_lease(json));
    let _ = (
        read_renewal(json),
        read_token(json),
        read_news(json),
        read_failure(json),
    );
}

proptest! {
    #[test]
    fn nothing_panics(json in any_json(), text in "\\PC{0,40}") {
        read_each(&bytes(&json));
        read_each(text.as_bytes());
    }

    #[test]
    fn what_is_written_is_read(
        items in prop::collection::btree_map("/[a-z]{1,5}", prop::collection::vec(any::<u8>(), 0..20), 0..6),
        revision in 1_i64..,
    ) {
        let kvs: Vec<Value> = items
            .iter()
            .map(|(key, value)| json!({
                "key": STANDARD.encode(key),
                "value": STANDARD.encode(value),
                "create_revision": revision.to_string(),
                "mod_revision": revision.to_string(),
            }))
            .collect();
        let events: Vec<Value> = kvs.iter().map(|kv| json!({ "kv": kv })).collect();
        let header = json!({ "revision": revision.to_string() });
        let page = read_page(&bytes(&json!({ "header": header, "kvs": kvs }))).unwrap();
        let read: std::collections::BTreeMap<_, _> = page
            .items
            .iter()
            .map(|item| (item.key.to_string(), item.value.to_vec()))
            .collect();
        prop_assert_eq!(&read, &items);
        let news = json!({ "result": { "header": header, "events": events } });
        let news = read_news(&bytes(&news)).unwrap();
        let puts: Vec<_> = page.items.into_iter().map(ItemChange::Put).collect();
        prop_assert_eq!(news.changes, puts);
        prop_assert_eq!(news.revision, revision);
    }
}
