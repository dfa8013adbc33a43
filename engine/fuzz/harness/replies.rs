//! Reads replies as strictly as a client could, by the numbers of the protocol text.

/// One reply or chunk.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub cookie: u64,
    pub error: u32,
    pub done: bool,
    /// Data that a content chunk carried.
    pub data: u64,
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Takes a reply off the front; `read_len` gives the length that a successful READ of a cookie
/// has in simple replies. `None`: the bytes end within it.
pub fn take(bytes: &mut &[u8], extended: bool, read_len: impl Fn(u64) -> u64) -> Option<Reply> {
    if bytes.len() < 16 {
        return None;
    }
    let magic = be(&bytes[..4]);
    if magic == 0x6744_6698 {
        assert!(!extended, "a simple reply under extended headers");
        let (error, cookie) = (be(&bytes[4..8]) as u32, be(&bytes[8..16]));
        let data = if error == 0 { read_len(cookie) } else { 0 };
        *bytes = bytes.get(16 + data as usize..)?;
        return Some(Reply { cookie, error, done: true, data });
    }
    let head = if extended { 32 } else { 20 };
    assert_eq!(magic, if extended { 0x6e8a_278c } else { 0x668e_33ef }, "a reply's magic number");
    if bytes.len() < head {
        return None;
    }
    let (flags, kind, cookie) = (be(&bytes[4..6]), be(&bytes[6..8]), be(&bytes[8..16]));
    let length = be(if extended { &bytes[24..32] } else { &bytes[16..20] });
    assert!(length <= 33 << 20, "a chunk of {length} bytes");
    let payload = bytes.get(head..head + length as usize)?;
    let (mut error, mut data) = (0, 0);
    match kind {
        0 => assert!(length == 0 && flags & 1 != 0, "NONE is empty and last"),
        1 => {
            assert!(length > 8, "OFFSET_DATA has data");
            data = length - 8;
        }
        5 => assert!(!extended && length > 4 && (length - 4) % 8 == 0),
        6 => {
            assert!(extended && length == 8 + 16 * be(&payload[4..8]) && length > 8);
        }
        0x8001 => {
            error = be(&payload[..4]) as u32;
            assert_eq!(length, 6 + be(&payload[4..6]), "an error's text");
        }
        0x8002 => {
            error = be(&payload[..4]) as u32;
            assert_eq!(length, 14 + be(&payload[4..6]), "an error's text and offset");
        }
        other => panic!("chunk type {other:#x}"),
    }
    if kind & 0x8000 != 0 {
        assert!([1, 5, 12, 22, 28, 75, 95, 108].contains(&error), "error {error} is none of the protocol's");
    }
    *bytes = &bytes[head + length as usize..];
    Some(Reply { cookie, error, done: flags & 1 != 0, data })
}
