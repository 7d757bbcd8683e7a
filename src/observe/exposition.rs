//! Metrics as text: in the format of Prometheus, or in OpenMetrics if the client asks for it.
//!
//! The formats differ in how counters are declared, how the bounds of buckets are written, and in
//! the end mark. Most tools read the first; the `prometheus-client` crate writes only the second,
//! which is why this is done by hand.

use std::fmt::{Display, Write};

use super::histogram::HistogramSum;

/// A text format for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format for a client with this `Accept` header: OpenMetrics only if the client names it
    /// and does not prefer plain text.
    pub fn accepted(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let ranges = accept
                .split(',')
                .map(|range| range.split(';').map(str::trim));
            let qualities = ranges.filter_map(|mut range| {
                if !range.next()?.eq_ignore_ascii_case(wanted) {
                    return None;
                }
                let quality = range.find_map(|parameter| parameter.strip_prefix("q="));
                quality.map_or(Some(1.0), |quality| quality.parse().ok())
            });
            qualities.fold(0.0, f64::max)
        };
        let open_metrics = quality("application/openmetrics-text");
        if open_metrics > 0.0 && open_metrics >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The type of a family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A value that only increases.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Counts of observations in buckets.
    Histogram,
}

/// Label names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page of metrics that is being written.
#[derive(Debug)]
pub struct Exposition {
    text: String,
    format: Format,
    family: &'static str,
}

impl Exposition {
    /// An empty page.
    pub fn new(format: Format) -> Self {
        Self {
            text: String::new(),
            format,
            family: "",
        }
    }

    /// Begins a family; the samples that follow belong to it.
    pub fn family(&mut self, name: &'static str, kind: MetricKind, help: &str) {
        self.family = name;
        let declared = match self.format {
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Format::Prometheus => name,
        };
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        self.put(format_args!(
            "# HELP {declared} {help}\n# TYPE {declared} {kind}\n"
        ));
    }

    /// Writes a sample of a counter or a gauge.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Writes a histogram.
    pub fn histogram(&mut self, labels: Labels<'_>, sum: &HistogramSum) {
        for (bound, count) in &sum.buckets {
            let bound = match self.format {
                Format::OpenMetrics => format!("{bound:?}"),
                Format::Prometheus => bound.to_string(),
            };
            self.line("_bucket", labels, Some(&bound), count);
        }
        self.line("_bucket", labels, Some("+Inf"), sum.count);
        self.line("_sum", labels, None, sum.sum);
        self.line("_count", labels, None, sum.count);
    }

    /// The finished page.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        let family = self.family;
        self.put(format_args!("{family}{suffix}"));
        let le = le.map(|bound| ("le", bound));
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(le) {
            self.put(format_args!("{before}{name}=\""));
            self.escaped(value);
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }

    fn escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut metrics = Exposition::new(format);
        metrics.family("x_total", MetricKind::Counter, "What came.");
        metrics.sample(&[("path", "a\"\\\n"), ("of", "b")], 3);
        metrics.family("y", MetricKind::Gauge, "What is.");
        metrics.sample(&[], 0.5);
        metrics.family("z_seconds", MetricKind::Histogram, "What it took.");
        let sum = HistogramSum {
            buckets: vec![(0.5, 1), (1.0, 2)],
            count: 3,
            sum: 9.25,
        };
        metrics.histogram(&[("of", "b")], &sum);
        metrics.finish()
    }

    #[test]
    fn both_formats_are_written() {
        let prometheus = "\
# HELP x_total What came.
# TYPE x_total counter
x_total{path=\"a\\\"\\\\\\n\",of=\"b\"} 3
# HELP y What is.
# TYPE y gauge
y 0.5
# HELP z_seconds What it took.
# TYPE z_seconds histogram
z_seconds_bucket{of=\"b\",le=\"0.5\"} 1
z_seconds_bucket{of=\"b\",le=\"1\"} 2
z_seconds_bucket{of=\"b\",le=\"+Inf\"} 3
z_seconds_sum{of=\"b\"} 9.25
z_seconds_count{of=\"b\"} 3
";
        assert_eq!(written(Format::Prometheus), prometheus);
        let open_metrics = prometheus
            .replace("# HELP x_total", "# HELP x")
            .replace("# TYPE x_total", "# TYPE x")
            .replace("le=\"1\"", "le=\"1.0\"");
        assert_eq!(written(Format::OpenMetrics), open_metrics + "# EOF\n");
    }

    #[test]
    fn open_metrics_is_written_if_the_client_prefers_it() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain;version=0.0.4", Format::Prometheus),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.4,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "text/plain, application/openmetrics-text; q=0.5",
                Format::Prometheus,
            ),
            ("application/openmetrics-text; q=0", Format::Prometheus),
            ("application/openmetrics-text; q=x", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
