//! Operators of the time of a row.

use super::op::Clock;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Writes the hour, the weekday or the day of the year in UTC, `offset` milliseconds after the time
/// of each row. The first value is that of row `first`; NaN for rows before the frame.
pub fn write(clock: Clock, offset: i64, times: &[i64], first: i64, out: &mut [f64]) {
    let missing = (-first).clamp(0, out.len() as i64) as usize;
    out[..missing].fill(f64::NAN);
    let times = &times[(first + missing as i64) as usize..];
    for (out, time) in out[missing..].iter_mut().zip(times) {
        let time = time.saturating_add(offset);
        *out = match clock {
            Clock::Hour => time.rem_euclid(DAY) / HOUR,
            // 1970 began on a Thursday.
            Clock::Weekday => (time.div_euclid(DAY) + 3).rem_euclid(7),
            Clock::DayOfYear => day_of_year(time.div_euclid(DAY)),
        } as f64;
    }
}

/// Returns the day of the year, from 1, of a number of days since 1970 in the Gregorian calendar.
fn day_of_year(days: i64) -> i64 {
    // Years that begin in March have their leap day at the end. 400 of them are 146,097 days; day 0
    // is the first of March of the year 0.
    let day = (days + 719_468).rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // January and February are the last 59 or 60 days; the year of their end is the next one.
    if day >= 306 {
        return day - 305;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year == 0);
    day + 60 + i64::from(leap)
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "exact by construction")]
mod tests {
    use super::*;

    #[test]
    fn days_follow_each_other() {
        // From 1600 to 2400, day by day.
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut year, mut day) = (1600, 1);
        for days in -135_140..157_054 {
            assert_eq!(day_of_year(days), day, "{days}");
            day += 1;
            if day > 365 + i64::from(leap(year)) {
                (year, day) = (year + 1, 1);
            }
        }
        assert_eq!((year, day), (2400, 1));
    }

    #[test]
    fn parts_of_a_time() {
        // Thursday, 29 February 2024, 23:59:59.999, and the moment after.
        let times = [1_709_251_199_999, 1_709_251_200_000, -1, i64::MAX, i64::MIN];
        let read = |clock, first| {
            let mut out = [0.0; 3];
            write(clock, 0, &times, first, &mut out);
            out
        };
        assert_eq!(read(Clock::Hour, 0), [23.0, 0.0, 23.0]);
        assert_eq!(read(Clock::Weekday, 0), [3.0, 4.0, 2.0]);
        assert_eq!(read(Clock::DayOfYear, 0), [60.0, 61.0, 365.0]);
        assert!(read(Clock::Hour, -2)[..2].iter().all(|v| v.is_nan()));
        assert!(read(Clock::DayOfYear, 2).iter().all(|v| v.is_finite()));
    }
}
