//! Which endpoints slices come to, whatever their order.

use proptest::prelude::*;

use super::*;

use EndpointPhase::{NotReady, Ready, Terminating};

fn slice(
    name: &str,
    port: Option<(&str, u16)>,
    endpoints: &[(&str, EndpointPhase)],
) -> EndpointSlice {
    let endpoints = endpoints.iter().map(|(address, phase)| SliceEndpoint {
        address: address.parse().unwrap(),
        phase: *phase,
        pod: Some(format!("pod-{address}").replace(':', "-").into()),
    });
    EndpointSlice {
        name: name.into(),
        family: AddressFamily::Ip,
        endpoints: endpoints.collect(),
        ports: port
            .map(|(name, number)| SlicePort {
                name: name.into(),
                number: Some(number),
            })
            .into_iter()
            .collect(),
    }
}

fn ws() -> ServicePort {
    ServicePort::Name("ws".into())
}

fn shown(found: &SlicedEndpoints) -> Vec<(String, EndpointPhase)> {
    let endpoints = found.endpoints.iter();
    endpoints
        .map(|it| (it.address.to_string(), it.phase))
        .collect()
}

fn check(slices: &[EndpointSlice], port: &ServicePort, expected: &[(&str, EndpointPhase)]) {
    let found = SliceSet::new(slices.to_vec()).endpoints(port);
    let expected: Vec<(String, EndpointPhase)> = expected
        .iter()
        .map(|(address, phase)| ((*address).to_owned(), *phase))
        .collect();
    assert_eq!(shown(&found), expected);
}

#[test]
fn the_slices_of_both_families_come_together() {
    let four = slice(
        "a",
        Some(("ws", 9000)),
        &[("10.0.0.2", Ready), ("10.0.0.1", NotReady)],
    );
    let more = slice("b", Some(("ws", 9001)), &[("10.0.0.3", Terminating)]);
    let six = slice("c", Some(("ws", 9000)), &[("fd00::1", Ready)]);
    let mut names = slice("d", Some(("ws", 9000)), &[]);
    names.family = AddressFamily::Other;
    let all = [four, more, six, names];
    check(
        &all,
        &ws(),
        &[
            ("10.0.0.1:9000", NotReady),
            ("10.0.0.2:9000", Ready),
            // The pods of an older ReplicaSet may have the port of this name elsewhere.
            ("10.0.0.3:9001", Terminating),
            ("[fd00::1]:9000", Ready),
        ],
    );
    let found = SliceSet::new(all).endpoints(&ws());
    assert_eq!(found.remarks, BTreeSet::from([SliceRemark::OtherAddresses]));
    assert_eq!(found.endpoints[0].name.as_deref(), Some("pod-10.0.0.1"));
}

#[test]
fn an_address_in_two_slices_is_in_the_better_phase() {
    let before = slice(
        "a",
        Some(("ws", 9000)),
        &[("10.0.0.1", Terminating), ("10.0.0.2", NotReady)],
    );
    let after = slice(
        "b",
        Some(("ws", 9000)),
        &[("10.0.0.1", Ready), ("10.0.0.2", Terminating)],
    );
    check(
        &[before, after],
        &ws(),
        &[("10.0.0.1:9000", Ready), ("10.0.0.2:9000", Terminating)],
    );
}

#[test]
fn a_slice_without_the_port_has_no_endpoints() {
    let other = slice("a", Some(("http", 80)), &[("10.0.0.1", Ready)]);
    let without = slice("b", None, &[("10.0.0.2", Ready)]);
    let right = slice("c", Some(("ws", 9000)), &[("10.0.0.3", Ready)]);
    let found = SliceSet::new([other.clone(), without.clone(), right.clone()]);
    assert_eq!(
        shown(&found.endpoints(&ws())),
        [("10.0.0.3:9000".to_owned(), Ready)]
    );
    assert!(found.endpoints(&ws()).remarks.is_empty());
    let wrong = SliceSet::new([other, without]).endpoints(&ws());
    assert!(wrong.endpoints.is_empty());
    let remark = wrong.remarks.first().unwrap().to_string();
    assert!(remark.ends_with("they have `http` (80)"), "{remark}");
    check(
        std::slice::from_ref(&right),
        &ServicePort::Number(9000),
        &[("10.0.0.3:9000", Ready)],
    );
    check(&[right], &ServicePort::Number(9001), &[]);
    let mut any = slice("d", Some(("ws", 1)), &[("10.0.0.4", Ready)]);
    any.ports[0].number = None;
    check(
        std::slice::from_ref(&any),
        &ServicePort::Number(9001),
        &[("10.0.0.4:9001", Ready)],
    );
    check(&[any], &ws(), &[]);
}

#[test]
fn slices_change_and_go() {
    let mut set = SliceSet::new([slice("a", Some(("ws", 9000)), &[("10.0.0.1", Ready)])]);
    set.apply(slice("b", Some(("ws", 9000)), &[("10.0.0.2", Ready)]));
    set.apply(slice("a", Some(("ws", 9000)), &[("10.0.0.1", Terminating)]));
    assert_eq!(
        shown(&set.endpoints(&ws())),
        [
            ("10.0.0.1:9000".to_owned(), Terminating),
            ("10.0.0.2:9000".to_owned(), Ready)
        ]
    );
    set.delete("a");
    set.delete("unknown");
    assert_eq!(
        shown(&set.endpoints(&ws())),
        [("10.0.0.2:9000".to_owned(), Ready)]
    );
    set.delete("b");
    assert_eq!(set.endpoints(&ws()), SlicedEndpoints::default());
}

#[test]
fn what_is_too_much_is_ignored_and_said_and_the_ready_ones_stay() {
    let addresses: Vec<String> = (0..MAX_ENDPOINTS + 1)
        .map(|number| format!("10.0.{}.{}", number / 256, number % 256))
        .collect();
    let mut endpoints: Vec<_> = addresses.iter().map(|it| (&**it, Ready)).collect();
    endpoints[1].1 = NotReady;
    let set = SliceSet::new([slice("a", Some(("ws", 9000)), &endpoints)]);
    let found = set.endpoints(&ws());
    assert_eq!(found.endpoints.len(), MAX_ENDPOINTS);
    assert!(found.endpoints.iter().all(|it| it.phase == Ready));
    assert_eq!(found.remarks, BTreeSet::from([SliceRemark::TooMany]));
    let many = (0..MAX_SLICES + 1).map(|number| slice(&number.to_string(), None, &[]));
    let set = SliceSet::new(many);
    assert_eq!(set.slices.len(), MAX_SLICES);
    assert_eq!(
        set.endpoints(&ws()).remarks,
        BTreeSet::from([SliceRemark::TooMany])
    );
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let phase = prop_oneof![Just(Ready), Just(Terminating), Just(NotReady)];
    let address = prop_oneof![
        Just("10.0.0.1"),
        Just("10.0.0.2"),
        Just("10.0.0.3"),
        Just("fd00::1")
    ];
    let port = prop_oneof![
        Just(None),
        Just(Some(("ws", 9000))),
        Just(Some(("ws", 9001))),
        Just(Some(("x", 9000)))
    ];
    let endpoints = prop::collection::vec((address, phase), 0..5);
    ("[a-d]", port, endpoints).prop_map(|(name, port, endpoints)| slice(&name, port, &endpoints))
}

proptest! {
    #[test]
    fn the_order_does_not_matter_and_the_best_phase_counts(slices in prop::collection::vec(any_slice(), 0..6)) {
        // The last one of a name counts, so names are made unique.
        let mut unique: Vec<EndpointSlice> = SliceSet::new(slices).slices.into_values().collect();
        let found = SliceSet::new(unique.clone()).endpoints(&ws());
        let mut expected: BTreeMap<String, EndpointPhase> = BTreeMap::new();
        for slice in &unique {
            for port in slice.ports.iter().filter(|port| *port.name == *"ws") {
                for endpoint in &slice.endpoints {
                    let address = SocketAddr::new(endpoint.address, port.number.unwrap()).to_string();
                    let best = expected.entry(address).or_insert(NotReady);
                    *best = endpoint.phase.max(*best);
                }
            }
        }
        let by_address: BTreeMap<String, EndpointPhase> = shown(&found).into_iter().collect();
        prop_assert_eq!(found.endpoints.len(), by_address.len());
        prop_assert_eq!(by_address, expected);
        unique.reverse();
        prop_assert_eq!(&found, &SliceSet::new(unique.clone()).endpoints(&ws()));
        // Events lead to the same state as a list.
        let mut followed = SliceSet::default();
        for slice in &unique {
            followed.apply(slice.clone());
        }
        prop_assert_eq!(&found, &followed.endpoints(&ws()));
        for slice in &unique {
            followed.delete(&slice.name);
        }
        prop_assert_eq!(followed.endpoints(&ws()), SlicedEndpoints::default());
    }
}
