//! The key of a request, wherever a setting depends on one.

use http::HeaderName;

use super::Builder;
use crate::config::diagnostic::Code;
use crate::config::model::RequestKey;
use crate::config::raw::{ConfigValue, Located, Section};

impl Builder<'_> {
    /// The key that is written `at` this place.
    pub(super) fn request_key(&mut self, at: &Located<ConfigValue>) -> Option<RequestKey> {
        match &at.value {
            ConfigValue::Text(text) => match text.as_str() {
                "client_ip" => Some(RequestKey::ClientIp),
                "path" => Some(RequestKey::Path),
                "sni" => Some(RequestKey::Sni),
                _ => None,
            },
            ConfigValue::Section(named) => self.named_key(at, named),
            _ => None,
        }
    }

    fn named_key(&mut self, at: &Located<ConfigValue>, named: &Section) -> Option<RequestKey> {
        if named.written.len() != 1 {
            let message = "a key must have exactly one of `header`, `cookie`, `query` and `claim`";
            self.error(Code::Value, at, message);
            return None;
        }
        let (name, value) = named.written.first_key_value()?;
        self.named_key_value(name, value)
    }

    /// The key that is the value of a header, a cookie or a query parameter with the name that `value` has.
    pub(super) fn named_key_value(
        &mut self,
        kind: &str,
        value: &Located<ConfigValue>,
    ) -> Option<RequestKey> {
        let ConfigValue::Text(text) = &value.value else {
            return None;
        };
        if text.is_empty() {
            let message = "a key requires the name of a header, cookie, query parameter or claim";
            self.error(Code::Value, value, message);
            return None;
        }
        match kind {
            "header" => {
                let header = HeaderName::from_bytes(text.as_bytes()).ok();
                if header.is_none() {
                    let message = format!("`{text}` is not a valid header name");
                    self.error(Code::Value, value, &message);
                }
                header.map(RequestKey::Header)
            }
            "cookie" => Some(RequestKey::Cookie(text.as_str().into())),
            "claim" => Some(RequestKey::Claim(text.as_str().into())),
            _ => Some(RequestKey::Query(text.as_str().into())),
        }
    }
}
