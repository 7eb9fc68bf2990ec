//! Memory for large arrays. This is the only module with unsafe code; its functions are safe.

#![allow(
    unsafe_code,
    reason = "neither madvise nor NumPy views of foreign memory have a safe interface"
)]

use crate::{Error, Result};

/// Returns that many default values, backed by huge pages if they are large.
#[must_use]
pub fn defaults<T: Copy + Default>(values: usize) -> Vec<T> {
    let mut data = vec![T::default(); values];
    advise_huge_pages(&mut data);
    data
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
    if size_of_val(data) >= 4 << 20 {
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
    fn large_arrays_start_with_defaults() {
        let large = defaults::<f32>(3 << 20);
        assert!(large.iter().all(|value| value.to_bits() == 0));
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
