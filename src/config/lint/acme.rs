//! Certificate authorities that cannot prove a name here, and those that nothing uses.

use super::is_behind_something;
use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{AcmeConfig, Bind, ChallengeKind, Config, ListenerConfig};

pub(super) fn lint(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let managed = config.managed_certificates();
    for (authority, place) in config.acme.iter().zip(&places.authorities) {
        let name = &authority.name;
        if !managed.iter().any(|it| it.authority.name == *name) {
            let message = format!("no certificate of a listener uses authority `{name}`");
            diagnostics.push(Diagnostic::warning(
                Code::Unused,
                place.name.clone(),
                message,
            ));
            continue;
        }
        let span = place.challenges.as_ref().unwrap_or(&place.name);
        if let Some((message, hint)) = missing_port(config, authority) {
            let warning = Diagnostic::warning(Code::AcmePort, span.clone(), message);
            diagnostics.push(warning.hint(hint));
        }
    }
}

/// The first challenge is the one that is used: its port must be that of a listener.
fn missing_port(config: &Config, authority: &AcmeConfig) -> Option<(String, &'static str)> {
    let first = authority.challenges.iter();
    let (challenge, port, hint) = match first.copied().next()? {
        ChallengeKind::Dns01 => return None,
        it @ ChallengeKind::TlsAlpn01 => (
            it,
            443,
            "use `challenges = [\"http-01\"]` with a listener on port 80, or `dns-01`; nothing is wrong if the network leads that port here",
        ),
        it @ ChallengeKind::Http01 => (
            it,
            80,
            "add a listener with `bind = [\"0.0.0.0:80\", \"[::]:80\"]` and `redirect_to_https = true`; nothing is wrong if the network leads that port here",
        ),
    };
    let is_plain = challenge == ChallengeKind::Http01;
    let answers = |listener: &&ListenerConfig| match &listener.tls {
        None => is_plain,
        Some(tls) => {
            let requires = tls.client_auth.as_ref().is_some_and(|auth| auth.required);
            let mut managed = tls.managed();
            !is_plain && !requires && managed.any(|it| it.authority.name == authority.name)
        }
    };
    let may_have = |listener: &ListenerConfig| {
        is_behind_something(listener)
            || listener.binds.iter().any(|bind| match bind {
                Bind::Tcp(address) => address.port() == port,
                // What leads to a unix socket, or which address a socket unit has, is not known here.
                Bind::Unix { .. } | Bind::Systemd(_) => true,
            })
    };
    let mut listeners = config.listeners.iter().filter(answers);
    if listeners.any(may_have) {
        return None;
    }
    let message = format!(
        "authority `{}` asks for `{challenge}` on port {port}, which no listener with {} has",
        authority.name,
        if is_plain {
            "plain text"
        } else {
            "its certificates"
        },
    );
    Some((message, hint))
}
