//! Memory for large arrays. Its functions are safe, although they need unsafe code.

#![allow(
    unsafe_code,
    reason = "neither madvise nor NumPy views of foreign memory have a safe interface"
)]

use std::sync::Mutex;

use crate::{Error, Result};

/// Smallest array that huge pages are used for, and that is kept when it is dropped.
const LARGE: usize = 4 << 20;

/// Largest array that is kept when it is dropped.
const KEPT: usize = 128 << 20;

/// The memory of one large array that was dropped. The first write to new memory is slow, because
/// the kernel fills each page with zeros.
#[derive(Debug)]
pub struct Spare<T>(Mutex<Vec<T>>);

impl<T: Copy + Default> Spare<T> {
    /// Returns an empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Returns that many values, in the memory that was kept if it is of about that size. They are
    /// arbitrary, and the caller overwrites them.
    pub fn take(&self, values: usize) -> Vec<T> {
        // Nobody waits for the lock: after a fork, it may never become free.
        if let Ok(mut kept) = self.0.try_lock()
            && (values..=values.saturating_mul(2)).contains(&kept.capacity())
        {
            let mut data = std::mem::take(&mut *kept);
            data.resize(values, T::default());
            return data;
        }
        let mut data = vec![T::default(); values];
        advise_huge_pages(&mut data);
        data
    }

    /// Keeps the memory of `data` in place of what was kept before, if it is large but not too
    /// large.
    pub fn keep(&self, data: Vec<T>) {
        if (LARGE..=KEPT).contains(&(data.capacity() * size_of::<T>()))
            && let Ok(mut kept) = self.0.try_lock()
        {
            *kept = data;
        }
    }
}

impl<T: Copy + Default> Default for Spare<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns an empty vector with room for exactly that many values, backed by huge pages if it is
/// large.
///
/// # Errors
/// [`Error::TooLarge`] when they do not fit into memory.
pub fn room<T>(values: usize) -> Result<Vec<T>> {
    let mut data = Vec::new();
    data.try_reserve_exact(values)
        .map_err(|_| Error::TooLarge { values })?;
    advise_huge_pages(data.spare_capacity_mut());
    Ok(data)
}

/// Asks the kernel to back memory that has not been written yet with huge pages.
///
/// A page fault then maps 2 MiB instead of 4 KiB, which makes the first write to a large array three
/// times as fast. If the kernel refuses, nothing changes.
fn advise_huge_pages<T>(data: &mut [T]) {
    #[cfg(target_os = "linux")]
    if size_of_val(data) >= LARGE {
        const PAGE: usize = 4096;
        let start = data.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(PAGE);
        let length = (size_of_val(data) - skip) / PAGE * PAGE;
        let first = start.wrapping_add(skip).cast();
        // SAFETY: the range consists of whole pages within `data`, and MADV_HUGEPAGE changes neither
        // their contents nor their protection.
        unsafe {
            libc::madvise(first, length, libc::MADV_HUGEPAGE);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = data;
}

/// `NumPy` arrays of memory that a Python object owns.
#[cfg(feature = "python")]
pub(crate) mod view {
    use numpy::ndarray::{ArrayView, Dimension};
    use numpy::{Element, PyArray};
    use pyo3::prelude::*;
    use pyo3::{PyClass, pyclass::boolean_struct::True};

    /// Returns what `view` borrows from `owner` as a read-only array that keeps `owner` alive.
    ///
    /// # Errors
    /// The error of `view`.
    pub fn read_only<'py, O, T, D>(
        owner: &Bound<'py, O>,
        view: impl for<'a> FnOnce(&'a O) -> PyResult<ArrayView<'a, T, D>>,
    ) -> PyResult<Bound<'py, PyArray<T, D>>>
    where
        O: PyClass<Frozen = True> + Sync,
        T: Element,
        D: Dimension,
    {
        let view = view(owner.get())?;
        // SAFETY: `view` works for any lifetime of its argument, so it borrows from `owner` or from
        // static memory. `owner` is of a frozen class: Rust hands out no `&mut` to it, so the borrow
        // is valid until `owner` is freed, and the array holds a reference to `owner`. The array
        // becomes read-only before anyone else can see it, and NumPy refuses to make it writable
        // again because its base does not export a writable buffer.
        let array = unsafe { PyArray::borrow_from_array(&view, owner.clone().into_any()) };
        array.getattr("flags")?.setattr("writeable", false)?;
        Ok(array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_arrays_are_reused_for_those_of_about_their_size() {
        let spare = Spare::<f32>::new();
        let large = spare.take(3 << 20);
        let start = large.as_ptr();
        spare.keep(large);
        spare.keep(vec![1.0; 100]);
        let small = spare.take(1 << 20);
        assert_eq!((small.len(), small.capacity()), (1 << 20, 1 << 20));
        let again = spare.take(2 << 20);
        assert_eq!((again.as_ptr(), again.len()), (start, 2 << 20));
        let other = spare.take(2 << 20);
        assert_ne!(other.as_ptr(), start);
    }

    #[test]
    fn room_is_exact_or_refused() {
        let mut large = room::<f64>(1 << 20).unwrap();
        assert_eq!((large.len(), large.capacity()), (0, 1 << 20));
        large.resize(1 << 20, 1.0);
        assert!(large.iter().all(|value| *value > 0.0));
        let values = 1 << 60;
        assert_eq!(room::<f32>(values), Err(Error::TooLarge { values }));
    }
}
