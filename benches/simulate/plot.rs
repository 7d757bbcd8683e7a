//! Line charts as SVG: readable on light and dark pages, in colours that are safe for colour-blind
//! readers.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 400.0;

/// The size of the area of the lines.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 640.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 348.0;

/// The palette of Okabe and Ito.
pub(crate) const BLUE: Style = ("#0072b2", "");
pub(crate) const ORANGE: Style = ("#e69f00", "");
pub(crate) const RED: Style = ("#d55e00", "");
pub(crate) const GREEN: Style = ("#009e73", "");
pub(crate) const PINK: Style = ("#cc79a7", "");
pub(crate) const BLACK: Style = ("#222222", "");

/// Colour and dashes.
pub(crate) type Style = (&'static str, &'static str);

pub(crate) const fn dashed((color, _): Style) -> Style {
    (color, "6 3")
}

/// A diagram.
#[derive(Debug)]
pub(crate) struct Plot {
    /// The name of the file, without its extension.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The labels of the axes.
    pub(crate) across: &'static str,
    pub(crate) up: &'static str,
    /// The ranges of the axes. Lines are cut off there.
    pub(crate) span: (f64, f64),
    pub(crate) range: (f64, f64),
    pub(crate) lines: Vec<Line>,
}

/// One line of it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) style: Style,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Plot {
    pub(crate) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <clipPath id=\"area\"><rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\"/>\
             </clipPath>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{}</text>\n",
            RIGHT - LEFT,
            BOTTOM - TOP,
            self.title,
        );
        self.axes(&mut svg);
        for (number, line) in self.lines.iter().enumerate() {
            self.line(&mut svg, number, line);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String) {
        for tick in ticks(self.range) {
            let y = self.y(tick);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
                LEFT - 8.0,
                y + 4.5,
            );
        }
        for tick in ticks(self.span) {
            let x = self.x(tick);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {BOTTOM}v5\" stroke=\"#888\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
                BOTTOM + 20.0,
            );
        }
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#888\"/>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + RIGHT) / 2.0,
            HEIGHT - 12.0,
            self.across,
            (TOP + BOTTOM) / 2.0,
            self.up,
        );
    }

    fn line(&self, svg: &mut String, number: usize, line: &Line) {
        let (color, dashes) = line.style;
        let stroke = format!(
            "fill=\"none\" stroke=\"{color}\" stroke-width=\"1.8\" stroke-dasharray=\"{dashes}\""
        );
        svg.push_str("<path clip-path=\"url(#area)\" d=\"");
        for (at, &(x, y)) in line.points.iter().enumerate() {
            let letter = if at == 0 { 'M' } else { 'L' };
            // A point far outside is drawn just outside.
            let y = y.min(2.0 * self.range.1);
            let _ = write!(svg, "{letter}{:.1} {:.1}", self.x(x), self.y(y));
        }
        let y = TOP + 12.0 + 22.0 * number as f64;
        let x = RIGHT + 16.0;
        let _ = writeln!(
            svg,
            "\" {stroke} stroke-linejoin=\"round\"/>\n\
             <path d=\"M{x} {y}h24\" {stroke}/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            x + 32.0,
            y + 4.5,
            line.name,
        );
    }

    fn x(&self, value: f64) -> f64 {
        let (first, last) = self.span;
        LEFT + (RIGHT - LEFT) * (value - first) / (last - first)
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) = self.range;
        BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)
    }
}

/// Four to ten round numbers in a range.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    let step = step.into_iter().find(|step| *step >= rough * 0.99);
    let step = step.unwrap_or(rough);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    // Rounded to the digits of the step, because 0.1 + 0.2 has seventeen.
    let round = |value: f64| (value * 1e6).round() / 1e6;
    (first..=last)
        .map(|tick| round(tick as f64 * step))
        .collect()
}
