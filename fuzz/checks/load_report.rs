//! Any bytes are read as a report of an endpoint without a panic. One that is accepted stays within its bounds,
//! means the same on several lines, and is written again as it was read.

use tidegate::protocol::load_report::{LoadReport, MAX_REPORT_BYTES, MAX_WEIGHT_HUNDREDTHS};
use tidegate::protocol::structured_field::dictionary;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    // Without the limit on the length, which would hide what the parser does with long input.
    let mut members = 0;
    let is_dictionary = dictionary(bytes, |key, _| {
        assert!(key.starts_with(|first: char| first.is_ascii_lowercase() || first == '*'));
        members += 1;
    });
    assert!(members <= bytes.len() / 2 + 1);
    let lines = bytes.split(|byte| *byte == b'\n');
    let is_one_line = lines.clone().count() == 1;
    // Up to the limit, a long report is read twice here, and beyond it once: its work would not grow evenly.
    if bytes.len() > MAX_REPORT_BYTES / 4 {
        let is_too_long = is_one_line && bytes.len() > MAX_REPORT_BYTES;
        assert!(!is_too_long || LoadReport::parse(lines).is_err());
        return;
    }
    let report = match LoadReport::parse(lines.clone()) {
        Ok(report) => report,
        Err(error) => {
            assert!(error.to_string().len() < 200);
            return;
        }
    };
    assert!(!is_one_line || is_dictionary.is_ok());
    assert!(
        report
            .weight_hundredths
            .is_none_or(|it| it <= MAX_WEIGHT_HUNDREDTHS)
    );
    let written = written(&report);
    assert_eq!(
        LoadReport::parse([written.as_bytes()].into_iter()),
        Ok(report)
    );
}

fn written(report: &LoadReport) -> String {
    let weight = report.weight_hundredths;
    let members = [
        report.tunnels.map(|it| format!("tunnels={it}")),
        report.max.map(|it| format!("max={it}")),
        weight.map(|it| format!("weight={}.{:02}", it / 100, it % 100)),
        report.is_draining.then(|| "drain".to_owned()),
    ];
    let members: Vec<String> = members.into_iter().flatten().collect();
    members.join(", ")
}
