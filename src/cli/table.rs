//! Tables as docker prints them, and the words in them.

use crate::types::time::now_nanos;

/// Prints a header and rows in columns as wide as their widest cell.
pub fn print<const N: usize>(header: [&str; N], rows: &[[String; N]]) {
    let mut widths = header.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    print_row(&header.map(str::to_owned), &widths);
    for row in rows {
        print_row(row, &widths);
    }
}

fn print_row<const N: usize>(row: &[String; N], widths: &[usize; N]) {
    let cells = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:width$}"));
    println!("{}", cells.collect::<Vec<_>>().join("   ").trim_end());
}

/// `3 minutes ago` for a time in nanoseconds since the epoch.
pub fn ago(nanos: i64) -> String {
    let secs = (now_nanos() - nanos).max(0) / 1_000_000_000;
    let (count, unit) = match secs {
        0..60 => (secs, "second"),
        60..3600 => (secs / 60, "minute"),
        3600..86_400 => (secs / 3600, "hour"),
        _ => (secs / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// `12.3MB` for a number of bytes, in powers of ten as docker has it.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count}B")
    } else {
        format!("{value:.1}{}", UNITS[unit])
    }
}

/// The first 13 characters of an id, without the algorithm of a digest.
pub fn short(id: &str) -> String {
    id.strip_prefix("sha256:")
        .unwrap_or(id)
        .chars()
        .take(13)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ids() {
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(1_234_567), "1.2MB");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789abc");
        assert_eq!(ago(now_nanos() - 61_000_000_000), "1 minute ago");
    }
}
