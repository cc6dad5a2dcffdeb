//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use super::Kind;

/// The content type of a page of it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The two lines in front of a family.
pub fn head(out: &mut String, name: &str, help: &str, kind: Kind) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    head_of(out, name, help, kind);
}

/// As [`head`], for any of the format's types.
pub fn head_of(out: &mut String, name: &str, help: &str, kind: &str) {
    out.push_str("# HELP ");
    out.push_str(name);
    out.push(' ');
    escape(out, help, false);
    // Writing to a string cannot fail.
    let _ = write!(out, "\n# TYPE {name} {kind}\n");
}

/// Labels as they stand between the braces.
pub fn labels<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(key.as_ref());
        out.push_str("=\"");
        escape(&mut out, value.as_ref(), true);
        out.push('"');
    }
    out
}

/// One series: `labels` as made by [`labels`], and more of them.
pub fn line(out: &mut String, name: &str, labels: &str, more: &str, value: f64) {
    out.push_str(name);
    if !labels.is_empty() || !more.is_empty() {
        out.push('{');
        out.push_str(labels);
        if !labels.is_empty() && !more.is_empty() {
            out.push(',');
        }
        out.push_str(more);
        out.push('}');
    }
    let _ = match value {
        v if v == f64::INFINITY => writeln!(out, " +Inf"),
        v => writeln!(out, " {v}"),
    };
}

/// Backslash and newline are special everywhere, quotes in values.
fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_the_format_wants_it() {
        let mut out = String::new();
        head(&mut out, "x_total", "a\\b\nc \"d\"", Kind::Counter);
        let pod = labels([("pod", "a\"b\\c\nd"), ("image", "")]);
        line(&mut out, "x_total", &pod, &labels([("device", "/dev/vda")]), 1.5);
        line(&mut out, "x_total", "", "", 3e15);
        line(&mut out, "x_total", "", "le=\"+Inf\"", f64::INFINITY);
        assert_eq!(
            out,
            "# HELP x_total a\\\\b\\nc \"d\"\n# TYPE x_total counter\n\
             x_total{pod=\"a\\\"b\\\\c\\nd\",image=\"\",device=\"/dev/vda\"} 1.5\n\
             x_total 3000000000000000\nx_total{le=\"+Inf\"} +Inf\n"
        );
    }
}
