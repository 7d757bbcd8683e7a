//! The response of an endpoint to a handshake, and the 101 that the client gets for it (RFC 6455
//! section 4.1).

use std::collections::HashSet;
use std::fmt;

use http::StatusCode;

use super::edit::Edit;
use super::extensions;
use super::handshake::Handshake;
use super::header_case::write_field;
use super::token::list;
use crate::config::model::Strictness;

/// The number of lines that a response head may have, unless configured otherwise.
pub const DEFAULT_LINES: usize = 100;

/// A response head, borrowed from the bytes that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    status: u16,
    /// The minor version: 1 in HTTP/1.1.
    minor_version: u8,
    lines: Vec<(&'a str, &'a [u8])>,
}

/// Why bytes are not a valid response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseHeadError {
    /// The bytes are not HTTP/1.
    #[error("the response is not valid HTTP: {0}")]
    Malformed(httparse::Error),
    /// The response has more lines than the upstream allows.
    #[error(
        "the response has more than {0} header lines, the `limits.header_count` of the upstream"
    )]
    TooManyLines(usize),
    /// The response has two lengths: two readers might disagree about its end (RFC 9112 section
    /// 6.3).
    #[error("the response has more than one length")]
    AmbiguousLength,
}

impl<'a> ResponseHead<'a> {
    /// Parses the head at the beginning of `bytes`, and returns it with its length; `None` while it
    /// is incomplete. It may have [`DEFAULT_LINES`].
    ///
    /// # Errors
    /// [`ResponseHeadError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, ResponseHeadError> {
        Self::parse_within(bytes, DEFAULT_LINES)
    }

    /// Like [`parse`](Self::parse), for a head of at most `max_lines`.
    ///
    /// # Errors
    /// [`ResponseHeadError`].
    pub fn parse_within(
        bytes: &'a [u8],
        max_lines: usize,
    ) -> Result<Option<(Self, usize)>, ResponseHeadError> {
        // Before the first byte has come: the lines below are not worth filling.
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut usual = [httparse::EMPTY_HEADER; DEFAULT_LINES];
        let mut more = Vec::new();
        let lines = match usual.get_mut(..max_lines) {
            Some(lines) => lines,
            None => {
                more.resize(max_lines, httparse::EMPTY_HEADER);
                more.as_mut_slice()
            }
        };
        let mut head = httparse::Response::new(lines);
        let mut parser = httparse::ParserConfig::default();
        // A blank before a colon must be removed from a response, not rejected (RFC 9112 section 5.1).
        parser.allow_spaces_after_header_name_in_responses(true);
        let length = match parser.parse_response(&mut head, bytes) {
            Ok(httparse::Status::Partial) => return Ok(None),
            Ok(httparse::Status::Complete(length)) => length,
            Err(httparse::Error::TooManyHeaders) => {
                return Err(ResponseHeadError::TooManyLines(max_lines));
            }
            Err(error) => return Err(ResponseHeadError::Malformed(error)),
        };
        let (Some(status), Some(minor_version)) = (head.code, head.version) else {
            return Err(ResponseHeadError::Malformed(httparse::Error::Status));
        };
        let lines = head
            .headers
            .iter()
            .map(|line| (line.name, line.value))
            .collect();
        let response = Self {
            status,
            minor_version,
            lines,
        };
        response.check_length()?;
        Ok(Some((response, length)))
    }

    fn check_length(&self) -> Result<(), ResponseHeadError> {
        let mut lengths = self.values("content-length");
        let first = lengths.next();
        let several = lengths.any(|length| Some(length) != first);
        let chunked = self.values("transfer-encoding").next().is_some();
        if several || (first.is_some() && chunked) {
            return Err(ResponseHeadError::AmbiguousLength);
        }
        Ok(())
    }

    /// The status code; `None` for a number that is not a valid one.
    pub fn status(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.status).ok()
    }

    /// Whether another response follows (RFC 9110 section 15.2).
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && !self.is_switch()
    }

    /// Whether the response is a 101.
    pub fn is_switch(&self) -> bool {
        self.status == StatusCode::SWITCHING_PROTOCOLS.as_u16()
    }

    /// The first line of a field, if it is valid UTF-8.
    pub fn first(&self, name: &'static str) -> Option<&'a str> {
        let value = self.values(name).next()?;
        std::str::from_utf8(value).ok()
    }

    /// Checks a 101 against the handshake that it answers.
    ///
    /// # Errors
    /// [`SwitchError`]: the connection must not become a tunnel.
    pub fn check_switch(
        &self,
        handshake: &Handshake<'_>,
        strictness: Strictness,
    ) -> Result<Switch<'_>, SwitchError> {
        if !self.is_switch() {
            return Err(SwitchError::Status(self.status));
        }
        let lenient = strictness == Strictness::Lenient;
        let mut excused = Excused {
            version: self.minor_version != 1,
            ..Excused::default()
        };
        if excused.version && !lenient {
            return Err(SwitchError::Version);
        }
        let mut protocols = self.elements("upgrade");
        match (protocols.next(), protocols.next()) {
            (Some(protocol), None) if protocol.eq_ignore_ascii_case(b"websocket") => {}
            _ => return Err(SwitchError::Upgrade),
        }
        if !self
            .elements("connection")
            .any(|token| token.eq_ignore_ascii_case(b"upgrade"))
        {
            if !lenient {
                return Err(SwitchError::Connection);
            }
            excused.connection = true;
        }
        let accept = handshake.accept();
        let mut values = self.values("sec-websocket-accept");
        match (values.next(), values.next()) {
            (Some(value), None) if value == accept.as_bytes() => {}
            // A missing value may be excused, a wrong one never: it proves that the 101 answers
            // somebody else's handshake.
            (None, None) if lenient => excused.accept = true,
            (None, None) => return Err(SwitchError::NoAccept),
            _ => return Err(SwitchError::WrongAccept),
        }
        let subprotocol = match self.check_subprotocol(handshake) {
            Err(SwitchError::Subprotocol(name)) if lenient => {
                excused.subprotocol = true;
                // One that reads it may make something of it; one that did not ask for any may not have to.
                let offers_any = handshake.subprotocols().next().is_some();
                offers_any.then_some(name)
            }
            checked => checked?.map(Into::into),
        };
        self.check_extensions(handshake)?;
        let own_subprotocol = match &subprotocol {
            None => handshake.answer().map(Into::into),
            Some(_) => None,
        };
        Ok(Switch {
            response: self,
            accept,
            subprotocol,
            own_subprotocol,
            excused,
        })
    }

    /// Checks that the endpoint selects at most one subprotocol, and one that the client offered (RFC 6455
    /// section 4.1): otherwise the client closes the connection, and the tunnel has been opened in vain.
    fn check_subprotocol(&self, handshake: &Handshake<'_>) -> Result<Option<&'a str>, SwitchError> {
        let mut subprotocols = self.elements("sec-websocket-protocol");
        let Some(name) = subprotocols.next() else {
            return Ok(None);
        };
        if subprotocols.next().is_some() {
            return Err(SwitchError::SeveralSubprotocols);
        }
        let is_offered = handshake.subprotocols().any(|offered| offered == name);
        match str::from_utf8(name) {
            Ok(name) if is_offered => Ok(Some(name)),
            _ => Err(SwitchError::Subprotocol(text(name))),
        }
    }

    /// Checks that the endpoint selects only extensions that the client offered. Their frames differ, so that
    /// nothing else can be excused.
    fn check_extensions(&self, handshake: &Handshake<'_>) -> Result<(), SwitchError> {
        let mut selected = self
            .values("sec-websocket-extensions")
            .flat_map(extensions::names)
            .peekable();
        if selected.peek().is_none() {
            return Ok(());
        }
        // A set: both lists are as long as their senders like.
        let offered = handshake.extensions().map(<[u8]>::to_ascii_lowercase);
        let offered: HashSet<Vec<u8>> = offered.collect();
        match selected.find(|name| !offered.contains(&name.to_ascii_lowercase())) {
            Some(name) => Err(SwitchError::Extension(text(name))),
            None => Ok(()),
        }
    }

    /// The lines of a field, white space trimmed.
    pub fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.lines
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim_ascii())
    }

    fn elements(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name).flat_map(list)
    }
}

/// A name as errors show it.
fn text(name: &[u8]) -> Box<str> {
    String::from_utf8_lossy(name).into()
}

/// Why a 101 is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// The status is another one.
    #[error("status {0} instead of 101")]
    Status(u16),
    /// The version is HTTP/1.0, which has no upgrades.
    #[error("the 101 is not HTTP/1.1; `handshake = \"lenient\"` would accept it")]
    Version,
    /// `Upgrade` is missing, or names something else or more.
    #[error("the 101 has no `Upgrade: websocket`")]
    Upgrade,
    /// `Connection` does not contain `Upgrade`.
    #[error("the 101 has no `Connection: Upgrade`; `handshake = \"lenient\"` would accept it")]
    Connection,
    /// The proof that the endpoint understood the handshake is missing.
    #[error("the 101 has no `Sec-WebSocket-Accept`; `handshake = \"lenient\"` would accept it")]
    NoAccept,
    /// The proof is wrong: the 101 is for another handshake.
    #[error("the 101 has a wrong `Sec-WebSocket-Accept`")]
    WrongAccept,
    /// The 101 selects more than one subprotocol.
    #[error("the 101 selects more than one subprotocol")]
    SeveralSubprotocols,
    /// The 101 selects a subprotocol that the client did not offer.
    #[error(
        "the 101 selects subprotocol `{0}`, which was not offered; `handshake = \"lenient\"` would accept it"
    )]
    Subprotocol(Box<str>),
    /// The 101 selects an extension that the client did not offer.
    #[error("the 101 selects extension `{0}`, which was not offered")]
    Extension(Box<str>),
}

/// The violations that `handshake = "lenient"` has excused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Excused {
    /// The version is HTTP/1.0.
    pub version: bool,
    /// `Connection: Upgrade` is missing.
    pub connection: bool,
    /// `Sec-WebSocket-Accept` is missing.
    pub accept: bool,
    /// The subprotocol was not offered.
    pub subprotocol: bool,
}

impl Excused {
    /// Whether anything was excused.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl fmt::Display for Excused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.version, "HTTP/1.0"),
            (self.connection, "no Connection: Upgrade"),
            (self.accept, "no Sec-WebSocket-Accept"),
            (self.subprotocol, "a subprotocol that was not offered"),
        ];
        let excused = all.into_iter().filter(|(is_excused, _)| *is_excused);
        let excused: Vec<&str> = excused.map(|(_, what)| what).collect();
        match excused.as_slice() {
            [] => f.write_str("nothing"),
            excused => f.write_str(&excused.join(", ")),
        }
    }
}

/// A valid 101.
#[derive(Debug, Clone)]
pub struct Switch<'a> {
    response: &'a ResponseHead<'a>,
    accept: String,
    /// The subprotocol that the endpoint has selected.
    subprotocol: Option<Box<str>>,
    /// The one that tidegate has selected, if the endpoint has not.
    own_subprotocol: Option<Box<str>>,
    excused: Excused,
}

impl Switch<'_> {
    /// The subprotocol that the client gets.
    pub fn subprotocol(&self) -> Option<&str> {
        let own = self.own_subprotocol.as_deref();
        self.subprotocol.as_deref().or(own)
    }

    /// The violations that were excused.
    pub fn excused(&self) -> Excused {
        self.excused
    }

    /// Writes the head of the 101 for the client.
    pub fn write(&self, out: &mut Vec<u8>, edit: &Edit<'_>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        );
        out.extend_from_slice(b"Sec-WebSocket-Accept: ");
        out.extend_from_slice(self.accept.as_bytes());
        out.extend_from_slice(b"\r\n");
        if let Some(own) = &self.own_subprotocol {
            out.extend_from_slice(b"Sec-WebSocket-Protocol: ");
            out.extend_from_slice(own.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        // Read once for all lines.
        let named: HashSet<Vec<u8>> = self
            .response
            .elements("connection")
            .filter(|name| !name.eq_ignore_ascii_case(b"upgrade"))
            .map(<[u8]>::to_ascii_lowercase)
            .collect();
        // A client without any offer would close the connection.
        let is_stripped = |name: &str| {
            self.subprotocol.is_none() && name.eq_ignore_ascii_case("sec-websocket-protocol")
        };
        for (name, value) in &self.response.lines {
            if is_rewritten(name, &named) || is_stripped(name) || edit.drops(name) {
                continue;
            }
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(edit.restored(name, value).as_deref().unwrap_or(value));
            out.extend_from_slice(b"\r\n");
        }
        for (name, value) in edit.added() {
            write_field(out, name, value.as_bytes(), None);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether a line of the endpoint's is replaced by ours or dropped: it belongs to the endpoint's
/// connection, because of its name or because `Connection` names it (RFC 9110 section 7.6.1), or
/// frames a body, which a 101 does not have.
fn is_rewritten(name: &str, named: &HashSet<Vec<u8>>) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "sec-websocket-accept",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    if NAMES.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return true;
    }
    if named.is_empty() {
        return false;
    }
    let name = name.to_ascii_lowercase();
    !name.starts_with("sec-websocket-") && named.contains(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::HeaderChanges;
    use crate::protocol::edit;
    use crate::protocol::handshake::Intent;
    use http::request::Parts;
    use proptest::prelude::*;

    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    fn request() -> Parts {
        http::Request::builder()
            .uri("/")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", "chat, v2")
            .header(
                "sec-websocket-extensions",
                "permessage-deflate; client_max_window_bits",
            )
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    fn judge(head: &str, strictness: Strictness) -> Result<(Excused, String), SwitchError> {
        let parts = request();
        let Intent::WebSocket(Ok(handshake)) = Intent::of(&parts) else {
            panic!("not a handshake")
        };
        let bytes = format!("{head}\r\n");
        let (response, length) = ResponseHead::parse(bytes.as_bytes()).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        let switch = response.check_switch(&handshake, strictness)?;
        let mut out = Vec::new();
        let changes = HeaderChanges::default();
        switch.write(&mut out, &Edit::new(&changes, &[], &edit::tests::values()));
        Ok((switch.excused(), String::from_utf8(out).unwrap()))
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the cases read better")]
    fn check(head: &str, expected: Result<(), SwitchError>) {
        assert_eq!(
            judge(head, Strictness::Strict).map(|_| ()),
            expected,
            "{head}"
        );
    }

    #[test]
    fn a_good_101() {
        check(GOOD, Ok(()));
        check(&GOOD.replace("websocket", "WebSocket"), Ok(()));
        check(&GOOD.replace(": Upgrade", ": keep-alive, upgrade"), Ok(()));
        check(&format!("{GOOD}Sec-WebSocket-Protocol: v2\r\n"), Ok(()));
        check(
            &format!("{GOOD}Sec-WebSocket-Extensions: permessage-deflate; x=1\r\n"),
            Ok(()),
        );
    }

    #[test]
    fn every_rule_can_be_broken() {
        check(&GOOD.replace("101", "200"), Err(SwitchError::Status(200)));
        check(&GOOD.replace("1.1", "1.0"), Err(SwitchError::Version));
        check(
            &GOOD.replace("Upgrade: websocket\r\n", ""),
            Err(SwitchError::Upgrade),
        );
        check(&GOOD.replace("websocket", "h2c"), Err(SwitchError::Upgrade));
        check(
            &GOOD.replace("websocket", "websocket, h2c"),
            Err(SwitchError::Upgrade),
        );
        check(
            &GOOD.replace("Connection: Upgrade\r\n", ""),
            Err(SwitchError::Connection),
        );
        check(
            &GOOD.replace("Connection: Upgrade", "Connection: close"),
            Err(SwitchError::Connection),
        );
        let extra = |line: &str| format!("{GOOD}{line}\r\n");
        check(
            &extra("Sec-WebSocket-Protocol: chat, v2"),
            Err(SwitchError::SeveralSubprotocols),
        );
        check(
            &extra("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: v2"),
            Err(SwitchError::SeveralSubprotocols),
        );
        check(
            &extra("Sec-WebSocket-Protocol: other"),
            Err(SwitchError::Subprotocol("other".into())),
        );
        check(
            &extra("Sec-WebSocket-Extensions: permessage-deflate, mux"),
            Err(SwitchError::Extension("mux".into())),
        );
    }

    /// The second of the published smuggling attacks: the endpoint is made to pass on a 101 that
    /// some other server gave. That server never saw our key.
    #[test]
    fn a_foreign_101_never_becomes_a_tunnel() {
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        check(&GOOD.replace(accept, ""), Err(SwitchError::NoAccept));
        for other in [
            "",
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOp=",
            "S3PPLMBITXAQ9KYGZZHZRBK+XOO=",
        ] {
            let head = GOOD.replace(accept, &format!("Sec-WebSocket-Accept: {other}\r\n"));
            check(&head, Err(SwitchError::WrongAccept));
            assert_eq!(
                judge(&head, Strictness::Lenient).unwrap_err(),
                SwitchError::WrongAccept
            );
        }
        check(&format!("{GOOD}{accept}"), Err(SwitchError::WrongAccept));
    }

    #[test]
    fn lenient_mode_excuses_missing_fields_and_reports_them() {
        let bare = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n";
        let (excused, head) = judge(bare, Strictness::Lenient).unwrap();
        assert_eq!(
            excused,
            Excused {
                connection: true,
                accept: true,
                ..Excused::default()
            }
        );
        assert_eq!(
            excused.to_string(),
            "no Connection: Upgrade, no Sec-WebSocket-Accept"
        );
        assert!(head.starts_with(GOOD), "{head}");
        assert_eq!(
            judge(GOOD, Strictness::Lenient).unwrap().0,
            Excused::default()
        );
        let wrong = "HTTP/1.1 101 x\r\nUpgrade: h2c\r\n";
        assert_eq!(
            judge(wrong, Strictness::Lenient).unwrap_err(),
            SwitchError::Upgrade
        );
    }

    #[test]
    fn a_client_that_has_marked_a_token_gets_the_mark_or_what_the_endpoint_selects() {
        let parts = request();
        let Intent::WebSocket(Ok(handshake)) = Intent::of(&parts) else {
            panic!("not a handshake")
        };
        let handshake = handshake.answered_with(Some("bearer"));
        let answer = |lines: &str| {
            let bytes = format!("{GOOD}{lines}\r\n");
            let (response, _) = ResponseHead::parse(bytes.as_bytes()).unwrap().unwrap();
            let switch = response.check_switch(&handshake, Strictness::Strict)?;
            let mut out = Vec::new();
            let changes = HeaderChanges::default();
            switch.write(&mut out, &Edit::new(&changes, &[], &edit::tests::values()));
            let text = String::from_utf8(out).unwrap();
            let lines = text.lines();
            let fields = lines.filter(|line| line.to_lowercase().starts_with("sec-websocket-prot"));
            let fields: Vec<_> = fields.filter_map(|line| line.split_once(": ")).collect();
            let [(_, selected)] = fields[..] else {
                panic!("{text}");
            };
            assert_eq!(switch.subprotocol(), Some(selected));
            Ok::<_, SwitchError>(selected.to_owned())
        };
        let field = "Sec-WebSocket-Protocol: ";
        assert_eq!(answer("").unwrap(), "bearer");
        assert_eq!(answer(&format!("{field}\r\n")).unwrap(), "bearer");
        assert_eq!(answer(&format!("{field}v2\r\n")).unwrap(), "v2");
        // It was not offered to the endpoint.
        let error = answer(&format!("{field}bearer\r\n")).unwrap_err();
        assert_eq!(error, SwitchError::Subprotocol("bearer".into()));
    }

    #[test]
    fn lenient_mode_excuses_an_old_version_and_an_unoffered_subprotocol() {
        let (excused, head) = judge(&GOOD.replace("1.1", "1.0"), Strictness::Lenient).unwrap();
        assert_eq!(excused.to_string(), "HTTP/1.0");
        assert!(head.starts_with(GOOD), "{head}");
        let unoffered = "a subprotocol that was not offered";
        let other = format!("{GOOD}Sec-WebSocket-Protocol: V2\r\n");
        let (excused, head) = judge(&other, Strictness::Lenient).unwrap();
        assert_eq!(excused.to_string(), unoffered);
        assert_eq!(head, format!("{other}\r\n"));
        // A client that offers none does not get any.
        let mut parts = request();
        parts.headers.remove("sec-websocket-protocol");
        let Intent::WebSocket(Ok(handshake)) = Intent::of(&parts) else {
            panic!("not a handshake")
        };
        let bytes = format!("{other}\r\n");
        let (response, _) = ResponseHead::parse(bytes.as_bytes()).unwrap().unwrap();
        let switch = response.check_switch(&handshake, Strictness::Lenient);
        let switch = switch.unwrap();
        assert_eq!(
            (switch.subprotocol(), switch.excused().to_string()),
            (None, unoffered.into())
        );
        let mut out = Vec::new();
        let changes = HeaderChanges::default();
        switch.write(&mut out, &Edit::new(&changes, &[], &edit::tests::values()));
        assert_eq!(String::from_utf8(out).unwrap(), format!("{GOOD}\r\n"));
        // Several, or an extension, are not excused.
        for line in [
            "Sec-WebSocket-Protocol: V2, other",
            "Sec-WebSocket-Extensions: mux",
        ] {
            assert!(judge(&format!("{GOOD}{line}\r\n"), Strictness::Lenient).is_err());
        }
    }

    #[test]
    fn blanks_before_a_colon_are_removed() {
        let head = GOOD.replace(": ", " \t: ");
        let (_, written) = judge(&format!("{head}Set-Cookie : a\r\n"), Strictness::Strict).unwrap();
        assert_eq!(written, format!("{GOOD}Set-Cookie: a\r\n\r\n"));
        // They do not hide a second length.
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding : chunked\r\n\r\n";
        let error = ResponseHead::parse(head.as_bytes()).unwrap_err();
        assert_eq!(error, ResponseHeadError::AmbiguousLength);
    }

    #[test]
    fn the_number_of_lines_is_a_limit() {
        let head = |lines: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(lines));
        for max in [1, DEFAULT_LINES, 300] {
            let parse = |lines| {
                ResponseHead::parse_within(head(lines).as_bytes(), max).map(|head| head.is_some())
            };
            assert_eq!(parse(max), Ok(true));
            assert_eq!(parse(max + 1), Err(ResponseHeadError::TooManyLines(max)));
        }
    }

    #[test]
    fn the_101_for_the_client() {
        let head = "HTTP/1.1 101 Whatever\r\n\
            upgrade: websocket\r\n\
            connection: upgrade, caf\u{e9}, X-Hop\r\n\
            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
            Set-Cookie: a\r\nset-cookie: b\r\n\
            x-hop: gone\r\nkeep-alive: timeout=5\r\ncontent-length: 0\r\n\
            Sec-WebSocket-Protocol: chat\r\n";
        let (_, written) = judge(head, Strictness::Strict).unwrap();
        let rest = "Set-Cookie: a\r\nset-cookie: b\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
        assert_eq!(written, format!("{GOOD}{rest}"));
    }

    #[test]
    fn broken_heads_are_not_responses() {
        let bad = |head: &str| ResponseHead::parse(head.as_bytes()).unwrap_err();
        for head in [
            "SMTP ready\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: \x01\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        ] {
            assert!(
                matches!(bad(head), ResponseHeadError::Malformed(_)),
                "{head:?}"
            );
        }
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(bad(head), ResponseHeadError::AmbiguousLength, "{head:?}");
        }
    }

    #[test]
    fn interim_responses_are_recognised() {
        for (status, interim) in [(100, true), (103, true), (101, false), (200, false)] {
            let head = format!("HTTP/1.1 {status} x\r\n\r\n");
            assert_eq!(
                ResponseHead::parse(head.as_bytes())
                    .unwrap()
                    .unwrap()
                    .0
                    .is_interim(),
                interim
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_does_not_depend_on_how_bytes_arrive(
            lines in prop::collection::vec(("[A-Za-z-]{1,8}", "[ -~]{0,8}"), 0..6),
            after in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = b"HTTP/1.1 101 Switching\r\n".to_vec();
            for (name, value) in &lines {
                bytes.extend_from_slice(format!("X{name}: {value}\r\n").as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            let head = bytes.len();
            bytes.extend_from_slice(&after);
            let whole = ResponseHead::parse(&bytes).unwrap().unwrap();
            prop_assert_eq!(whole.1, head);
            for end in 0..head {
                prop_assert_eq!(ResponseHead::parse(&bytes[..end]).unwrap(), None);
            }
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = ResponseHead::parse(&bytes);
            let _ = ResponseHead::parse(&[b"HTTP/1.1 101 x\r\n".as_slice(), &bytes].concat());
        }
    }
}
