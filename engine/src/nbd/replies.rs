//! Replies in the form that was negotiated: simple, structured or extended.

use super::admit::{Negotiated, No};
use super::wire::{put_simple, ChunkOf};
use crate::backstores::file::mapped::MappedBytes;
use crate::block::command::{Extent, Flags, Op};
use crate::shard::buffers::IoBuf;
use crate::shard::outqueue::OutQueue;

/// The request that a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub op: Op,
    pub flags: Flags,
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    pub len: u64,
}

/// The header of chunks, where replies have chunks.
pub fn chunks(terms: &Negotiated, cookie: u64, offset: u64) -> Option<ChunkOf> {
    let chunked = terms.structured || terms.extended;
    chunked.then_some(ChunkOf { extended: terms.extended, cookie, offset })
}

/// "Done", without data.
pub fn done(out: &mut OutQueue, terms: &Negotiated, asked: &Asked) {
    out.head(|bytes| {
        // A simple reply is the shorter one, and always right but for READ and extended headers.
        match chunks(terms, asked.cookie, asked.offset) {
            Some(of) if terms.extended || asked.op == Op::Read => of.put_none(bytes),
            _ => put_simple(bytes, 0, asked.cookie),
        }
    });
}

/// "No", with the reason where there is a place for it.
pub fn error(out: &mut OutQueue, terms: &Negotiated, cookie: u64, offset: u64, no: No) {
    out.head(|bytes| match chunks(terms, cookie, offset) {
        Some(of) => of.put_error(bytes, true, no.error, no.text),
        None => put_simple(bytes, no.error, cookie),
    });
}

/// All the data of a READ, at least one byte.
pub fn data(out: &mut OutQueue, terms: &Negotiated, asked: &Asked, buf: IoBuf) {
    data_head(out, terms, asked);
    out.buffer(buf);
}

/// The same out of the page cache.
pub fn mapped_data(out: &mut OutQueue, terms: &Negotiated, asked: &Asked, volume: u64, bytes: MappedBytes) {
    data_head(out, terms, asked);
    out.mapped(volume, bytes);
}

/// What goes before all the data of a READ in one chunk, `asked.len` bytes.
pub fn data_head(out: &mut OutQueue, terms: &Negotiated, asked: &Asked) {
    out.head(|bytes| match chunks(terms, asked.cookie, asked.offset) {
        Some(of) => of.put_data_head(bytes, true, asked.offset, asked.len),
        None => put_simple(bytes, 0, asked.cookie),
    });
}

/// The answer to BLOCK_STATUS: one chunk for each of `ids`.
pub fn status(out: &mut OutQueue, terms: &Negotiated, asked: &Asked, ids: &[u32], extents: &mut [Extent]) {
    let mut extents = extents;
    if asked.flags.req_one {
        extents = &mut extents[..1];
        extents[0].length = extents[0].length.min(asked.len);
    }
    let of = ChunkOf { extended: terms.extended, cookie: asked.cookie, offset: asked.offset };
    out.head(|bytes| {
        for (at, id) in ids.iter().enumerate() {
            of.put_status(bytes, at + 1 == ids.len(), *id, extents);
        }
    });
}
