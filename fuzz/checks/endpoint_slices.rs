//! Any bytes are read as a list of EndpointSlices (the first line) and as the events of a watch (the others) without
//! a panic. The endpoints are ordered, distinct and not too many.

use tidegate::config::model::{Address, EndpointPhase, ServicePort};
use tidegate::kubernetes::objects::{self, SliceEvent};
use tidegate::kubernetes::slices::{MAX_ENDPOINTS, SliceSet};

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let message = objects::message(bytes, 300);
    assert!(message.chars().count() <= 300 && !message.contains(char::is_control));
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let listed = lines.next().and_then(|line| objects::page(line).ok());
    let mut slices = SliceSet::new(listed.map(|page| page.slices).unwrap_or_default());
    for line in lines {
        match objects::event(line) {
            Ok(SliceEvent::Applied(slice, _)) => slices.apply(slice),
            Ok(SliceEvent::Deleted(name, _)) => slices.delete(&name),
            Ok(_) => {}
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    for port in [ServicePort::Name("ws".into()), ServicePort::Number(9000)] {
        let found = slices.endpoints(&port);
        assert!(found.endpoints.len() <= MAX_ENDPOINTS);
        let addresses = found
            .endpoints
            .iter()
            .map(|endpoint| match endpoint.address {
                Address::Ip(address) => address,
                _ => panic!("only IP addresses"),
            });
        assert!(addresses.is_sorted_by(|one, next| one < next));
        assert!(found.endpoints.iter().all(|endpoint| !endpoint.drain));
        // That no slice has an endpoint is not for slices to say.
        let mut phases = found.endpoints.iter().map(|endpoint| endpoint.phase);
        assert!(phases.all(|phase| phase != EndpointPhase::Unlisted));
    }
}
