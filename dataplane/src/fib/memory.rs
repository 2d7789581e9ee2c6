//! Memory for tables that are looked into at places no cache foresees.
//!
//! A look-up among a million records misses not only the caches but also the processor's
//! memory of page tables, once for each page; so the kernel is asked for pages of 2 MiB
//! (`MADV_HUGEPAGE`). What nobody has written yet takes no memory.

use std::ffi::c_void;
use std::num::NonZero;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Of the pages asked for (x86-64, and ARM with pages of 4 KiB).
pub(super) const HUGE: usize = 2 << 20;

/// What may be all zeros, has no destructor, and may be shared between threads.
///
/// # Safety
/// All of that must be so.
pub(super) unsafe trait Zeroed: Sync + Send {}

// SAFETY: an integer.
unsafe impl Zeroed for AtomicU32 {}
// SAFETY: an integer.
unsafe impl Zeroed for AtomicU64 {}

/// Values that are zero at first.
#[derive(Debug)]
pub(super) struct Pages<T: Zeroed> {
    values: NonNull<T>,
    count: usize,
    /// What was mapped: more than the values, which begin on a large page.
    mapped: (NonNull<c_void>, NonZero<usize>),
}

// SAFETY: it owns what it points to, as a `Box<[T]>` would.
unsafe impl<T: Zeroed> Send for Pages<T> {}
// SAFETY: as above; nothing but `&[T]` is given out.
unsafe impl<T: Zeroed> Sync for Pages<T> {}

impl<T: Zeroed> Pages<T> {
    /// # Panics
    /// If there is no memory, as everywhere in Rust.
    pub(super) fn new(count: usize) -> Self {
        let octets = count * size_of::<T>();
        // What would not fill most of a large page need not begin on one.
        let large = octets > HUGE / 2;
        let (room, align) = match large {
            true => (octets.next_multiple_of(HUGE), HUGE),
            false => (octets, 1),
        };
        let length = NonZero::new(room + align).expect("something is added");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let start = unsafe { mmap_anonymous(None, length, protection, flags) };
        let start = start.unwrap_or_else(|error| panic!("no memory for {octets} octets: {error}"));
        let at = start.addr().get();
        let ahead = at.next_multiple_of(align) - at;
        // SAFETY: `ahead` is less than `align`, and so inside of the mapping.
        let values = unsafe { start.byte_add(ahead) };
        if large {
            // SAFETY: `room` octets from here are of this mapping, and advice changes no
            // content. A kernel without large pages refuses it; then it is slower.
            let _ = unsafe { madvise(values, room, MmapAdvise::MADV_HUGEPAGE) };
        }
        Pages {
            values: values.cast(),
            count,
            mapped: (start, length),
        }
    }
}

/// Has the cache lines of `value` fetched, without waiting for them.
#[inline]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        // SAFETY: a hint; both addresses are of the value.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(start);
            if size_of::<T>() > 64 {
                _mm_prefetch::<_MM_HINT_T0>(start.add(size_of::<T>() - 1));
            }
        }
    }
}

impl<T: Zeroed> Deref for Pages<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: so many values are mapped, aligned to a page at least, and zero is a valid
        // value (`Zeroed`); nothing else gives them out, and none of them mutably.
        unsafe { std::slice::from_raw_parts(self.values.as_ptr(), self.count) }
    }
}

impl<T: Zeroed> Drop for Pages<T> {
    fn drop(&mut self) {
        let (start, length) = self.mapped;
        // SAFETY: mapped in `new`, and nobody has a reference any more.
        let unmapped = unsafe { munmap(start, length.get()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn values_are_zero_and_keep_what_is_stored() {
        for count in [1, 1000, HUGE / 8 + 1] {
            let pages = Pages::<AtomicU64>::new(count);
            assert_eq!(pages.len(), count);
            assert!(pages.iter().all(|value| value.load(Relaxed) == 0));
            for place in [0, count - 1] {
                pages[place].store(place as u64 + 1, Relaxed);
                assert_eq!(pages[place].load(Relaxed), place as u64 + 1);
            }
        }
    }

    #[test]
    fn large_ones_begin_on_a_large_page() {
        let pages = Pages::<AtomicU32>::new(HUGE);
        assert_eq!(pages.as_ptr().addr() % HUGE, 0);
    }
}
