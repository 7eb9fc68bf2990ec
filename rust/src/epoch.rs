//! Integer times since 1970, whose magnitude determines their unit.

/// Returns a number of seconds, milliseconds, microseconds or nanoseconds since 1970 as
/// milliseconds.
///
/// Seconds reach 1e11 in the year 5138. Milliseconds reach it in 1973, before any exchange existed.
/// Each finer unit is 1000 times larger.
#[must_use]
pub fn milliseconds(time: i64) -> i64 {
    match time.unsigned_abs() {
        0..100_000_000_000 => time * 1000,
        100_000_000_000..100_000_000_000_000 => time,
        100_000_000_000_000..100_000_000_000_000_000 => time.div_euclid(1000),
        _ => time.div_euclid(1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_a_time_is_the_same_time() {
        // 2000-01-01, 2024-02-01, 2100-01-01
        for seconds in [946_684_800, 1_706_745_600, 4_102_444_800] {
            for factor in [1, 1000, 1_000_000, 1_000_000_000] {
                assert_eq!(milliseconds(seconds * factor), seconds * 1000);
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        for time in [i64::MIN, -99_999_999_999, -1, 0, 99_999_999_999, i64::MAX] {
            assert_eq!(milliseconds(time).signum(), time.signum());
        }
    }
}
