//! EndpointSlices as the API server sends them: a list of them, and the events of a watch
//! (`discovery.k8s.io/v1`).
//!
//! Pure. A field that is absent means the same as one that is null, as everywhere in Kubernetes.

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::slices::{AddressFamily, EndpointSlice, SliceEndpoint, SlicePort};
use crate::config::model::{EndpointPhase, is_endpoint_name};

/// A page of a list of EndpointSlices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePage {
    /// The slices of this page.
    pub slices: Vec<EndpointSlice>,
    /// The state that the list shows. A watch begins there.
    pub version: Box<str>,
    /// Leads to the next page; `None` if this is the last one.
    pub next: Option<Box<str>>,
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SliceEvent {
    /// A slice is new, or has changed.
    Applied(EndpointSlice, Box<str>),
    /// The slice of this name is gone.
    Deleted(Box<str>, Box<str>),
    /// Nothing has changed up to this state.
    Bookmark(Box<str>),
    /// The watch has ended with an error.
    Failed {
        /// The code, like one of HTTP; 0 if there is none.
        code: u16,
        /// What happened.
        message: String,
    },
    /// A kind of event that newer versions of Kubernetes may have.
    Other,
}

/// Endpoints of one slice, at most: the API has no more.
const MAX_SLICE_ENDPOINTS: usize = 1000;

/// Reads a page of a list.
///
/// # Errors
/// If it is not a list of EndpointSlices.
pub fn page(json: &[u8]) -> Result<SlicePage, serde_json::Error> {
    let list: RawList = serde_json::from_slice(json)?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let is_other = |kind: &str| kind != "EndpointSliceList";
    // Something else, such as a Status, would be a list without slices, and all endpoints would be gone.
    if version.is_empty() || list.kind.as_deref().is_some_and(is_other) {
        return Err(serde::de::Error::custom(
            "it is not a list of EndpointSlices",
        ));
    }
    let slices = list.items.unwrap_or_default().into_iter();
    let next = list.metadata.next.filter(|next| !next.is_empty());
    Ok(SlicePage {
        slices: slices.map(EndpointSlice::from).collect(),
        version,
        next,
    })
}

/// Reads one line of a watch.
///
/// # Errors
/// If it is not an event about an EndpointSlice.
pub fn event(json: &[u8]) -> Result<SliceEvent, serde_json::Error> {
    // Twice: only the kind says what the object is.
    let RawKind { kind } = serde_json::from_slice(json)?;
    Ok(match &*kind {
        "ADDED" | "MODIFIED" => {
            let mut slice: RawSlice = object(json)?;
            let version = slice.metadata.resource_version.take();
            SliceEvent::Applied(slice.into(), version.unwrap_or_default())
        }
        "DELETED" => {
            let RawReference { metadata } = object(json)?;
            let version = metadata.resource_version.unwrap_or_default();
            SliceEvent::Deleted(metadata.name.unwrap_or_default(), version)
        }
        "BOOKMARK" => {
            let RawReference { metadata } = object(json)?;
            SliceEvent::Bookmark(metadata.resource_version.unwrap_or_default())
        }
        "ERROR" => {
            let status: RawStatus = object(json)?;
            SliceEvent::Failed {
                code: status.code.unwrap_or_default(),
                message: status.text(),
            }
        }
        _ => SliceEvent::Other,
    })
}

fn object<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(json).map(|RawObject { object }| object)
}

/// What a response with an error says, in at most `limit` characters.
pub fn message(body: &[u8], limit: usize) -> String {
    let text = match serde_json::from_slice::<RawStatus>(body) {
        Ok(status) => status.text(),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let one_line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    one_line.take(limit).collect()
}

#[derive(Deserialize)]
struct RawList {
    kind: Option<Box<str>>,
    metadata: RawMetadata,
    items: Option<Vec<RawSlice>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMetadata {
    name: Option<Box<str>>,
    resource_version: Option<Box<str>>,
    #[serde(rename = "continue")]
    next: Option<Box<str>>,
}

#[derive(Deserialize)]
struct RawKind {
    #[serde(rename = "type")]
    kind: Box<str>,
}

#[derive(Deserialize)]
struct RawObject<T> {
    object: T,
}

#[derive(Deserialize)]
struct RawReference {
    metadata: RawMetadata,
}

#[derive(Deserialize)]
struct RawStatus {
    code: Option<u16>,
    message: Option<String>,
    reason: Option<String>,
}

impl RawStatus {
    fn text(self) -> String {
        let message = self.message.filter(|message| !message.is_empty());
        message.or(self.reason).unwrap_or_default()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSlice {
    metadata: RawMetadata,
    address_type: Option<Box<str>>,
    endpoints: Option<Vec<RawEndpoint>>,
    ports: Option<Vec<RawPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    addresses: Option<Vec<Box<str>>>,
    conditions: Option<RawConditions>,
    target_ref: Option<RawTarget>,
}

#[derive(Default, Clone, Copy, Deserialize)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct RawTarget {
    kind: Option<Box<str>>,
    name: Option<Box<str>>,
}

#[derive(Deserialize)]
struct RawPort {
    name: Option<Box<str>>,
    port: Option<u16>,
    protocol: Option<Box<str>>,
}

impl From<RawSlice> for EndpointSlice {
    fn from(raw: RawSlice) -> Self {
        let family = match raw.address_type.as_deref() {
            Some("IPv4" | "IPv6") => AddressFamily::Ip,
            _ => AddressFamily::Other,
        };
        let endpoints = raw.endpoints.unwrap_or_default().into_iter();
        let ports = raw.ports.unwrap_or_default().into_iter();
        let is_tcp = |port: &RawPort| port.protocol.as_deref().is_none_or(|it| it == "TCP");
        Self {
            name: raw.metadata.name.unwrap_or_default(),
            family,
            endpoints: match family {
                AddressFamily::Ip => endpoints
                    .take(MAX_SLICE_ENDPOINTS)
                    .filter_map(RawEndpoint::read)
                    .collect(),
                AddressFamily::Other => Vec::new(),
            },
            ports: ports
                .filter(is_tcp)
                .map(|port| SlicePort {
                    name: port.name.unwrap_or_default(),
                    number: port.port.filter(|number| *number > 0),
                })
                .collect(),
        }
    }
}

impl RawEndpoint {
    /// The endpoint at the first of its addresses: they are said to be interchangeable.
    fn read(self) -> Option<SliceEndpoint> {
        let address = self.addresses?.into_iter().next()?;
        let address: IpAddr = address.parse().ok()?;
        let pod = self
            .target_ref
            .filter(|it| it.kind.as_deref() == Some("Pod"));
        let pod = pod.and_then(|pod| pod.name);
        Some(SliceEndpoint {
            address: address.to_canonical(),
            phase: self.conditions.unwrap_or_default().phase(),
            pod: pod.filter(|name| is_endpoint_name(name)),
        })
        .filter(|it| !it.address.is_unspecified() && !it.address.is_multicast())
    }
}

impl RawConditions {
    /// An absent `ready` means that it is; an absent `serving` means the same as `ready`.
    fn phase(self) -> EndpointPhase {
        let is_ready = self.ready.unwrap_or(true);
        let is_terminating = self.terminating.unwrap_or(false);
        let is_serving = is_ready || self.serving.unwrap_or(false);
        match (is_terminating, is_ready, is_serving) {
            // With publishNotReadyAddresses, `ready` is always true: readiness does not matter then, but the pod ends
            // all the same.
            (true, _, true) => EndpointPhase::Terminating,
            (true, _, false) => EndpointPhase::TerminatingNotReady,
            (false, true, _) => EndpointPhase::Ready,
            (false, false, _) => EndpointPhase::NotReady,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_of_slices_is_not_an_empty_one() {
        let is_list = |json: &str| page(json.as_bytes()).is_ok();
        assert!(is_list(
            r#"{"metadata":{"resourceVersion":"7"},"items":null}"#
        ));
        let list = r#"{"kind":"EndpointSliceList","metadata":{"resourceVersion":"7"}}"#;
        assert!(is_list(list));
        for other in [
            r#"{"kind":"Status","metadata":{},"status":"Success"}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[]}"#,
            r#"{"metadata":{}}"#,
        ] {
            assert!(!is_list(other), "{other}");
        }
    }

    #[test]
    fn a_slice_has_as_many_endpoints_as_the_api_permits() {
        let one = r#"{"addresses":["10.0.0.1"]}"#;
        let endpoints = vec![one; MAX_SLICE_ENDPOINTS + 1].join(",");
        let slice = format!(
            r#"{{"metadata":{{"name":"a"}},"addressType":"IPv4","endpoints":[{endpoints}]}}"#
        );
        let list = format!(r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{slice}]}}"#);
        let page = page(list.as_bytes()).unwrap();
        assert_eq!(page.slices[0].endpoints.len(), MAX_SLICE_ENDPOINTS);
    }

    #[test]
    fn conditions_decide_what_an_endpoint_gets() {
        use EndpointPhase::{NotReady, Ready, Terminating, TerminatingNotReady};
        let check = |ready, serving, terminating, expected| {
            let conditions = RawConditions {
                ready,
                serving,
                terminating,
            };
            assert_eq!(
                conditions.phase(),
                expected,
                "{ready:?} {serving:?} {terminating:?}"
            );
        };
        let (yes, no) = (Some(true), Some(false));
        check(None, None, None, Ready);
        check(yes, None, None, Ready);
        check(yes, yes, no, Ready);
        // A Service with publishNotReadyAddresses.
        check(yes, no, no, Ready);
        check(yes, no, yes, Terminating);
        check(yes, yes, yes, Terminating);
        check(no, yes, yes, Terminating);
        // Its readiness probe fails, and it ends all the same.
        check(no, no, yes, TerminatingNotReady);
        check(no, no, no, NotReady);
        check(no, None, yes, TerminatingNotReady);
        check(no, None, None, NotReady);
        check(no, yes, no, NotReady);
        check(no, yes, None, NotReady);
        check(None, yes, yes, Terminating);
    }

    #[test]
    fn a_slice_has_the_addresses_and_ports_that_can_be_used() {
        let json = br#"{"type":"MODIFIED","object":{"kind":"EndpointSlice","metadata":{"name":"chat-1",
            "resourceVersion":"7"},"addressType":"IPv4","ports":[{"name":"ws","port":9000},
            {"name":"ws","port":9000,"protocol":"UDP"},{"port":0},{"name":"any"}],"endpoints":[
            {"addresses":["10.0.0.1","10.0.0.9"],"targetRef":{"kind":"Pod","name":"chat-a"}},
            {"addresses":["10.0.0.2"],"targetRef":{"kind":"Node","name":"n"},"conditions":{"ready":false}},
            {"addresses":[]},{"addresses":null},{},{"addresses":["name"]},{"addresses":["0.0.0.0"]}]}}"#;
        let SliceEvent::Applied(slice, version) = event(json).unwrap() else {
            panic!("applied")
        };
        assert_eq!((&*slice.name, &*version), ("chat-1", "7"));
        let endpoints: Vec<_> = slice
            .endpoints
            .iter()
            .map(|it| (it.address.to_string(), it.phase, it.pod.as_deref()))
            .collect();
        assert_eq!(
            endpoints,
            [
                ("10.0.0.1".to_owned(), EndpointPhase::Ready, Some("chat-a")),
                ("10.0.0.2".to_owned(), EndpointPhase::NotReady, None),
            ]
        );
        let ports: Vec<_> = slice
            .ports
            .iter()
            .map(|it| (&*it.name, it.number))
            .collect();
        assert_eq!(ports, [("ws", Some(9000)), ("", None), ("any", None)]);
    }

    #[test]
    fn events_and_pages_are_read() {
        let read = |json: &str| event(json.as_bytes()).unwrap();
        assert_eq!(
            read(r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"8"}}}"#),
            SliceEvent::Deleted("a".into(), "8".into())
        );
        assert_eq!(
            read(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#),
            SliceEvent::Bookmark("9".into())
        );
        assert_eq!(
            read(r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#),
            SliceEvent::Failed {
                code: 410,
                message: "Expired".into()
            }
        );
        assert_eq!(read(r#"{"type":"NEW","object":{}}"#), SliceEvent::Other);
        for wrong in [
            "",
            "{",
            "[]",
            r#"{"type":"ADDED"}"#,
            r#"{"type":"ADDED","object":3}"#,
        ] {
            assert!(event(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let one = page(br#"{"metadata":{"resourceVersion":"5","continue":"abc"},"items":null}"#);
        let one = one.unwrap();
        assert_eq!((&*one.version, one.next.as_deref()), ("5", Some("abc")));
        let last = page(br#"{"metadata":{"resourceVersion":"5","continue":""},"items":[]}"#);
        assert_eq!(last.unwrap().next, None);
        assert!(page(b"{}").is_err());
    }

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(
            message(br#"{"kind":"Status","message":"no\nway"}"#, 99),
            "no way"
        );
        assert_eq!(message(b" Unauthorized\n", 99), "Unauthorized");
        assert_eq!(message(b"\xffabc", 2), "\u{fffd}a");
    }
}
