//! Time stamps of log records, cheap: date and time of day are worked out once a second.

use super::Stream;

/// `2026-11-24T02:05:33` of the second last asked for.
#[derive(Debug)]
pub struct Stamp {
    second: i64,
    text: [u8; 19],
}

impl Default for Stamp {
    fn default() -> Self {
        Self {
            second: 0,
            text: *b"1970-01-01T00:00:00",
        }
    }
}

/// What precedes the content of a record: time, stream and tag, each followed by a blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Of a record that ends its line.
    pub full: [u8; HEADER],
    /// Of a record that does not.
    pub partial: [u8; HEADER],
}

/// Length of a header: 30 for the time, 1, 6 for the stream, 1, 1 for the tag, 1.
pub const HEADER: usize = 40;

impl Stamp {
    /// Headers for output read at `now`, in nanoseconds since the epoch.
    pub fn headers(&mut self, now: i64, stream: Stream) -> Headers {
        let (second, nanos) = (now.div_euclid(1_000_000_000), now.rem_euclid(1_000_000_000));
        if second != self.second {
            self.second = second;
            self.text = date_time(second);
        }
        let mut full = *b"0000-00-00T00:00:00.000000000Z stdout F ";
        full[..19].copy_from_slice(&self.text);
        digits(&mut full[20..29], nanos);
        if stream == Stream::Stderr {
            full[31..37].copy_from_slice(b"stderr");
        }
        let mut partial = full;
        partial[38] = b'P';
        Headers { full, partial }
    }
}

fn date_time(second: i64) -> [u8; 19] {
    let (year, month, day) = civil(second.div_euclid(86_400));
    let of_day = second.rem_euclid(86_400);
    let mut text = *b"0000-00-00T00:00:00";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], of_day / 3600);
    digits(&mut text[14..16], of_day / 60 % 60);
    digits(&mut text[17..19], of_day % 60);
    text
}

/// Year, month and day of a day counted from 1970-01-01. Counts in years that begin in March, so that the leap day is
/// the last of its year, within eras of 400 years, which all have the same length.
fn civil(day: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let since_0000_march = day + 719_468;
    let (era, of_era) = (since_0000_march.div_euclid(ERA), since_0000_march.rem_euclid(ERA));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year + i64::from(month <= 2), month, day_of_month)
}

/// Fills `place` with the decimal digits of `number`, leading zeros included.
fn digits(place: &mut [u8], mut number: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}
