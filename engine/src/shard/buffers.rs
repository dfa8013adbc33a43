//! Page-aligned buffers and the pool that a shard takes them from.
//!
//! Alignment matters: a payload that starts 16 bytes into a page makes the kernel's copy alias
//! modulo 4 KiB and costs twice the time (docs/adr). It is also what O_DIRECT asks for.

use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of every buffer, in bytes.
pub const PAGE: usize = 4096;

/// The sizes that buffers come in, in bytes. The largest is a whole piece.
pub const CLASSES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// A page-aligned, owned block of initialised bytes; dereferences to its first `len` bytes.
pub struct IoBuf {
    start: NonNull<u8>,
    /// What was allocated: it starts less than a page before.
    block: NonNull<u8>,
    capacity: usize,
    len: usize,
}

// SAFETY: an IoBuf owns its memory alone; nothing in it is bound to a thread.
unsafe impl Send for IoBuf {}
// SAFETY: a shared IoBuf gives out shared slices only.
unsafe impl Sync for IoBuf {}

impl IoBuf {
    /// A buffer of its own (not from a pool) of `len` bytes, all zero.
    pub fn zeroed(len: usize) -> Self {
        let capacity =
            CLASSES.iter().copied().find(|class| *class >= len).unwrap_or_else(|| len.next_multiple_of(PAGE));
        // Aligned and zeroed at once the allocator would write all of it. Zeroed alone, with a page
        // to spare, it leaves fresh pages as they are: what is not used stays out of memory.
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero (the smallest class is a page).
        let block = unsafe { alloc_zeroed(layout) };
        let Some(block) = NonNull::new(block) else { handle_alloc_error(layout) };
        // SAFETY: at most a page further, and the block is longer by a page.
        let start = unsafe { block.add(block.as_ptr().align_offset(PAGE)) };
        Self { start, block, capacity, len }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity + PAGE, 16).expect("buffer sizes are small")
    }

    /// Bytes behind this buffer, whatever its length.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the length (at most the capacity). Bytes that come into view keep what they held.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "a buffer does not grow");
        self.len = len;
    }

    /// Address of the first byte, for the kernel.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// Address of the first byte, for the kernel to write to.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for IoBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `capacity >= len` bytes, all initialised when allocated.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and freed once.
        unsafe { dealloc(self.block.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuf({} of {} bytes)", self.len, self.capacity)
    }
}

/// A shard's buffers: the hottest is reused first, and the bytes lent out are counted.
///
/// `give` must see every buffer that `take` lent, or [`BufPool::forget`] its capacity.
pub struct BufPool {
    free: [Vec<IoBuf>; CLASSES.len()],
    free_bytes: usize,
    kept_bytes: usize,
    lent_bytes: usize,
}

impl BufPool {
    /// A pool that keeps at most `kept_bytes` of free buffers.
    pub fn new(kept_bytes: usize) -> Self {
        Self { free: Default::default(), free_bytes: 0, kept_bytes, lent_bytes: 0 }
    }

    fn class_of(len: usize) -> usize {
        CLASSES
            .iter()
            .position(|class| *class >= len)
            .expect("requests are cut into pieces of at most the largest class")
    }

    /// The capacity that a buffer for `len` bytes (at most 256 KiB) has.
    pub fn cost(len: usize) -> usize {
        CLASSES[Self::class_of(len)]
    }

    /// A buffer of `len` bytes, at most 256 KiB. Its content is whatever it held before.
    pub fn take(&mut self, len: usize) -> IoBuf {
        let class = Self::class_of(len);
        self.lent_bytes += CLASSES[class];
        match self.free[class].pop() {
            Some(mut buf) => {
                self.free_bytes -= CLASSES[class];
                buf.set_len(len);
                buf
            }
            None => IoBuf::zeroed(len.max(1)).with_len(len),
        }
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buf: IoBuf) {
        let capacity = buf.capacity();
        self.forget(capacity);
        if self.free_bytes + capacity <= self.kept_bytes {
            self.free_bytes += capacity;
            self.free[Self::class_of(capacity)].push(buf);
        }
    }

    /// Counts `bytes` as lent that are not of the pool; [`forget`](Self::forget) ends that.
    pub fn charge(&mut self, bytes: usize) {
        self.lent_bytes += bytes;
    }

    /// Counts off a lent buffer that will not come back.
    pub fn forget(&mut self, capacity: usize) {
        debug_assert!(self.lent_bytes >= capacity, "more given back than lent");
        self.lent_bytes = self.lent_bytes.saturating_sub(capacity);
    }

    /// Bytes lent out at the moment.
    pub fn lent_bytes(&self) -> usize {
        self.lent_bytes
    }

    /// Bytes held: lent out and kept free.
    pub fn held_bytes(&self) -> usize {
        self.lent_bytes + self.free_bytes
    }

    /// Frees the buffers that wait for reuse; called when the shard has nothing in flight.
    pub fn trim(&mut self) {
        self.free = Default::default();
        self.free_bytes = 0;
    }
}

impl IoBuf {
    /// The same with another length.
    #[must_use]
    pub fn with_len(mut self, len: usize) -> Self {
        self.set_len(len);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_page_aligned_and_of_their_class() {
        for len in [0, 1, 4096, 4097, 65_536, 262_144, 300_000] {
            let buf = IoBuf::zeroed(len);
            assert_eq!(buf.as_ptr() as usize % PAGE, 0);
            assert_eq!(buf.len(), len);
            assert!(buf.iter().all(|byte| *byte == 0));
        }
        assert_eq!(IoBuf::zeroed(5000).capacity(), 16 << 10);
    }

    #[test]
    fn the_hottest_buffer_comes_first_and_bytes_are_counted() {
        let mut pool = BufPool::new(1 << 20);
        let (a, b) = (pool.take(4096), pool.take(100));
        assert_eq!(pool.lent_bytes(), 8192);
        let hottest = b.as_ptr();
        pool.give(a);
        pool.give(b);
        assert_eq!((pool.lent_bytes(), pool.held_bytes()), (0, 8192));
        assert_eq!(pool.take(4096).as_ptr(), hottest);
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let mut pool = BufPool::new(300 << 10);
        let (a, b) = (pool.take(PIECE), pool.take(PIECE));
        pool.give(a);
        pool.give(b);
        assert_eq!(pool.held_bytes(), PIECE);
        pool.trim();
        assert_eq!(pool.held_bytes(), 0);
    }

    const PIECE: usize = crate::shard::limits::PIECE_BYTES;
}
