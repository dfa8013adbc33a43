//! The parser and the judgement of requests, without any I/O.

use _engine::nbd::admit::{admit, check_range, parse_status_payload, Verdict};
use _engine::nbd::framing::{Frame, Framer};
use _engine::nbd::replies::{self, Asked};
use _engine::nbd::wire::{self, Header};
use _engine::shard::outqueue::OutQueue;

use super::{portion, terms};

/// First byte: the terms; second: how the bytes arrive; the rest: what a peer sends.
pub fn run(data: &[u8]) {
    let [mode, portions, stream @ ..] = data else { return };
    let terms = terms(*mode);
    requests(stream, &terms);
    handshake(stream, portion(*portions));
}

/// Follows a stream of requests as a session does, without carrying any out.
fn requests(mut stream: &[u8], terms: &_engine::nbd::admit::Negotiated) {
    while let Ok(Some(header)) = wire::parse(stream, terms.extended) {
        let size = wire::header_bytes(terms.extended);
        assert_eq!(encode(&header, terms.extended), stream[..size], "nothing of a header is lost");
        stream = &stream[size..];
        let mut out = OutQueue::default();
        let skipped = match admit(&header, terms) {
            Verdict::Disconnect | Verdict::Fatal(_) => return,
            Verdict::Refuse { no, payload } => {
                assert!(no.error != 0 && payload <= terms.payload_skip_bytes);
                replies::error(&mut out, terms, header.cookie, header.offset, no);
                payload
            }
            Verdict::CollectStatus { bytes, .. } => {
                let Some(payload) = stream.get(..bytes) else { return };
                if let Ok((length, ids)) = parse_status_payload(payload, terms) {
                    assert!(!ids.is_empty() && ids.iter().all(|id| terms.contexts.contains(id)));
                    let _ = check_range(_engine::block::command::Op::BlockStatus, header.offset, length, terms);
                }
                bytes as u64
            }
            Verdict::Run { op, flags, .. } => {
                assert!(!(op.is_write() && terms.read_only));
                let asked = Asked { op, flags, cookie: header.cookie, offset: header.offset, len: header.length };
                replies::done(&mut out, terms, &asked);
                if op == _engine::block::command::Op::Write {
                    assert!(header.length <= terms.payload_bytes);
                    header.length
                } else {
                    0
                }
            }
        };
        let Some(rest) = stream.get(skipped as usize..) else { return };
        stream = rest;
    }
}

fn encode(header: &Header, extended: bool) -> Vec<u8> {
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let mut out = magic.to_be_bytes().to_vec();
    out.extend(header.flags.to_be_bytes());
    out.extend(header.kind.to_be_bytes());
    out.extend(header.cookie.to_be_bytes());
    out.extend(header.offset.to_be_bytes());
    let length = header.length.to_be_bytes();
    out.extend(if extended { &length[..] } else { &length[4..] });
    out
}

/// Frames must come out the same however their bytes arrive.
fn handshake(stream: &[u8], portion: usize) {
    assert_eq!(frames(stream, portion), frames(stream, usize::MAX));
}

fn frames(stream: &[u8], portion: usize) -> (Vec<Frame>, Option<&'static str>) {
    let mut framer = Framer::new(4096, 65_536);
    let (mut input, mut frames) = (Vec::new(), Vec::new());
    for part in stream.chunks(portion.min(stream.len().max(1))) {
        input.extend_from_slice(part);
        loop {
            match framer.next(&input) {
                Err(why) => return (frames, Some(why)),
                Ok((0, None)) => break,
                Ok((taken, frame)) => {
                    input.drain(..taken);
                    frames.extend(frame);
                }
            }
        }
    }
    (frames, None)
}
