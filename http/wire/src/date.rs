//! Dates as HTTP writes them (RFC 9110 section 5.6.7). What time it is, is an argument.

use std::time::UNIX_EPOCH;

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The last second of the year 9999, beyond which a year has five digits.
const LAST: u64 = 253_402_300_799;

/// `Sun, 06 Nov 1994 08:49:37 GMT` for a number of seconds since 1970. Times before 1970 count as its first second,
/// times after 9999 as its last.
#[must_use]
pub fn format(seconds: i64) -> [u8; 29] {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(LAST);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    put(&mut text, 0, pick(&DAYS, days % 7));
    put(&mut text, 5, &two(day));
    put(&mut text, 8, pick(&MONTHS, month));
    put(&mut text, 12, &two(year / 100));
    put(&mut text, 14, &two(year % 100));
    put(&mut text, 17, &two(time / 3600));
    put(&mut text, 20, &two(time / 60 % 60));
    put(&mut text, 23, &two(time % 60));
    text
}

/// The seconds since 1970 that a date in any of the three forms of HTTP means; `None` for anything else and for dates
/// before 1970.
#[must_use]
pub fn parse(date: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(date).ok()?.trim_matches(' ');
    let time = httpdate::parse_http_date(text).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Year, month from 0 and day from 1 of a number of days since 1970, by counting in eras of 400 years that begin in
/// March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month_from_march >= 10);
    (year, (month_from_march + 2) % 12, day)
}

fn pick<const N: usize>(names: &[&'static [u8; 3]; N], at: u64) -> &'static [u8] {
    usize::try_from(at).ok().and_then(|at| names.get(at)).map_or(b"???", |name| &name[..])
}

fn two(number: u64) -> [u8; 2] {
    let digit = |number: u64| b'0' + u8::try_from(number % 10).unwrap_or(0);
    [digit(number / 10), digit(number)]
}

fn put(text: &mut [u8], at: usize, part: &[u8]) {
    for (to, from) in text.iter_mut().skip(at).zip(part) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_written() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (-1, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&format(seconds)).unwrap(), text);
        }
    }

    #[test]
    fn every_day_agrees_with_httpdate() {
        for day in 0..80_000u64 {
            let seconds = day * 86_400 + day % 86_400;
            let theirs = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            let seconds = i64::try_from(seconds).unwrap();
            assert_eq!(format(seconds), theirs.as_bytes());
            assert_eq!(parse(theirs.as_bytes()), Some(seconds));
        }
    }

    #[test]
    fn all_three_forms_are_read() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
        for text in ["", "0", "Sun, 06 Nov 1994", "Sun, 06 Nov 1899 08:49:37 GMT", "\u{e9}", "tomorrow"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
