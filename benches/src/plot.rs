//! A bar chart as SVG.

use std::fmt::Write as _;

/// A bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What it is of.
    pub label: String,
    /// Its length, one or more.
    pub value: f64,
    /// Whether it is ours.
    pub own: bool,
}

/// Draws horizontal bars on a logarithmic scale that begins at one.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    const LABELS: f64 = 530.0;
    const LENGTH: f64 = 420.0;
    const ROW: f64 = 22.0;
    let most = bars.iter().map(|bar| bar.value).fold(2.0, f64::max);
    let length = |value: f64| value.max(1.0).ln() / most.ln() * LENGTH;
    let (width, top) = (LABELS + LENGTH + 70.0, 56.0);
    let mut y = top;
    let bottom = top + f64::from(u32::try_from(bars.len()).unwrap_or(0)) * ROW;
    let height = bottom + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    for tick in [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        if tick > most {
            break;
        }
        let x = LABELS + length(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{tick}×</text>",
            top - 6.0
        );
    }
    for bar in bars {
        let (long, text) = (length(bar.value), y + ROW * 0.7);
        let fill = if bar.own { "#2f6f4f" } else { "#9aa5b1" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{long:.1}\" height=\"{}\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{text:.1}\">{:.2}</text>",
            LABELS - 8.0,
            escaped(&bar.label),
            y + 3.0,
            ROW - 6.0,
            LABELS + long + 5.0,
            bar.value
        );
        y += ROW;
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_holds_is_text() {
        let bar = Bar { label: "<a & b>".into(), value: 2.0, own: true };
        let svg = bars("t", &[bar]);
        assert!(svg.contains("&lt;a &amp; b&gt;") && !svg.contains("<a "), "{svg}");
    }
}
