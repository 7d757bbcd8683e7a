//! Dictionaries of structured fields (RFC 9651), as far as we read any: numbers and booleans have a value,
//! everything else is only checked.

/// The value of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberValue {
    /// An integer.
    Integer(i64),
    /// A decimal, in thousandths.
    Thousandths(i64),
    /// A boolean; a member without a value is `true`.
    Boolean(bool),
    /// A valid value of another type.
    Other,
}

/// The bytes are not a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{expected} expected at byte {at}")]
pub struct FieldSyntaxError {
    /// What the grammar requires.
    pub expected: &'static str,
    /// Where, counted from 0.
    pub at: usize,
}

/// Reads a dictionary (RFC 9651 section 4.2.2), and passes on its members in order. A key may come more than
/// once; then the last one is valid.
///
/// # Errors
/// [`FieldSyntaxError`]: the whole field is to be ignored, with the members that were passed on.
pub fn dictionary(
    field: &[u8],
    mut member: impl FnMut(&str, MemberValue),
) -> Result<(), FieldSyntaxError> {
    let mut reader = FieldReader { field, at: 0 };
    reader.skip(b" ");
    while reader.peek().is_some() {
        let key = reader.key()?;
        let value = match reader.eat(b'=') {
            true => reader.value()?,
            false => MemberValue::Boolean(true),
        };
        reader.parameters()?;
        member(key, value);
        reader.skip(b" \t");
        if reader.peek().is_none() {
            break;
        }
        reader.require(b',', "a comma")?;
        reader.skip(b" \t");
        if reader.peek().is_none() {
            return Err(reader.error("a member"));
        }
    }
    Ok(())
}

#[derive(Debug)]
struct FieldReader<'a> {
    field: &'a [u8],
    at: usize,
}

impl<'a> FieldReader<'a> {
    fn peek(&self) -> Option<u8> {
        self.field.get(self.at).copied()
    }

    fn next(&mut self, expected: &'static str) -> Result<u8, FieldSyntaxError> {
        let byte = self.peek().ok_or_else(|| self.error(expected))?;
        self.at += 1;
        Ok(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn require(&mut self, byte: u8, expected: &'static str) -> Result<(), FieldSyntaxError> {
        match self.eat(byte) {
            true => Ok(()),
            false => Err(self.error(expected)),
        }
    }

    fn skip(&mut self, blanks: &[u8]) {
        self.skip_while(|byte| blanks.contains(&byte));
    }

    fn skip_while(&mut self, is_skipped: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.field.get(self.at..).unwrap_or_default();
        let length = rest.iter().take_while(|byte| is_skipped(**byte)).count();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn error(&self, expected: &'static str) -> FieldSyntaxError {
        FieldSyntaxError {
            expected,
            at: self.at,
        }
    }

    fn key(&mut self) -> Result<&'a str, FieldSyntaxError> {
        match self.peek() {
            Some(b'a'..=b'z' | b'*') => {}
            _ => return Err(self.error("a key in lower case")),
        }
        let key = self.skip_while(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        });
        Ok(str::from_utf8(key).unwrap_or_default())
    }

    /// An item or an inner list, without its parameters.
    fn value(&mut self) -> Result<MemberValue, FieldSyntaxError> {
        if !self.eat(b'(') {
            return self.bare_item();
        }
        loop {
            self.skip(b" ");
            if self.eat(b')') {
                return Ok(MemberValue::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            if !matches!(self.peek(), Some(b' ' | b')')) {
                return Err(self.error("a space or the end of the inner list"));
            }
        }
    }

    fn parameters(&mut self) -> Result<(), FieldSyntaxError> {
        while self.eat(b';') {
            self.skip(b" ");
            self.key()?;
            if self.eat(b'=') {
                self.bare_item()?;
            }
        }
        Ok(())
    }

    fn bare_item(&mut self) -> Result<MemberValue, FieldSyntaxError> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'"') => self.string(),
            Some(b'*' | b'a'..=b'z' | b'A'..=b'Z') => {
                let is_in_token =
                    |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b);
                self.skip_while(is_in_token);
                Ok(MemberValue::Other)
            }
            Some(b':') => {
                self.at += 1;
                self.skip_while(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
                self.require(b':', "the end of the bytes")?;
                Ok(MemberValue::Other)
            }
            Some(b'?') => {
                self.at += 1;
                match self.peek() {
                    Some(digit @ (b'0' | b'1')) => {
                        self.at += 1;
                        Ok(MemberValue::Boolean(digit == b'1'))
                    }
                    _ => Err(self.error("`?0` or `?1`")),
                }
            }
            Some(b'@') => {
                self.at += 1;
                match self.number()? {
                    MemberValue::Integer(_) => Ok(MemberValue::Other),
                    _ => Err(self.error("a date in whole seconds")),
                }
            }
            Some(b'%') => self.display_string(),
            _ => Err(self.error("a value")),
        }
    }

    /// An integer of up to 15 digits, or a decimal of up to 12 and 3 (section 4.2.4).
    fn number(&mut self) -> Result<MemberValue, FieldSyntaxError> {
        const EXPECTED: &str = "an integer of up to 15 digits or a decimal of up to 12 and 3";
        let sign = if self.eat(b'-') { -1 } else { 1 };
        let whole = self.skip_while(|b| b.is_ascii_digit());
        let is_decimal = self.eat(b'.');
        let max_digits = if is_decimal { 12 } else { 15 };
        if whole.is_empty() || whole.len() > max_digits {
            return Err(self.error(EXPECTED));
        }
        let value = |digits: &[u8]| {
            let digits = digits.iter().map(|digit| i64::from(digit - b'0'));
            digits.fold(0, |value, digit| value * 10 + digit)
        };
        if !is_decimal {
            return Ok(MemberValue::Integer(sign * value(whole)));
        }
        let fraction = self.skip_while(|b| b.is_ascii_digit());
        let thousandths = match fraction.len() {
            1 => value(fraction) * 100,
            2 => value(fraction) * 10,
            3 => value(fraction),
            _ => return Err(self.error(EXPECTED)),
        };
        Ok(MemberValue::Thousandths(
            sign * (value(whole) * 1000 + thousandths),
        ))
    }

    fn string(&mut self) -> Result<MemberValue, FieldSyntaxError> {
        self.at += 1;
        loop {
            match self.next("the end of the string")? {
                b'"' => return Ok(MemberValue::Other),
                b'\\' => match self.next("a quote or a backslash")? {
                    b'"' | b'\\' => {}
                    _ => return Err(self.error("a quote or a backslash")),
                },
                b' '..=b'~' => {}
                _ => return Err(self.error("printable ASCII")),
            }
        }
    }

    /// A string with percent-encoded UTF-8 (section 4.2.10).
    fn display_string(&mut self) -> Result<MemberValue, FieldSyntaxError> {
        self.at += 1;
        self.require(b'"', "a quote")?;
        let mut decoded = Vec::new();
        loop {
            match self.next("the end of the string")? {
                b'"' => break,
                b'%' => {
                    let high = self.hex_digit()?;
                    decoded.push(high * 16 + self.hex_digit()?);
                }
                byte @ b' '..=b'~' => decoded.push(byte),
                _ => return Err(self.error("printable ASCII")),
            }
        }
        match str::from_utf8(&decoded) {
            Ok(_) => Ok(MemberValue::Other),
            Err(_) => Err(self.error("a string in UTF-8")),
        }
    }

    fn hex_digit(&mut self) -> Result<u8, FieldSyntaxError> {
        const EXPECTED: &str = "a hexadecimal digit in lower case";
        match self.next(EXPECTED)? {
            digit @ b'0'..=b'9' => Ok(digit - b'0'),
            digit @ b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(self.error(EXPECTED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(field: &str) -> Result<Vec<(String, MemberValue)>, FieldSyntaxError> {
        let mut members = Vec::new();
        let read = dictionary(field.as_bytes(), |key, value| {
            members.push((key.to_owned(), value));
        });
        read.map(|()| members)
    }

    #[track_caller]
    fn check(field: &str, expected: &[(&str, MemberValue)]) {
        let expected = expected
            .iter()
            .map(|(key, value)| ((*key).to_owned(), *value));
        assert_eq!(members(field), Ok(expected.collect()), "{field}");
    }

    /// The examples of RFC 9651, and what its algorithms say about blanks and parameters.
    #[test]
    fn dictionaries_are_read_as_the_rfc_says() {
        use MemberValue::{Boolean, Integer, Other, Thousandths};
        check("", &[]);
        check("  ", &[]);
        check(
            r#"en="Applepie", da=:w4ZibGV0w6ZydGU=:"#,
            &[("en", Other), ("da", Other)],
        );
        check(
            "a=?0, b, c; foo=bar",
            &[
                ("a", Boolean(false)),
                ("b", Boolean(true)),
                ("c", Boolean(true)),
            ],
        );
        check(
            "rating=1.5, feelings=(joy sadness)",
            &[("rating", Thousandths(1500)), ("feelings", Other)],
        );
        check(
            "a=(1 2), b=3, c=4;aa=bb, d=(5 6);valid",
            &[
                ("a", Other),
                ("b", Integer(3)),
                ("c", Integer(4)),
                ("d", Other),
            ],
        );
        check(
            r#"a=@1659578233, b=%"This is intended for display to %c3%bcsers.""#,
            &[("a", Other), ("b", Other)],
        );
        check(
            "  n=-999999999999999 \t,\t*x.y-z_9=-0.001 ",
            &[
                ("n", Integer(-999_999_999_999_999)),
                ("*x.y-z_9", Thousandths(-1)),
            ],
        );
        check("a=1,a=2", &[("a", Integer(1)), ("a", Integer(2))]);
        check(
            r#"a="\"\\", b=(), c=( "x";q=1.0 )"#,
            &[("a", Other), ("b", Other), ("c", Other)],
        );
    }

    #[test]
    fn what_the_grammar_does_not_have_is_an_error() {
        for field in [
            ",",
            "a,",
            "a, ",
            "a,,b",
            "A=1",
            "=1",
            "a=",
            "a =1",
            "a= 1",
            "a b",
            "a=1;",
            "a=1;B",
            "a=--1",
            "a=-",
            "a=1.",
            "a=.5",
            "a=1.2345",
            "a=1234567890123.0",
            "a=1234567890123456",
            "a=?2",
            "a=?",
            "a=\"",
            "a=\"\\x\"",
            "a=\"\u{e9}\"",
            "a=:=",
            "a=:!:",
            "a=@1.5",
            "a=%\"%C3\"",
            "a=%\"%c3\"",
            "a=%x",
            "a=(1",
            "a=(1,2)",
            "a=(1\t2)",
            "a=(\"x\"\"y\")",
            "{\"tunnels\": 1}",
            "1",
            "a\u{e9}",
            "a=1\r\nb=2",
        ] {
            assert!(members(field).is_err(), "{field}");
        }
        let error = members("tunnels=1, max=x\"").unwrap_err();
        assert_eq!(error.to_string(), "a comma expected at byte 16");
    }

    proptest! {
        /// What is written is read, whatever the blanks and parameters.
        #[test]
        fn members_are_read_as_written(
            written in prop::collection::vec(
                ("[a-z*][a-z0-9_.*-]{0,6}", -999_999_999_999_999_i64..=999_999_999_999_999, 0..3_u8),
                0..8,
            ),
            blank in "[ \t]{0,2}",
            parameter in "(;[a-z]{1,3}(=[a-z]{1,3})?){0,2}",
        ) {
            let text = |(key, number, kind): &(String, i64, u8)| match kind {
                0 => format!("{key}={number}{parameter}"),
                1 => format!("{key}={}{}.{:03}{parameter}", if *number < 0 { "-" } else { "" }, number.abs() / 1000, number.abs() % 1000),
                _ => format!("{key}=?{}{parameter}", number.rem_euclid(2)),
            };
            let value = |(key, number, kind): &(String, i64, u8)| (key.clone(), match kind {
                0 => MemberValue::Integer(*number),
                1 => MemberValue::Thousandths(*number),
                _ => MemberValue::Boolean(number.rem_euclid(2) == 1),
            });
            let field = written.iter().map(text).collect::<Vec<_>>().join(&format!("{blank},{blank}"));
            let expected: Vec<_> = written.iter().map(value).collect();
            prop_assert_eq!(members(&field), Ok(expected), "{}", field);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = dictionary(&bytes, |_, _| ());
        }
    }
}
