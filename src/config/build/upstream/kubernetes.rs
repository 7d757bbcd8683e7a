//! The Kubernetes Service whose EndpointSlices list the endpoints.

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;

use crate::config::build::Builder;
use crate::config::diagnostic::Code;
use crate::config::model::{KubernetesService, ServicePort};
use crate::config::raw::Section;
use crate::config::value;

impl Builder<'_> {
    pub(super) fn kubernetes_service(&mut self, section: &Section) -> KubernetesService {
        // Not read here: both are renewed while tidegate runs, and are read when they are needed.
        let path = |builder: &Self, name: &str| -> Option<PathBuf> {
            let at = section.written(name)?;
            builder.file_at(at).map(|file| file.value)
        };
        let (token_file, ca) = (path(self, "token_file"), path(self, "ca"));
        let state = section.written("state");
        let state = state.and_then(|at| self.file_at(at));
        if let Some(folder) = &state {
            self.places.written_folders.push(folder.clone());
        }
        let api = self.api_url(section, token_file.is_some());
        KubernetesService {
            name: self.kubernetes_name(section, "service").unwrap_or_default(),
            port: self.service_port(section),
            namespace: self.kubernetes_name(section, "namespace"),
            api,
            token_file,
            ca,
            state: state.map(|folder| folder.value),
        }
    }

    fn service_port(&mut self, section: &Section) -> ServicePort {
        if let Some(number) = section.integer("port") {
            return ServicePort::Number(u16::try_from(number).unwrap_or_default());
        }
        ServicePort::Name(self.kubernetes_name(section, "port").unwrap_or_default())
    }

    /// A name as Kubernetes has them. It becomes a part of a URL.
    fn kubernetes_name(&mut self, section: &Section, key: &str) -> Option<Box<str>> {
        let text = section.text(key)?;
        if value::is_kubernetes_name(&text) {
            return Some(text.into());
        }
        let message = format!(
            "`{text}` is not a valid name in Kubernetes; it must have 1 to 63 lower-case letters, digits and `-`"
        );
        self.error(Code::Value, section.written(key)?, &message);
        None
    }

    fn api_url(&mut self, section: &Section, has_token: bool) -> Option<Box<str>> {
        let (text, at) = (section.text("api")?, section.written("api")?);
        match api_base(&text) {
            None => {
                let message = format!(
                    "`{text}` is not the URL of an API server; use e.g. `https://10.0.0.5:6443`"
                );
                self.error(Code::Value, at, &message);
                None
            }
            Some((_, true)) if has_token => {
                let message = "a token is sent over https, or over http to this machine, alone";
                self.error(Code::Conflict, at, message);
                None
            }
            Some((url, _)) => Some(url),
        }
    }
}

/// The URL without a slash at its end, and whether others can read what is sent there.
fn api_base(text: &str) -> Option<(Box<str>, bool)> {
    let url: Uri = text.parse().ok()?;
    let host = url.host().filter(|host| !host.is_empty())?;
    let is_plain = match url.scheme_str()? {
        "https" => false,
        "http" => true,
        _ => return None,
    };
    if url.query().is_some() || text.contains(['@', '#']) {
        return None;
    }
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    let is_local = host == "localhost" || address.is_ok_and(|it| it.is_loopback());
    Some((text.trim_end_matches('/').into(), is_plain && !is_local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_an_api_server_has_a_scheme_and_a_host() {
        let check = |text: &str, expected: Option<(&str, bool)>| {
            let expected = expected.map(|(url, is_exposed)| (url.into(), is_exposed));
            assert_eq!(api_base(text), expected, "{text}");
        };
        check(
            "https://10.0.0.5:6443",
            Some(("https://10.0.0.5:6443", false)),
        );
        check(
            "https://rancher.example/k8s/clusters/c-1/",
            Some(("https://rancher.example/k8s/clusters/c-1", false)),
        );
        check(
            "http://127.0.0.1:8001/",
            Some(("http://127.0.0.1:8001", false)),
        );
        check("http://[::1]:8001", Some(("http://[::1]:8001", false)));
        check("http://10.0.0.5:8001", Some(("http://10.0.0.5:8001", true)));
        for text in [
            "10.0.0.5:6443",
            "/api",
            "ftp://a/",
            "https://u:p@a/",
            "https://a/?b",
            "https:///a",
            "",
        ] {
            check(text, None);
        }
    }
}
