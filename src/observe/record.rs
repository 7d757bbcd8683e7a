//! Records of the access log, where it is a log of its own: the same names and values as in the log,
//! as text, as JSON, or as journald has them.

use std::fmt::{Display, Write};
use std::time::SystemTime;

use tracing::field::DisplayValue;

use super::fields::Escaping;
use super::sink::RECORD_END;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `name=value`.
    Text,
    /// One object on a line.
    Json,
    /// What journald takes.
    Journal,
}

/// A record that is being written.
#[derive(Debug)]
pub struct Record {
    text: String,
    shape: Shape,
}

/// What most records take.
const USUAL: usize = 512;

impl Record {
    /// Something happened now.
    pub fn begin(shape: Shape, what: &str) -> Self {
        Self::begin_at(SystemTime::now(), shape, what)
    }

    fn begin_at(time: SystemTime, shape: Shape, what: &str) -> Self {
        let mut text = String::with_capacity(USUAL);
        let time = humantime::format_rfc3339_micros(time);
        // A string takes everything.
        let _ = match shape {
            Shape::Text => write!(text, "{time} {what}"),
            Shape::Json => write!(text, "{{\"timestamp\":\"{time}\",\"message\":\"{what}\""),
            Shape::Journal => write!(
                text,
                "MESSAGE={what}\nPRIORITY=6\nSYSLOG_IDENTIFIER=tidegate\n"
            ),
        };
        Self { text, shape }
    }

    /// One more value, if there is one.
    pub fn field(&mut self, name: &'static str, value: &impl Value) {
        value.put(name, self);
    }

    /// All of it, with its end.
    pub fn end(mut self) -> String {
        match self.shape {
            Shape::Text => self.text.push('\n'),
            Shape::Json => self.text.push_str("}\n"),
            Shape::Journal => self.text.push(RECORD_END),
        }
        self.text
    }

    fn name(&mut self, name: &str) {
        match self.shape {
            Shape::Text => {
                self.text.push(' ');
                self.text.push_str(name);
                self.text.push('=');
            }
            Shape::Json => {
                self.text.push_str(",\"");
                self.text.push_str(name);
                self.text.push_str("\":");
            }
            Shape::Journal => {
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
        match self.shape {
            Shape::Text => Escaping(&mut self.text).quote_if_needed(value),
            Shape::Journal => Escaping(&mut self.text).write_str(value),
            Shape::Json => {
                // Text can always be written so.
                self.text
                    .push_str(&serde_json::to_string(value).unwrap_or_default());
                Ok(())
            }
        }
        .unwrap_or_default();
        self.end_value();
    }

    fn end_value(&mut self) {
        if self.shape == Shape::Journal {
            self.text.push('\n');
        }
    }
}

/// What records have values of.
pub trait Value {
    /// Writes it, or nothing.
    fn put(&self, name: &'static str, record: &mut Record);
}

impl Value for &str {
    fn put(&self, name: &'static str, record: &mut Record) {
        record.string(name, self);
    }
}

impl<T: Display> Value for DisplayValue<T> {
    fn put(&self, name: &'static str, record: &mut Record) {
        record.string(name, &format!("{self}"));
    }
}

impl<T: Value> Value for Option<T> {
    fn put(&self, name: &'static str, record: &mut Record) {
        if let Some(value) = self {
            value.put(name, record);
        }
    }
}

macro_rules! numbers {
    ($($number:ty),+) => {$(
        impl Value for $number {
            fn put(&self, name: &'static str, record: &mut Record) {
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

    fn written(shape: Shape) -> String {
        let time = UNIX_EPOCH + Duration::from_micros(1_500_000);
        let mut record = Record::begin_at(time, shape, "it happened");
        record.field("bare", &"a/b");
        record.field("odd", &"a \"b\"\n\u{1b}é");
        record.field("missing", &None::<&str>);
        record.field("shown", &display("127.0.0.1:1"));
        record.field("count", &Some(3_u64));
        record.field("ms", &0.25);
        record.end()
    }

    #[test]
    fn all_shapes_are_written_and_nobody_can_forge_a_record() {
        assert_eq!(
            written(Shape::Text),
            "1970-01-01T00:00:01.500000Z it happened bare=a/b odd=\"a \\\"b\\\"\\n\\u{1b}é\" \
             shown=127.0.0.1:1 count=3 ms=0.25\n"
        );
        assert_eq!(
            written(Shape::Json),
            "{\"timestamp\":\"1970-01-01T00:00:01.500000Z\",\"message\":\"it happened\",\
             \"bare\":\"a/b\",\"odd\":\"a \\\"b\\\"\\n\\u001bé\",\"shown\":\"127.0.0.1:1\",\
             \"count\":3,\"ms\":0.25}\n"
        );
        assert_eq!(
            written(Shape::Journal),
            "MESSAGE=it happened\nPRIORITY=6\nSYSLOG_IDENTIFIER=tidegate\nTIDEGATE_BARE=a/b\n\
             TIDEGATE_ODD=a \"b\"\\n\\u{1b}é\nTIDEGATE_SHOWN=127.0.0.1:1\nTIDEGATE_COUNT=3\n\
             TIDEGATE_MS=0.25\n\0"
        );
    }
}
