//! The one place that starts threads.

use std::ops::Range;
use std::thread;

/// Fewest rows for a thread: starting it costs as much as about 10 000 rows of work.
const ROWS_PER_THREAD: usize = 1 << 15;

/// Returns `rows` in as many parts of about one size as there are processors; in one if few.
#[must_use]
pub fn split(rows: Range<usize>) -> Vec<Range<usize>> {
    split_by(rows, ROWS_PER_THREAD)
}

/// Does what [`split`] does with items of which `fewest` are worth a thread.
#[must_use]
pub fn split_by(rows: Range<usize>, fewest: usize) -> Vec<Range<usize>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(rows.len() / fewest).max(1);
    let size = rows.len().div_ceil(threads).max(1);
    let mut parts: Vec<_> = rows
        .clone()
        .step_by(size)
        .map(|start| start..rows.end.min(start + size))
        .collect();
    if parts.is_empty() {
        parts.push(rows);
    }
    parts
}

/// Returns `work` of each task, in order; several tasks run on a thread each. The threads live as
/// long as the call: no pool waits that a fork could leave without its threads.
///
/// # Panics
/// When `work` panics.
pub fn map<I: Send, O: Send>(mut tasks: Vec<I>, work: impl Fn(I) -> O + Sync) -> Vec<O> {
    let Some(last) = tasks.pop() else {
        return Vec::new();
    };
    thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = tasks
            .into_iter()
            .map(|task| scope.spawn(move || work(task)))
            .collect();
        let last = work(last);
        let mut results: Vec<_> = others
            .into_iter()
            .map(|other| other.join().expect("a kernel panicked"))
            .collect();
        results.push(last);
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_rows_in_order() {
        for rows in [5..5, 0..10, 3..70_000, 17..1_300_000] {
            let parts = split(rows.clone());
            assert_eq!(parts[0].start, rows.start);
            assert_eq!(parts[parts.len() - 1].end, rows.end);
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
        assert_eq!(split(0..1000).len(), 1);
    }

    #[test]
    fn results_keep_the_order_of_the_tasks() {
        assert_eq!(
            map((0..9).collect(), |i: i32| i * i),
            [0, 1, 4, 9, 16, 25, 36, 49, 64]
        );
        assert!(map(Vec::new(), |i: i32| i).is_empty());
    }
}
