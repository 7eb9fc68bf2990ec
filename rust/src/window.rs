//! Sequence windows over the rows of a matrix: window `s` of length `T` is rows `s..s + T`.

use crate::matrix::{Element, Matrix};
use crate::{Error, Result, memory};

/// Returns the number of windows of `length` rows in `rows` rows.
///
/// # Errors
/// [`Error::InvalidArgument`] for a length of 0, [`Error::TooShort`] when no window fits.
pub fn count(rows: usize, length: usize) -> Result<usize> {
    if length == 0 {
        return Err(Error::InvalidArgument {
            name: "length",
            value: "0".to_owned(),
            expected: "at least 1".to_owned(),
        });
    }
    if rows < length {
        return Err(Error::TooShort {
            what: "a window",
            rows,
            needed: length,
        });
    }
    Ok(rows - length + 1)
}

/// Returns the windows at `starts`, one after the other: `starts.len() * length` rows.
///
/// # Errors
/// As [`check_starts`], and [`Error::TooLarge`] when the windows do not fit into memory.
pub fn gather<T: Element>(matrix: &Matrix<T>, starts: &[i64], length: usize) -> Result<Vec<T>> {
    check_starts(matrix.rows(), starts, length)?;
    let size = length * matrix.columns();
    let mut out = memory::room(starts.len().saturating_mul(size))?;
    for &start in starts {
        let first = start as usize * matrix.columns();
        out.extend_from_slice(&matrix.data()[first..first + size]);
    }
    Ok(out)
}

/// Writes the windows at `starts` into `out`; see [`gather`].
///
/// # Errors
/// As [`check_starts`], and [`Error::InvalidArgument`] when `out` has another size.
pub fn gather_into<T: Element>(
    matrix: &Matrix<T>,
    starts: &[i64],
    length: usize,
    out: &mut [T],
) -> Result<()> {
    check_starts(matrix.rows(), starts, length)?;
    let size = length * matrix.columns();
    check_out(out.len(), starts.len() * size)?;
    for (window, &start) in out.chunks_exact_mut(size).zip(starts) {
        let first = start as usize * matrix.columns();
        window.copy_from_slice(&matrix.data()[first..first + size]);
    }
    Ok(())
}

/// Returns an error unless a window of `length` rows fits at each of `starts`.
///
/// # Errors
/// As [`count`], and [`Error::WindowOutOfRange`] for a start whose window does not fit.
pub fn check_starts(rows: usize, starts: &[i64], length: usize) -> Result<()> {
    let windows = count(rows, length)?;
    let fits = |start: i64| usize::try_from(start).is_ok_and(|s| s < windows);
    match starts.iter().position(|start| !fits(*start)) {
        None => Ok(()),
        Some(position) => Err(Error::WindowOutOfRange {
            start: starts[position],
            position,
            length,
            rows,
            last: windows as i64 - 1,
        }),
    }
}

/// Returns an error unless the output has as many values as the result.
///
/// # Errors
/// [`Error::InvalidArgument`] with both numbers.
pub fn check_out(values: usize, expected: usize) -> Result<()> {
    if values == expected {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        name: "out",
        value: format!("{values} values"),
        expected: format!("{expected} values"),
    })
}

/// Shuffles `starts` in place. The order depends on `seed` and `epoch` alone.
pub fn shuffle(starts: &mut [i64], seed: u64, epoch: u64) {
    // Seeds of consecutive epochs must not be close to each other, so the epoch is hashed into the
    // seed: it is mixed with the first output of a generator that is seeded with the epoch.
    let mixed = seed ^ fastrand::Rng::with_seed(epoch).u64(..);
    fastrand::Rng::with_seed(mixed).shuffle(starts);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(rows: usize) -> Matrix<f32> {
        Matrix::from_rows((0..rows * 3).map(|v| v as f32).collect(), 3)
    }

    proptest! {
        #[test]
        fn gather_agrees_with_indexing(
            rows in 1..40_usize, length in 1..40_usize,
            picks in prop::collection::vec(0..1000_usize, 0..20),
        ) {
            prop_assume!(length <= rows);
            let matrix = matrix(rows);
            let windows = count(rows, length).unwrap();
            let starts: Vec<i64> = picks.iter().map(|p| (p % windows) as i64).collect();
            let got = gather(&matrix, &starts, length).unwrap();
            let expected: Vec<f32> = starts.iter()
                .flat_map(|s| (0..length).map(move |t| *s as usize + t))
                .flat_map(|row| (0..3).map(move |c| (row * 3 + c) as f32))
                .collect();
            prop_assert_eq!(&got, &expected);
            let mut out = vec![0.0; expected.len()];
            gather_into(&matrix, &starts, length, &mut out).unwrap();
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let matrix = matrix(10);
        assert!(matches!(count(10, 0), Err(Error::InvalidArgument { .. })));
        assert!(matches!(count(10, 11), Err(Error::TooShort { .. })));
        assert_eq!(count(10, 10), Ok(1));
        for bad in [-1, 7, i64::MAX, i64::MIN] {
            let error = gather(&matrix, &[0, bad], 4).unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::WindowOutOfRange {
                        position: 1,
                        last: 6,
                        ..
                    }
                ),
                "{error}"
            );
        }
        assert!(gather_into(&matrix, &[0], 4, &mut [0.0; 11]).is_err());
        let large = Matrix::<f32>::from_rows(vec![0.0; 1 << 20], 1);
        let error = gather(&large, &vec![0; 1 << 22], 1 << 20).unwrap_err();
        assert_eq!(error, Error::TooLarge { values: 1 << 42 });
    }

    #[test]
    fn shuffles_are_seeded_permutations() {
        let order = |seed, epoch| {
            let mut starts: Vec<i64> = (0..500).collect();
            shuffle(&mut starts, seed, epoch);
            starts
        };
        let first = order(1, 0);
        assert_eq!(first, order(1, 0));
        assert_ne!(first, order(1, 1));
        assert_ne!(first, order(2, 0));
        assert_ne!(order(0, 1), order(1, 0));
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..500).collect::<Vec<i64>>());
    }
}
