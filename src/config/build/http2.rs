//! `http2` of a listener.

use super::{Builder, positive};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::Http2;
use crate::config::raw::{ConfigValue, Section};

impl Builder<'_> {
    /// HTTP/2 of a listener; `None` if it is off.
    pub(super) fn http2(&mut self, listener: &Section) -> Option<Http2> {
        let at = listener.written("http2")?;
        if matches!(at.value, ConfigValue::Bool(false) | ConfigValue::Broken) {
            return None;
        }
        if listener.written("tls").is_none() && !listener.may_mean(&["tls"]) {
            let message = "`http2` requires TLS: clients agree on HTTP/2 during the TLS handshake";
            self.diagnostics.push(
                Diagnostic::error(Code::Conflict, at.span.clone(), message)
                    .hint("add `tls`, or leave `http2` out"),
            );
        }
        let section = listener.section("http2");
        let streams = positive(&section, "streams")?.get();
        let stream_window = self.window(&section, "stream_window")?;
        let connection_window = match section.text("connection_window") {
            Some(_) => streams.saturating_mul(stream_window).min(Http2::MAX_WINDOW),
            None => self.window(&section, "connection_window")?,
        };
        if let Some(at) = section.written("connection_window")
            && connection_window < stream_window
        {
            let message =
                "`connection_window` is smaller than `stream_window`: one stream could use it up";
            self.error(Code::Conflict, at, message);
        }
        Some(Http2 {
            websockets: section.bool("websockets"),
            streams,
            stream_window,
            connection_window,
            max_age: section.duration("max_age"),
        })
    }

    /// A window in bytes.
    fn window(&mut self, section: &Section, name: &str) -> Option<u32> {
        let window = u32::try_from(section.size(name)?).ok()?;
        if let Some(at) = section.written(name)
            && window < Http2::MIN_WINDOW
        {
            let message = format!(
                "`{name}` is smaller than 65,535 bytes, with which HTTP/2 begins: a client may send that many before it learns of this setting"
            );
            self.error(Code::Value, at, &message);
            return None;
        }
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config;

    /// What `http2` of a listener with TLS means.
    fn meant(http2: &str) -> Option<Http2> {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("a.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(folder.path().join("a.key"), key).unwrap();
        let source = format!(
            "[listener.a]\nbind = \"127.0.0.1:8443\"\ntls.certificates = [{{ cert = \"a.pem\", key = \"a.key\" }}]\n\
             {http2}\n[[route]]\nupstream = \"a\"\n[upstream.a]\nendpoints = [\"127.0.0.1:9000\"]\n"
        );
        match config::parse(&source, &folder.path().join("a.toml"), &|_| None) {
            Ok(loaded) => loaded.config.listeners.first().and_then(|it| it.http2),
            Err(report) => panic!("{http2}: {}", report.render(false)),
        }
    }

    #[test]
    fn the_window_of_a_connection_has_room_for_all_streams_unless_it_is_given() {
        let defaults = Http2 {
            websockets: true,
            streams: 100,
            stream_window: 64 << 10,
            connection_window: 6_553_600,
            max_age: None,
        };
        for (written, expected) in [
            ("", None),
            ("http2 = false", None),
            ("http2 = true", Some(defaults)),
            ("http2 = {}", Some(defaults)),
            (
                "http2 = { websockets = false, streams = 1, stream_window = \"65535B\", max_age = \"1h\" }",
                Some(Http2 {
                    websockets: false,
                    streams: 1,
                    stream_window: 65_535,
                    connection_window: 65_535,
                    max_age: Some(Duration::from_secs(3600)),
                }),
            ),
            (
                "http2 = { streams = 1000, stream_window = \"16MiB\" }",
                Some(Http2 {
                    streams: 1000,
                    stream_window: 16 << 20,
                    connection_window: Http2::MAX_WINDOW,
                    ..defaults
                }),
            ),
            (
                "http2.connection_window = \"1MiB\"",
                Some(Http2 {
                    connection_window: 1 << 20,
                    ..defaults
                }),
            ),
        ] {
            assert_eq!(meant(written), expected, "{written}");
        }
    }
}
