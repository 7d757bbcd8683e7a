//! What an endpoint says about its own load, in the header `tidegate-load` of a response.

use super::structured_field::{FieldSyntaxError, MemberValue, dictionary};

/// The name of the header.
pub const LOAD_HEADER: &str = "tidegate-load";

/// The maximum length of a report. Those that mean something are much shorter.
pub const MAX_REPORT_BYTES: usize = 1024;

/// The maximum of `tunnels` and `max`: more than any machine has.
const MAX_TUNNELS: u32 = 1_000_000_000;

/// The maximum of `weight`, in hundredths.
pub const MAX_WEIGHT_HUNDREDTHS: u16 = 1000;

/// A report of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// `tunnels`: what it has open now, over all proxies and other clients.
    pub tunnels: Option<u32>,
    /// `max`: how many of those it accepts.
    pub max: Option<u32>,
    /// `weight`, in hundredths: the configured weight is multiplied by it.
    pub weight_hundredths: Option<u16>,
    /// `drain`: it is to get nothing new.
    pub is_draining: bool,
}

/// Why a report is ignored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadReportError {
    /// It is not a structured field.
    #[error("it is not a dictionary of RFC 9651: {0}")]
    Syntax(#[from] FieldSyntaxError),
    /// It is too long.
    #[error("it is longer than {MAX_REPORT_BYTES} bytes")]
    TooLong,
    /// A member has another type or is out of range.
    #[error("`{key}` is not {allowed}")]
    Member {
        /// The key of the member.
        key: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
}

impl LoadReport {
    /// Reads a report from the lines of its header. Other keys are ignored.
    ///
    /// # Errors
    /// [`LoadReportError`].
    pub fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Self, LoadReportError> {
        let mut field = Vec::new();
        for line in lines {
            if !field.is_empty() {
                field.extend_from_slice(b", ");
            }
            if field.len() + line.len() > MAX_REPORT_BYTES {
                return Err(LoadReportError::TooLong);
            }
            field.extend_from_slice(line);
        }
        let mut members = ReportMembers::default();
        dictionary(&field, |key, value| match key {
            "tunnels" => members.tunnels = Some(value),
            "max" => members.max = Some(value),
            "weight" => members.weight = Some(value),
            "drain" => members.drain = Some(value),
            _ => {}
        })?;
        members.report()
    }
}

/// The last value of each key.
#[derive(Debug, Default)]
struct ReportMembers {
    tunnels: Option<MemberValue>,
    max: Option<MemberValue>,
    weight: Option<MemberValue>,
    drain: Option<MemberValue>,
}

impl ReportMembers {
    fn report(&self) -> Result<LoadReport, LoadReportError> {
        let is_draining = match self.drain {
            None => false,
            Some(MemberValue::Boolean(is_draining)) => is_draining,
            Some(_) => {
                return Err(LoadReportError::Member {
                    key: "drain",
                    allowed: "a boolean, such as `drain` or `drain=?0`",
                });
            }
        };
        Ok(LoadReport {
            tunnels: self.tunnels.map(|it| number("tunnels", it)).transpose()?,
            max: self.max.map(|it| number("max", it)).transpose()?,
            weight_hundredths: self.weight.map(weight).transpose()?,
            is_draining,
        })
    }
}

fn number(key: &'static str, value: MemberValue) -> Result<u32, LoadReportError> {
    let number = match value {
        MemberValue::Integer(number) => u32::try_from(number).ok(),
        _ => None,
    };
    number
        .filter(|number| *number <= MAX_TUNNELS)
        .ok_or(LoadReportError::Member {
            key,
            allowed: "an integer from 0 to 1000000000",
        })
}

fn weight(value: MemberValue) -> Result<u16, LoadReportError> {
    let hundredths = match value {
        MemberValue::Integer(number) => number.checked_mul(100),
        // What is more than nothing stays so.
        MemberValue::Thousandths(1..10) => Some(1),
        MemberValue::Thousandths(thousandths) => Some(thousandths / 10),
        _ => None,
    };
    hundredths
        .and_then(|hundredths| u16::try_from(hundredths).ok())
        .filter(|hundredths| *hundredths <= MAX_WEIGHT_HUNDREDTHS)
        .ok_or(LoadReportError::Member {
            key: "weight",
            allowed: "a number from 0 to 10",
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(lines: &[&str], expected: LoadReport) {
        let report = LoadReport::parse(lines.iter().map(|line| line.as_bytes()));
        assert_eq!(report, Ok(expected), "{lines:?}");
    }

    #[track_caller]
    fn check_error(line: &str, expected: &str) {
        let error = LoadReport::parse([line.as_bytes()].into_iter()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{line}");
    }

    #[test]
    fn a_report_has_any_of_four_members() {
        let none = LoadReport::default();
        check(&[""], none);
        check(&["later=(1 2), tunnels-of-others=5"], none);
        let all = LoadReport {
            tunnels: Some(812),
            max: Some(1000),
            weight_hundredths: Some(200),
            is_draining: true,
        };
        check(&["tunnels=812, max=1000, weight=2, drain"], all);
        check(
            &["drain;why=deploy,weight=2.0", "max=1000,tunnels=812"],
            all,
        );
        check(
            &["tunnels=1, tunnels=2"],
            LoadReport {
                tunnels: Some(2),
                ..none
            },
        );
        check(&["drain, drain=?0"], none);
        for (weight, hundredths) in [
            ("0", 0),
            ("0.0", 0),
            ("0.001", 1),
            ("0.5", 50),
            ("0.999", 99),
            ("10", 1000),
            ("10.009", 1000),
        ] {
            let weight_hundredths = Some(hundredths);
            check(
                &[&format!("weight={weight}")],
                LoadReport {
                    weight_hundredths,
                    ..none
                },
            );
        }
    }

    #[test]
    fn an_invalid_report_is_ignored_as_a_whole() {
        let tunnels = "`tunnels` is not an integer from 0 to 1000000000";
        check_error("tunnels=-1, max=5", tunnels);
        check_error("tunnels=1000000001", tunnels);
        check_error("tunnels=1.0", tunnels);
        check_error("tunnels=\"1\"", tunnels);
        check_error("max", "`max` is not an integer from 0 to 1000000000");
        for weight in ["-1", "-0.1", "11", "10.01", "999999999999999", "heavy"] {
            let text = format!("weight={weight}");
            check_error(&text, "`weight` is not a number from 0 to 10");
        }
        let drain = "`drain` is not a boolean, such as `drain` or `drain=?0`";
        check_error("drain=1", drain);
        check_error("drain=true", drain);
        check_error(
            "{\"tunnels\": 5}",
            "it is not a dictionary of RFC 9651: a key in lower case expected at byte 0",
        );
        let long = format!("a=\"{}\"", "x".repeat(MAX_REPORT_BYTES));
        check_error(&long, "it is longer than 1024 bytes");
    }

    proptest! {
        #[test]
        fn what_an_endpoint_writes_is_read(
            tunnels in prop::option::of(0..=MAX_TUNNELS),
            max in prop::option::of(0..=MAX_TUNNELS),
            weight_hundredths in prop::option::of(0..=MAX_WEIGHT_HUNDREDTHS),
            is_draining: bool,
        ) {
            let report = LoadReport { tunnels, max, weight_hundredths, is_draining };
            let members = [
                tunnels.map(|it| format!("tunnels={it}")),
                max.map(|it| format!("max={it}")),
                weight_hundredths.map(|it| format!("weight={}.{:02}", it / 100, it % 100)),
                is_draining.then(|| "drain".to_owned()),
            ];
            let members: Vec<String> = members.into_iter().flatten().collect();
            let together = members.join(", ");
            prop_assert_eq!(LoadReport::parse([together.as_bytes()].into_iter()), Ok(report));
            // Each on a line of its own.
            let lines = members.iter().map(String::as_bytes);
            prop_assert_eq!(LoadReport::parse(lines), Ok(report));
        }
    }
}
