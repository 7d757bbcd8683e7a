//! The fields of a log line in plain text: the message, then `name=value` for every field.
//!
//! The formatter of `tracing-subscriber` styles every name and sign one by one, even without
//! colours, which took a third of what a handshake cost outside the kernel. It still serves
//! terminals.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

/// Formats fields. Control characters are escaped, so that a value cannot forge a line.
#[derive(Debug)]
pub struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        if writer.has_ansi_escapes() {
            return DefaultFields::new().format_fields(writer, fields);
        }
        let mut line = FieldVisitor {
            to: Escaping(&mut writer),
            any: false,
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result
    }
}

struct FieldVisitor<'a, 'writer> {
    to: Escaping<'a, Writer<'writer>>,
    any: bool,
    result: fmt::Result,
}

impl FieldVisitor<'_, '_> {
    fn field(
        &mut self,
        field: &Field,
        value: impl FnOnce(&mut Escaping<'_, Writer<'_>>) -> fmt::Result,
    ) {
        if self.result.is_ok() {
            self.result = self.name(field).and_then(|()| value(&mut self.to));
        }
    }

    fn name(&mut self, field: &Field) -> fmt::Result {
        if std::mem::replace(&mut self.any, true) {
            self.to.0.write_str(" ")?;
        }
        if field.name() != "message" {
            self.to.0.write_str(field.name())?;
            self.to.0.write_str("=")?;
        }
        Ok(())
    }
}

impl Visit for FieldVisitor<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |to| to.quote_if_needed(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, |to| write!(to, "{value:?}"));
    }
}

/// Writes text on one line, with control characters escaped.
pub(super) struct Escaping<'a, W>(pub(super) &'a mut W);

impl<W: Write> Escaping<'_, W> {
    /// Writes `value`, in quotation marks if it would not be clear without them where it ends.
    pub(super) fn quote_if_needed(&mut self, value: &str) -> fmt::Result {
        let bare = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
        if !value.is_empty() && value.bytes().all(bare) {
            self.0.write_str(value)
        } else {
            write!(self, "{value:?}")
        }
    }
}

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The common case: printable ASCII needs no look at each character.
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return self.0.write_str(text);
        }
        for character in text.chars() {
            if character.is_control() {
                write!(self.0, "{}", character.escape_default())?;
            } else {
                self.0.write_char(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt;

    /// The log lines of `work`, without time and level.
    fn logged(work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct SharedBuffer(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for SharedBuffer {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let text = SharedBuffer::default();
        let writer = text.clone();
        let subscriber = fmt()
            .with_ansi(false)
            .with_target(false)
            .with_level(false)
            .without_time()
            .fmt_fields(Fields)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = text.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_message_comes_first_and_strings_are_quoted_where_they_have_to_be() {
        let text = logged(|| {
            tracing::info!(
                count = 3,
                ms = 0.25,
                bare = "a/b",
                quoted = "a \"b\"",
                empty = "",
                missing = None::<&str>,
                shown = %"it is so",
                "it happened"
            );
        });
        assert_eq!(
            text,
            "it happened count=3 ms=0.25 bare=a/b quoted=\"a \\\"b\\\"\" empty=\"\" shown=it is so\n"
        );
    }

    #[test]
    fn a_value_cannot_forge_a_line() {
        let text = logged(|| {
            let said = "x\n2026 INFO ready\u{1b}[31m\u{9b}é";
            tracing::info!(path = %said, text = said);
        });
        assert_eq!(
            text,
            "path=x\\n2026 INFO ready\\u{1b}[31m\\u{9b}é \
             text=\"x\\n2026 INFO ready\\u{1b}[31m\\u{9b}é\"\n"
        );
    }
}
