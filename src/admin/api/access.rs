//! Access to the interface. Over a unix socket the mode of the file decides, and every operation is
//! allowed. Over TCP a request needs a token whose role allows its operation, and web pages of other sites are
//! refused everything.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::operation::Operation;
use crate::admin::error::ApiError;
use crate::admin::http::AdminPeer;
use crate::config::model::{AdminAccess, AdminRole, AdminToken};

/// Who has sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requester {
    /// The owner of a token.
    Token {
        /// The name of the token.
        name: Arc<str>,
        /// What it allows.
        role: AdminRole,
    },
    /// Anybody who can connect over TCP, where reading is open.
    Anybody,
    /// A process that may write to the unix socket: it may do everything.
    Process {
        /// Its user.
        user: Option<u32>,
        /// Its number.
        pid: Option<i32>,
    },
    /// The successor: it has admitted the operator itself.
    Successor,
}

impl Requester {
    /// Finds out who has sent a request.
    ///
    /// # Errors
    /// [`ApiError`]: 403 if it may be that of a page of another site, or no token is configured; 401 if its token
    /// is missing or unknown.
    pub fn of(parts: &Parts, peer: AdminPeer, access: &AdminAccess) -> Result<Self, ApiError> {
        match peer {
            AdminPeer::Successor => Ok(Self::Successor),
            AdminPeer::Unix { user, pid } => Ok(Self::Process { user, pid }),
            AdminPeer::Tcp { is_tls, .. } => {
                check_site(parts, is_tls)?;
                match access.find(&parts.headers)? {
                    Some(token) => Ok(Self::Token {
                        name: Arc::clone(&token.name),
                        role: token.role,
                    }),
                    None if access.is_reading_open => Ok(Self::Anybody),
                    None => Err(access.missing_token()),
                }
            }
        }
    }

    /// Checks that they may do this.
    ///
    /// # Errors
    /// [`ApiError`]: 401 without a token, 403 if the role of the token does not allow it.
    pub fn check(&self, operation: Operation, access: &AdminAccess) -> Result<(), ApiError> {
        let needed = operation.role();
        match self {
            Self::Process { .. } | Self::Successor => Ok(()),
            Self::Anybody
                if needed == AdminRole::Read
                    && !operation.is_expensive()
                    && !operation.is_internal() =>
            {
                Ok(())
            }
            Self::Anybody => Err(access.missing_token()),
            Self::Token { name, role } if operation.is_internal() => {
                let (method, path) = (operation.method(), operation.path());
                Err(forbidden(format!(
                    "the token `{name}` has the role `{role}`, and no role allows {method} {path}: it is for newer generations, and the unix socket"
                )))
            }
            Self::Token { role, .. } if role.allows(needed) => Ok(()),
            Self::Token { name, role } => {
                let sufficient = match needed {
                    AdminRole::Read => "`read`, `steer` or `all`",
                    AdminRole::Steer => "`steer` or `all`",
                    AdminRole::Revoke => "`revoke` or `all`",
                    AdminRole::All => "`all`",
                };
                let (method, path) = (operation.method(), operation.path());
                Err(forbidden(format!(
                    "the token `{name}` has the role `{role}`, and {method} {path} requires the role {sufficient}"
                )))
            }
        }
    }

    /// Their name in audit lines.
    pub fn name(&self) -> String {
        match self {
            Self::Token { name, .. } => name.to_string(),
            Self::Anybody => "anybody".to_owned(),
            // No token can have such a name.
            Self::Process { user, .. } => match user {
                Some(user) => format!("uid:{user}"),
                None => "uid:unknown".to_owned(),
            },
            Self::Successor => "successor".to_owned(),
        }
    }
}

fn forbidden(error: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, error)
}

impl AdminAccess {
    /// The token in a request; `None` if it has none.
    fn find(&self, headers: &HeaderMap) -> Result<Option<&AdminToken>, ApiError> {
        if !headers.contains_key(AUTHORIZATION) {
            return Ok(None);
        }
        let given = only(headers, AUTHORIZATION.as_str());
        let given = given.and_then(|given| {
            let (scheme, token) = given.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let given = given.unwrap_or_default().as_bytes();
        // All are compared, each in constant time: how long it takes says nothing about any of them.
        let mut found = None;
        for token in &self.tokens {
            let secret = token.secret.bytes();
            if aws_lc_rs::constant_time::verify_slices_are_equal(given, secret).is_ok() {
                found = Some(token);
            }
        }
        match found {
            Some(token) => Ok(Some(token)),
            None if self.tokens.is_empty() => Err(self.missing_token()),
            None => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "this token is not known: `admin.tokens` and `admin.token_file` name the files of those that are",
            )),
        }
    }

    /// The error of a request without a token.
    fn missing_token(&self) -> ApiError {
        match self.tokens.is_empty() {
            true => forbidden(
                "over TCP, this requires a token, and none is configured: set `admin.tokens` or `admin.token_file`",
            ),
            false => ApiError::new(
                StatusCode::UNAUTHORIZED,
                "over TCP, this operation requires a token: `Authorization: Bearer …`",
            ),
        }
    }
}

/// Refuses what a web page of another site may have sent.
fn check_site(parts: &Parts, is_tls: bool) -> Result<(), ApiError> {
    // A name in `Host` may be an attacker's that resolves to this address (DNS rebinding): the browser
    // would take this for the attacker's own site, and let its pages read the responses. With TLS, it would
    // find no certificate for that name.
    let host = only(&parts.headers, HOST.as_str());
    let Some(host) = host.filter(|host| is_tls || is_address(host)) else {
        return Err(forbidden(
            "over TCP, use the IP address or `localhost` as the host",
        ));
    };
    if parts.headers.contains_key(ORIGIN) {
        let origin = only(&parts.headers, ORIGIN.as_str());
        let scheme = if is_tls { "https://" } else { "http://" };
        if origin.and_then(|origin| origin.strip_prefix(scheme)) != Some(host) {
            return Err(forbidden(
                "requests from pages of other origins are refused",
            ));
        }
    }
    // A page of another site cannot read the response without CORS, but its request still costs work
    // here.
    let site = parts.headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(forbidden(
            "requests from pages of other origins are refused",
        ));
    }
    Ok(())
}

/// The value of a header field that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(line)
}

/// Whether the host of `authority` is an IP address or `localhost`.
fn is_address(authority: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok();
    let host = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((host, rest)) = rest.split_once(']') else {
                return false;
            };
            if !rest.is_empty() && !rest.strip_prefix(':').is_some_and(port) {
                return false;
            }
            host
        }
        None => match authority.split_once(':') {
            Some((host, rest)) if port(rest) => host,
            Some(_) => return false,
            None => authority,
        },
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Secret;
    use http::Request;
    use zeroize::Zeroizing;

    fn access(tokens: &[(&str, AdminRole)], is_reading_open: bool) -> AdminAccess {
        let token = |(name, role): &(&str, AdminRole)| AdminToken {
            name: Arc::from(*name),
            role: *role,
            secret: Secret::new(Zeroizing::new(format!("{name}-0123456789abcdef").into())),
        };
        AdminAccess {
            tokens: tokens.iter().map(token).collect(),
            is_reading_open,
        }
    }

    /// The status of a request over TCP with these fields.
    fn status(fields: &[(&str, &str)], operation: Operation, access: &AdminAccess) -> u16 {
        status_over(false, fields, operation, access)
    }

    fn status_over(
        is_tls: bool,
        fields: &[(&str, &str)],
        operation: Operation,
        access: &AdminAccess,
    ) -> u16 {
        let mut request = Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let peer = AdminPeer::Tcp {
            address: ([127, 0, 0, 1], 40_000).into(),
            is_tls,
        };
        let allowed = Requester::of(&parts, peer, access)
            .and_then(|requester| requester.check(operation, access));
        allowed.map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    const HOST_FIELD: (&str, &str) = ("host", "127.0.0.1:9900");

    #[test]
    fn names_are_not_served_and_pages_of_others_neither() {
        let open = access(&[], true);
        let status = |fields: &[(&str, &str)]| status(fields, Operation::Status, &open);
        for host in [
            "127.0.0.1:9900",
            "127.0.0.1",
            "[::1]:9900",
            "localhost:9900",
        ] {
            assert_eq!(status(&[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9900",
            "127.0.0.1.evil.example",
            "[::1",
            "::1",
        ] {
            assert_eq!(status(&[("host", host)]), 403, "{host}");
        }
        assert_eq!(status(&[]), 403);
        let with = |origin| status(&[HOST_FIELD, ("origin", origin)]);
        assert_eq!(with("http://127.0.0.1:9900"), 200);
        assert_eq!(with("http://127.0.0.1:8000"), 403);
        assert_eq!(with("https://evil.example"), 403);
        assert_eq!(with("null"), 403);
        let from = |site| status(&[HOST_FIELD, ("sec-fetch-site", site)]);
        assert_eq!((from("cross-site"), from("none")), (403, 200));
        // Over TLS the certificate protects the name.
        let over_tls =
            |fields: &[(&str, &str)]| status_over(true, fields, Operation::Status, &open);
        let named = ("host", "admin.example:9900");
        assert_eq!(over_tls(&[named]), 200);
        assert_eq!(
            over_tls(&[named, ("origin", "https://admin.example:9900")]),
            200
        );
        assert_eq!(
            over_tls(&[named, ("origin", "http://admin.example:9900")]),
            403
        );
        assert_eq!(over_tls(&[named, ("origin", "https://evil.example")]), 403);
    }

    #[test]
    fn a_token_has_to_be_known() {
        let access = access(&[("a", AdminRole::All), ("b", AdminRole::Read)], false);
        let status = |fields: &[(&str, &str)]| {
            let fields: Vec<_> = [HOST_FIELD].iter().chain(fields).copied().collect();
            status(&fields, Operation::Status, &access)
        };
        let right = ("authorization", "Bearer a-0123456789abcdef");
        assert_eq!(status(&[right]), 200);
        assert_eq!(
            status(&[("authorization", "bearer  b-0123456789abcdef")]),
            200
        );
        assert_eq!(status(&[]), 401);
        for wrong in [
            "Bearer x",
            "Bearer ",
            "Bearer",
            "Bearer a-0123456789abcdef-",
            "Bearer a-0123456789abcde",
            "Basic a-0123456789abcdef",
            "a-0123456789abcdef",
        ] {
            assert_eq!(status(&[("authorization", wrong)]), 401, "{wrong}");
        }
        assert_eq!(status(&[right, right]), 401);
    }

    #[test]
    fn roles_and_open_reading_decide_about_each_operation() {
        let tokens = [
            ("read", AdminRole::Read),
            ("steer", AdminRole::Steer),
            ("revoke", AdminRole::Revoke),
            ("all", AdminRole::All),
        ];
        let of = |token: Option<&str>, operation, access: &AdminAccess| {
            let bearer = token.map(|name| format!("Bearer {name}-0123456789abcdef"));
            let bearer = bearer.iter().map(|it| ("authorization", it.as_str()));
            let fields: Vec<_> = [HOST_FIELD].into_iter().chain(bearer).collect();
            status(&fields, operation, access)
        };
        let (status, plan, close) = (
            Operation::Status,
            Operation::PlanReload,
            Operation::CloseTunnels,
        );
        let closed = access(&tokens, false);
        for (token, expected) in [
            (None, [401, 401, 401]),
            (Some("read"), [200, 200, 403]),
            (Some("steer"), [200, 200, 200]),
            (Some("revoke"), [403, 403, 403]),
            (Some("all"), [200, 200, 200]),
            (Some("other"), [401, 401, 401]),
        ] {
            let given = [status, plan, close].map(|operation| of(token, operation, &closed));
            assert_eq!(given, expected, "{token:?}");
        }
        let open = access(&tokens, true);
        let given = [status, plan, close].map(|operation| of(None, operation, &open));
        assert_eq!(given, [200, 401, 401]);
        let none = access(&[], false);
        assert_eq!(
            (of(None, status, &none), of(Some("x"), status, &none)),
            (403, 403)
        );
        let only_reading = access(&[], true);
        let given = [status, plan, close].map(|operation| of(None, operation, &only_reading));
        assert_eq!(given, [200, 403, 403]);
    }

    #[test]
    fn whoever_reaches_the_socket_may_do_everything() {
        let access = access(&[("read", AdminRole::Read)], false);
        let (parts, ()) = Request::new(()).into_parts();
        for (peer, name) in [
            (AdminPeer::Successor, "successor"),
            (
                AdminPeer::Unix {
                    user: Some(7),
                    pid: None,
                },
                "uid:7",
            ),
        ] {
            let requester = Requester::of(&parts, peer, &access).unwrap();
            assert_eq!(requester.name(), name);
            for operation in Operation::ALL {
                assert!(requester.check(*operation, &access).is_ok());
            }
        }
    }
}
