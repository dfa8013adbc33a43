//! The transmission phase's bytes: requests in, reply headers out. No I/O, no state.
//!
//! Names and numbers are those of the NBD protocol text ("Values"); all integers are big-endian.

use crate::block::command::Extent;

/// NBD_REQUEST_MAGIC: a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// NBD_EXTENDED_REQUEST_MAGIC.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// NBD_SIMPLE_REPLY_MAGIC.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// NBD_STRUCTURED_REPLY_MAGIC.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// NBD_EXTENDED_REPLY_MAGIC.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of a compact request header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an extended request header.
pub const EXTENDED_REQUEST_BYTES: usize = 32;

/// NBD_CMD_*: request types.
pub mod cmd {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// NBD_CMD_FLAG_*: command flags.
pub mod flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// NBD_REPLY_TYPE_*: chunk types.
pub mod chunk {
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = (1 << 15) + 1;
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
    /// NBD_REPLY_FLAG_DONE.
    pub const FLAG_DONE: u16 = 1;
}

/// The protocol's error values ("Error values").
pub mod error {
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const ENOMEM: u32 = 12;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const EOVERFLOW: u32 = 75;
    pub const ENOTSUP: u32 = 95;
    pub const ESHUTDOWN: u32 = 108;
}

/// Narrows a Linux errno to the few that the protocol knows.
pub fn error_of(errno: i32) -> u32 {
    match errno {
        libc::EPERM | libc::EROFS | libc::EACCES => error::EPERM,
        libc::ENOMEM => error::ENOMEM,
        libc::EINVAL => error::EINVAL,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => error::ENOSPC,
        libc::EOVERFLOW => error::EOVERFLOW,
        libc::EOPNOTSUPP => error::ENOTSUP,
        libc::ESHUTDOWN => error::ESHUTDOWN,
        _ => error::EIO,
    }
}

/// A request header of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub flags: u16,
    pub kind: u16,
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes of effect or of payload, see "Request message"; below 2^32 in compact requests.
    pub length: u64,
}

impl Header {
    /// Has the request the given command flag?
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The header's magic was not the negotiated one: the stream is lost, only closing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMagic(pub u32);

/// Bytes that a request header has.
pub const fn header_bytes(extended: bool) -> usize {
    if extended {
        EXTENDED_REQUEST_BYTES
    } else {
        REQUEST_BYTES
    }
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the caller has checked the length")
}

/// Reads a header off the front of `bytes`; `None` when not all of it is there.
pub fn parse(bytes: &[u8], extended: bool) -> Result<Option<Header>, BadMagic> {
    if bytes.len() < header_bytes(extended) {
        return Ok(None);
    }
    let magic = u32::from_be_bytes(be(bytes, 0));
    if magic != if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC } {
        return Err(BadMagic(magic));
    }
    let length =
        if extended { u64::from_be_bytes(be(bytes, 24)) } else { u64::from(u32::from_be_bytes(be(bytes, 24))) };
    Ok(Some(Header {
        flags: u16::from_be_bytes(be(bytes, 4)),
        kind: u16::from_be_bytes(be(bytes, 6)),
        cookie: u64::from_be_bytes(be(bytes, 8)),
        offset: u64::from_be_bytes(be(bytes, 16)),
        length,
    }))
}

/// Appends a simple reply header.
pub fn put_simple(out: &mut Vec<u8>, error: u32, cookie: u64) {
    let mut bytes = [0; 16];
    bytes[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// What the headers of all chunks of one reply have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkOf {
    /// Extended headers, else structured replies.
    pub extended: bool,
    /// The request's.
    pub cookie: u64,
    /// The request's; extended headers repeat it.
    pub offset: u64,
}

impl ChunkOf {
    /// Appends a chunk header; `length` bytes of payload are to follow.
    pub fn put(&self, out: &mut Vec<u8>, kind: u16, done: bool, length: u64) {
        let flags = if done { chunk::FLAG_DONE } else { 0 };
        let mut bytes = [0; 32];
        let magic = if self.extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        bytes[0..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..6].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        if self.extended {
            bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
            bytes[24..32].copy_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&bytes);
        } else {
            bytes[16..20].copy_from_slice(&(length as u32).to_be_bytes());
            out.extend_from_slice(&bytes[..20]);
        }
    }

    /// Appends NBD_REPLY_TYPE_NONE, the successful end of a reply.
    pub fn put_none(&self, out: &mut Vec<u8>) {
        self.put(out, chunk::NONE, true, 0);
    }

    /// Appends the head of NBD_REPLY_TYPE_OFFSET_DATA for `len` (> 0) bytes read at `at`.
    pub fn put_data_head(&self, out: &mut Vec<u8>, done: bool, at: u64, len: u64) {
        self.put(out, chunk::OFFSET_DATA, done, 8 + len);
        out.extend_from_slice(&at.to_be_bytes());
    }

    /// Appends NBD_REPLY_TYPE_ERROR with a text for a human.
    pub fn put_error(&self, out: &mut Vec<u8>, done: bool, error: u32, text: &str) {
        let text = &text.as_bytes()[..text.len().min(MAX_TEXT)];
        self.put(out, chunk::ERROR, done, 6 + text.len() as u64);
        out.extend_from_slice(&error.to_be_bytes());
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text);
    }

    /// Appends NBD_REPLY_TYPE_ERROR_OFFSET: the request failed at `at`.
    pub fn put_error_offset(&self, out: &mut Vec<u8>, done: bool, error: u32, at: u64) {
        self.put(out, chunk::ERROR_OFFSET, done, 14);
        out.extend_from_slice(&error.to_be_bytes());
        out.extend_from_slice(&0u16.to_be_bytes());
        out.extend_from_slice(&at.to_be_bytes());
    }

    /// Appends NBD_REPLY_TYPE_BLOCK_STATUS(_EXT) for one metadata context. `extents` is not empty.
    /// Compact replies have 32 bits for a length: the answer ends with an extent that needs more.
    pub fn put_status(&self, out: &mut Vec<u8>, done: bool, context: u32, extents: &[Extent]) {
        debug_assert!(!extents.is_empty());
        if self.extended {
            self.put(out, chunk::BLOCK_STATUS_EXT, done, 8 + 16 * extents.len() as u64);
            out.extend_from_slice(&context.to_be_bytes());
            out.extend_from_slice(&(extents.len() as u32).to_be_bytes());
            for extent in extents {
                out.extend_from_slice(&extent.length.to_be_bytes());
                out.extend_from_slice(&u64::from(extent.flags).to_be_bytes());
            }
            return;
        }
        let fitting = extents.iter().take_while(|extent| extent.length <= COMPACT_EXTENT).count();
        let extents = &extents[..extents.len().min(fitting + 1)];
        self.put(out, chunk::BLOCK_STATUS, done, 4 + 8 * extents.len() as u64);
        out.extend_from_slice(&context.to_be_bytes());
        for extent in extents {
            out.extend_from_slice(&(extent.length.min(COMPACT_EXTENT) as u32).to_be_bytes());
            out.extend_from_slice(&extent.flags.to_be_bytes());
        }
    }
}

/// The longest that a chunk of BLOCK_STATUS with `extents` extents may be, bytes.
pub fn status_bytes(extended: bool, extents: usize) -> usize {
    match extended {
        true => 32 + 8 + 16 * extents,
        false => 20 + 4 + 8 * extents,
    }
}

/// The longest extent in a compact reply: below 2^32, and a multiple of any block size.
const COMPACT_EXTENT: u64 = (1 << 32) - (1 << 16);

/// Longest text in an error chunk, bytes (the protocol's string limit is 4096).
const MAX_TEXT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compact_request_is_read_field_by_field() {
        #[rustfmt::skip]
        let bytes = [
            0x25, 0x60, 0x95, 0x13, 0x00, 0x01, 0x00, 0x01, // magic, FUA, WRITE
            0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, // cookie
            0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, // offset: 4 GiB
            0xff, 0xff, 0xff, 0xff,                         // length
        ];
        let header = parse(&bytes, false).unwrap().unwrap();
        assert_eq!((header.kind, header.flags), (cmd::WRITE, flag::FUA));
        assert_eq!(header.cookie, 0x1122_3344_5566_7788);
        assert_eq!((header.offset, header.length), (1 << 32, 0xffff_ffff));
        assert_eq!(parse(&bytes[..27], false), Ok(None));
        assert_eq!(parse(&[&bytes[..], &[0; 4]].concat(), true), Err(BadMagic(0x2560_9513)));
    }

    #[test]
    fn an_extended_request_has_64_bits_of_length() {
        #[rustfmt::skip]
        let bytes = [
            0x21, 0xe4, 0x1c, 0x71, 0x00, 0x20, 0x00, 0x07, // magic, PAYLOAD_LEN, BLOCK_STATUS
            0, 0, 0, 0, 0, 0, 0, 9,                         // cookie
            0, 0, 0, 0, 0, 0, 0x10, 0,                      // offset
            0, 0, 0, 2, 0, 0, 0, 0,                         // length: 8 GiB
        ];
        let header = parse(&bytes, true).unwrap().unwrap();
        assert_eq!((header.kind, header.flags), (cmd::BLOCK_STATUS, flag::PAYLOAD_LEN));
        assert_eq!((header.offset, header.length), (4096, 8 << 30));
    }

    #[test]
    fn replies_are_laid_out_as_the_text_says() {
        let mut out = Vec::new();
        put_simple(&mut out, 22, 0x0102_0304_0506_0708);
        assert_eq!(out, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 22, 1, 2, 3, 4, 5, 6, 7, 8]);

        out.clear();
        let plain = ChunkOf { extended: false, cookie: 7, offset: 4096 };
        plain.put_data_head(&mut out, true, 8192, 512);
        #[rustfmt::skip]
        assert_eq!(out, [
            0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1,  0, 0, 0, 0, 0, 0, 0, 7,
            0, 0, 2, 8,                          0, 0, 0, 0, 0, 0, 0x20, 0,
        ]);

        out.clear();
        let wide = ChunkOf { extended: true, cookie: 7, offset: 4096 };
        wide.put_status(&mut out, true, 3, &[Extent { length: 1 << 40, flags: 3 }]);
        #[rustfmt::skip]
        assert_eq!(out, [
            0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 6,  0, 0, 0, 0, 0, 0, 0, 7,
            0, 0, 0, 0, 0, 0, 0x10, 0,           0, 0, 0, 0, 0, 0, 0, 24,
            0, 0, 0, 3, 0, 0, 0, 1,
            0, 0, 1, 0, 0, 0, 0, 0,              0, 0, 0, 0, 0, 0, 0, 3,
        ]);

        out.clear();
        let extents =
            [Extent { length: 512, flags: 0 }, Extent { length: 1 << 40, flags: 3 }, Extent { length: 1, flags: 0 }];
        plain.put_status(&mut out, true, 3, &extents);
        #[rustfmt::skip]
        assert_eq!(out, [
            0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5,  0, 0, 0, 0, 0, 0, 0, 7,
            0, 0, 0, 20,                         0, 0, 0, 3,
            0, 0, 2, 0, 0, 0, 0, 0,              0xff, 0xff, 0, 0, 0, 0, 0, 3,
        ]);

        out.clear();
        plain.put_error_offset(&mut out, false, 5, 6);
        #[rustfmt::skip]
        assert_eq!(out, [
            0x66, 0x8e, 0x33, 0xef, 0, 0, 0x80, 2,  0, 0, 0, 0, 0, 0, 0, 7,
            0, 0, 0, 14,  0, 0, 0, 5,  0, 0,        0, 0, 0, 0, 0, 0, 0, 6,
        ]);
    }

    #[test]
    fn errors_outside_the_protocol_become_eio() {
        assert_eq!(error_of(libc::EDQUOT), error::ENOSPC);
        assert_eq!(error_of(libc::EROFS), error::EPERM);
        assert_eq!(error_of(libc::ENXIO), error::EIO);
        assert_eq!(error_of(libc::ETIMEDOUT), error::EIO);
    }
}
