//! The records of a separate access log: the same names and values as in the log, as text, as JSON,
//! or in the format of journald.

use std::fmt::{Display, Write};
use std::time::SystemTime;

use tracing::field::DisplayValue;

use super::fields::Escaping;
use super::sink::RECORD_END;

/// The format of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFormat {
    /// Text: `name=value`.
    Text,
    /// JSON: one object per line.
    Json,
    /// The native protocol of journald.
    Journal,
}

/// A record that is being written.
#[derive(Debug)]
pub struct LogRecord {
    text: String,
    format: RecordFormat,
}

/// Bytes that are enough for most records.
const USUAL: usize = 512;

impl LogRecord {
    /// Begins a record of something that happened now.
    pub fn begin(format: RecordFormat, what: &str) -> Self {
        Self::begin_at(SystemTime::now(), format, what)
    }

    fn begin_at(time: SystemTime, format: RecordFormat, what: &str) -> Self {
        let mut text = String::with_capacity(USUAL);
        let time = humantime::format_rfc3339_micros(time);
        // Writing to a string cannot fail.
        let _ = match format {
            RecordFormat::Text => write!(text, "{time} {what}"),
            RecordFormat::Json => write!(text, "{{\"timestamp\":\"{time}\",\"message\":\"{what}\""),
            RecordFormat::Journal => write!(
                text,
                "MESSAGE={what}\nPRIORITY=6\nSYSLOG_IDENTIFIER=tidegate\n"
            ),
        };
        Self { text, format }
    }

    /// Adds a field, if it has a value.
    pub fn field(&mut self, name: &'static str, value: &impl RecordValue) {
        value.put(name, self);
    }

    /// The finished record.
    pub fn end(mut self) -> String {
        match self.format {
            RecordFormat::Text => self.text.push('\n'),
            RecordFormat::Json => self.text.push_str("}\n"),
            RecordFormat::Journal => self.text.push(RECORD_END),
        }
        self.text
    }

    fn name(&mut self, name: &str) {
        match self.format {
            RecordFormat::Text => {
                self.text.push(' ');
                self.text.push_str(name);
                self.text.push('=');
            }
            RecordFormat::Json => {
                self.text.push_str(",\"");
                self.text.push_str(name);
                self.text.push_str("\":");
            }
            RecordFormat::Journal => {
                self.text.push_str("TIDEGATE_");
                self.text
                    .extend(name.chars().map(|it| it.to_ascii_uppercase()));
                self.text.push('=');
            }
        }
    }

    fn number(&mut self, name: &str, value: impl Display) {
        self.name(name);
        let _ = write!(self.text, "{value}");
        self.end_value();
    }

    fn string(&mut self, name: &str, value: &str) {
        self.name(name);
        match self.format {
            RecordFormat::Text => Escaping(&mut self.text).quote_if_needed(value),
            RecordFormat::Journal => Escaping(&mut self.text).write_str(value),
            RecordFormat::Json => {
                // A string can always be written as JSON.
                self.text
                    .push_str(&serde_json::to_string(value).unwrap_or_default());
                Ok(())
            }
        }
        .unwrap_or_default();
        self.end_value();
    }

    fn end_value(&mut self) {
        if self.format == RecordFormat::Journal {
            self.text.push('\n');
        }
    }
}

/// A value that a record can have.
pub trait RecordValue {
    /// Writes the field, or nothing if there is no value.
    fn put(&self, name: &'static str, record: &mut LogRecord);
}

impl RecordValue for &str {
    fn put(&self, name: &'static str, record: &mut LogRecord) {
        record.string(name, self);
    }
}

impl<T: Display> RecordValue for DisplayValue<T> {
    fn put(&self, name: &'static str, record: &mut LogRecord) {
        record.string(name, &format!("{self}"));
    }
}

impl<T: RecordValue> RecordValue for Option<T> {
    fn put(&self, name: &'static str, record: &mut LogRecord) {
        if let Some(value) = self {
            value.put(name, record);
        }
    }
}

macro_rules! numbers {
    ($($number:ty),+) => {$(
        impl RecordValue for $number {
            fn put(&self, name: &'static str, record: &mut LogRecord) {
                record.number(name, self);
            }
        }
    )+};
}

numbers!(u16, u64, f64);

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};
    use tracing::field::display;

    fn written(format: RecordFormat) -> String {
        let time = UNIX_EPOCH + Duration::from_micros(1_500_000);
        let mut record = LogRecord::begin_at(time, format, "it happened");
        record.field("bare", &"a/b");
        record.field("odd", &"a \"b\"\n\u{1b}é");
        record.field("missing", &None::<&str>);
        record.field("shown", &display("127.0.0.1:1"));
        record.field("count", &Some(3_u64));
        record.field("ms", &0.25);
        record.end()
    }

    #[test]
    fn all_formats_are_written_and_a_value_cannot_forge_a_record() {
        assert_eq!(
            written(RecordFormat::Text),
            "1970-01-01T00:00:01.500000Z it happened bare=a/b odd=\"a \\\"b\\\"\\n\\u{1b}é\" \
             shown=127.0.0.1:1 count=3 ms=0.25\n"
        );
        assert_eq!(
            written(RecordFormat::Json),
            "{\"timestamp\":\"1970-01-01T00:00:01.500000Z\",\"message\":\"it happened\",\
             \"bare\":\"a/b\",\"odd\":\"a \\\"b\\\"\\n\\u001bé\",\"shown\":\"127.0.0.1:1\",\
             \"count\":3,\"ms\":0.25}\n"
        );
        assert_eq!(
            written(RecordFormat::Journal),
            "MESSAGE=it happened\nPRIORITY=6\nSYSLOG_IDENTIFIER=tidegate\nTIDEGATE_BARE=a/b\n\
             TIDEGATE_ODD=a \"b\"\\n\\u{1b}é\nTIDEGATE_SHOWN=127.0.0.1:1\nTIDEGATE_COUNT=3\n\
             TIDEGATE_MS=0.25\n\0"
        );
    }
}
