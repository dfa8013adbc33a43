//! What the fuzz targets run; `cargo test` runs the same over the checked-in corpus.
#![allow(dead_code)]

pub mod cdb;
pub mod iscsi;
pub mod replies;
pub mod session;
pub mod transmission;

use _engine::nbd::admit::Negotiated;
use _engine::shard::limits::Limits;

/// The terms that an input's first byte asks for.
pub fn terms(byte: u8) -> Negotiated {
    let extended = byte & 2 != 0;
    let structured = extended || byte & 1 != 0;
    Negotiated {
        structured,
        extended,
        read_only: byte & 4 != 0,
        contexts: if structured && byte & 8 == 0 { vec![7] } else { vec![] },
        minimum_block: if byte & 16 != 0 { 512 } else { 1 },
        ..Negotiated::plain(&Limits::default())
    }
}

/// The sizes of the portions in which an input's second byte makes its bytes arrive.
pub fn portion(byte: u8) -> usize {
    match byte {
        0 => usize::MAX,
        1..=200 => usize::from(byte),
        _ => usize::from(byte) * 64,
    }
}
