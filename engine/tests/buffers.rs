//! Memory that a fresh process has not used before: alone here, since what other tests have freed
//! would be used again.

use _engine::shard::buffers::{IoBuf, PAGE};
use _engine::shard::limits::PIECE_BYTES as PIECE;

#[test]
fn what_is_not_used_is_not_resident() {
    let mut bufs: Vec<_> = (0..64).map(|_| IoBuf::zeroed(PIECE)).collect();
    let resident: usize = bufs
        .iter_mut()
        .map(|buf| {
            buf[0] = 1;
            let mut pages = [0u8; PIECE / PAGE];
            // SAFETY: the range is the buffer's own, and there is a byte for each of its pages.
            let told = unsafe { libc::mincore(buf.as_mut_ptr().cast(), PIECE, pages.as_mut_ptr()) };
            assert_eq!(told, 0);
            pages.iter().filter(|page| **page & 1 != 0).count()
        })
        .sum();
    assert!(resident < 64 * 16, "{resident} pages of 64 buffers with one byte each");
}
