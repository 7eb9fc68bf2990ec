//! The one place that chooses the number of threads and starts them.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use crate::{Error, Result};

/// The environment variable with the number of threads for calls without `threads`.
pub const VARIABLE: &str = "ATB_FAST_THREADS";

/// The number of cores that this process can use.
static CORES: OnceLock<Threads> = OnceLock::new();

/// The number of threads that a call may use. No result depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads(NonZeroUsize);

impl Threads {
    /// One thread: that of the caller.
    pub const ONE: Self = Self(NonZeroUsize::MIN);

    /// The largest number that is accepted.
    pub const MOST: usize = 1024;

    /// Returns that many threads.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] unless `count` is between 1 and [`Self::MOST`].
    pub fn new(count: usize) -> Result<Self> {
        Self::named("threads", Some(count), &count.to_string())
    }

    /// Returns the number of threads: `asked`, else the variable [`VARIABLE`], else the number of
    /// cores that this process can use.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if that number is not between 1 and [`Self::MOST`].
    pub fn resolve(asked: Option<usize>) -> Result<Self> {
        match asked {
            Some(count) => Self::new(count),
            None => Self::from_variable(std::env::var_os(VARIABLE).as_deref()),
        }
    }

    fn from_variable(value: Option<&OsStr>) -> Result<Self> {
        match value.map(OsStr::to_string_lossy) {
            Some(text) if !text.is_empty() => Self::named(VARIABLE, text.parse().ok(), &text),
            // Looked up once, because the limits of a control group are read from files, which takes
            // longer than the features of one window.
            _ => Ok(*CORES.get_or_init(|| thread::available_parallelism().map_or(Self::ONE, Self))),
        }
    }

    fn named(name: &'static str, count: Option<usize>, received: &str) -> Result<Self> {
        count
            .filter(|count| *count <= Self::MOST)
            .and_then(NonZeroUsize::new)
            .map(Self)
            .ok_or_else(|| Error::InvalidArgument {
                name,
                value: received.to_owned(),
                expected: format!("an integer from 1 to {}", Self::MOST),
            })
    }

    /// Returns `items` in parts of about equal size, at least one and at most one for each thread.
    /// A part has at least `fewest` items, unless it is the only one.
    #[must_use]
    pub fn split(self, items: Range<usize>, fewest: usize) -> Vec<Range<usize>> {
        let threads = self.0.get().min(items.len() / fewest).max(1);
        let size = items.len().div_ceil(threads).max(1);
        let mut parts: Vec<_> = items
            .clone()
            .step_by(size)
            .map(|start| start..items.end.min(start + size))
            .collect();
        if parts.is_empty() {
            parts.push(items);
        }
        parts
    }
}

/// Returns the result of `work` for each task, in order. At most `threads` threads, one of them the
/// caller's, take the tasks one by one. Each makes one state with `init` for all of its tasks.
///
/// The threads end with the call. A pool would be faster to start but would hang after a fork, which
/// copies the pool without its threads.
///
/// # Panics
/// When `work` panics.
pub fn map<I: Send, O: Send, S>(
    threads: Threads,
    tasks: Vec<I>,
    init: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, I) -> O + Sync,
) -> Vec<O> {
    let count = threads.0.get().min(tasks.len());
    if count <= 1 {
        // Even a thread scope without threads costs as much as computing a feature of one row.
        let mut state = init();
        return tasks
            .into_iter()
            .map(|task| work(&mut state, task))
            .collect();
    }
    let queue = Mutex::new(tasks.into_iter().enumerate());
    let run = || {
        let (mut state, mut results) = (init(), Vec::new());
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, task)) = next else {
                return results;
            };
            results.push((number, work(&mut state, task)));
        }
    };
    let mut results = thread::scope(|scope| {
        let others = (1..count).map(|_| scope.spawn(run));
        let others: Vec<_> = others.collect();
        let mut results = run();
        for other in others {
            results.extend(other.join().expect("a kernel panicked"));
        }
        results
    });
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_items_in_order() {
        for threads in [1, 2, 3, 7, Threads::MOST] {
            for items in [5..5, 0..10, 3..70_000, 17..1_300_000] {
                let parts = Threads::new(threads).unwrap().split(items.clone(), 1000);
                assert_eq!(parts[0].start, items.start);
                assert_eq!(parts[parts.len() - 1].end, items.end);
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(parts.len() <= threads);
                assert!(parts.len() == 1 || parts.len() <= items.len() / 1000);
            }
        }
        assert_eq!(Threads::new(4).unwrap().split(0..70_000, 1000).len(), 4);
    }

    #[test]
    fn the_variable_counts_where_no_number_is_given() {
        let from = |value: &str| Threads::from_variable(Some(OsStr::new(value)));
        assert_eq!(from("3"), Threads::new(3));
        assert_eq!(from(""), Threads::from_variable(None));
        assert_eq!(Threads::resolve(Some(3)), Threads::new(3));
        for bad in ["0", "-1", "two", "1.5", "1025", "99999999999999999999"] {
            assert_eq!(
                from(bad).unwrap_err().to_string(),
                format!("ATB_FAST_THREADS is {bad}, expected an integer from 1 to 1024")
            );
        }
        assert_eq!(
            Threads::new(0).unwrap_err().to_string(),
            "threads is 0, expected an integer from 1 to 1024"
        );
    }

    #[test]
    fn results_keep_the_order_of_the_tasks() {
        for threads in [1, 2, 3, 20] {
            let squares = |tasks: Vec<i32>| {
                let threads = Threads::new(threads).unwrap();
                map(threads, tasks, || 2, |power, i| i.pow(*power))
            };
            assert_eq!(squares((0..9).collect()), [0, 1, 4, 9, 16, 25, 36, 49, 64]);
            assert!(squares(Vec::new()).is_empty());
        }
    }
}
