//! What comes in during transmission: headers are parsed where they were received, payloads go
//! into page-aligned buffers, large ones straight from the socket.

use super::admit::No;
use super::link::{End, Link, Received};
use super::replies::Asked;
use super::transmission::{Transmission, FLUSH_BYTES};
use super::wire::{self, Header};
use crate::block::command::Flags;
use crate::shard::buffers::{BufPool, IoBuf};
use crate::shard::context::{Ctx, Role, Scratch, SCRATCH_BYTES};
use crate::shard::limits::PIECE_BYTES;
use crate::shard::tasks::TaskHandle;
use crate::shard::tls::TlsStream;

/// What the next bytes are. A buffer that is being filled has a task promised to it.
pub(super) enum Rx {
    Header,
    /// The payload of a WRITE of one piece.
    Payload {
        asked: Asked,
        buf: IoBuf,
        filled: usize,
    },
    /// The payload of a large WRITE, one piece after the other; no buffer: waits for one.
    Pieces {
        large: TaskHandle,
        left: u64,
        buf: Option<IoBuf>,
        filled: usize,
    },
    /// The payload of a BLOCK_STATUS.
    Status {
        header: Header,
        flags: Flags,
        bytes: Vec<u8>,
        need: usize,
    },
    /// The payload of a refused request.
    Skip {
        header: Header,
        left: u64,
        no: No,
    },
}

/// What a request takes of its connection's turn besides its payload, in bytes.
const REQUEST_COST: usize = 512;
/// What each byte takes of it that TLS has put around that, as a multiple: records without content are the dearest.
const SEAL_COST: usize = 16;

impl Transmission {
    /// One receive, and the requests that it brought. What is left of earlier ones is less than a
    /// header: all else was parsed, or the connection is paused and does not come here.
    pub(super) fn receive(&mut self, link: &mut Link, ctx: &mut Ctx, scratch: &mut Scratch) -> Result<Received, End> {
        // A payload that has no buffer is taken from where it is received.
        let area = match self.direct && !matches!(self.rx, Rx::Pieces { buf: None, .. }) {
            true => wire::header_bytes(self.terms.extended),
            false => SCRATCH_BYTES,
        };
        let (received, into_payload) = match &mut self.rx {
            Rx::Payload { buf, filled, .. } | Rx::Pieces { buf: Some(buf), filled, .. } => {
                let place = &mut buf[*filled..];
                let room = place.len();
                let received = link.recv(ctx, place, scratch, area)?;
                (received, room)
            }
            _ => (link.recv(ctx, &mut [], scratch, area)?, 0),
        };
        let Received::Bytes(count) = received else { return Ok(received) };
        let sealed = link.transport.tls().map_or(0, TlsStream::received);
        self.turn_left = self.turn_left.saturating_sub(count + SEAL_COST * sealed.saturating_sub(count));
        let into_payload = count.min(into_payload);
        if into_payload > 0 {
            self.filled(link, ctx, into_payload)?;
        }
        let left = link.input.len();
        if !scratch.put_before(&link.input) {
            return Err("lost track of what was received".into());
        }
        link.input.clear();
        let bytes = scratch.filled(left, count - into_payload);
        let taken = self.parse(link, ctx, bytes, left > 0)?;
        link.keep_input(&bytes[taken..]);
        Ok(received)
    }

    /// Takes bytes off the front of `bytes` until they, or the room for requests, are used up;
    /// says how many. `begun`: the first of them were here before.
    pub(super) fn parse(&mut self, link: &mut Link, ctx: &mut Ctx, bytes: &[u8], begun: bool) -> Result<usize, End> {
        let mut at = 0;
        if !begun && matches!(self.rx, Rx::Header) {
            self.begin(ctx);
        }
        while self.closing.is_none() {
            if self.parked.is_some() || self.stream.is_some() || self.turn_left == 0 {
                break;
            }
            let rest = &bytes[at..];
            let taken = match self.rx {
                Rx::Header => self.parse_header(link, ctx, rest)?,
                _ => self.parse_payload(link, ctx, rest)?,
            };
            if taken == 0 {
                break;
            }
            at += taken;
            self.begin_next(ctx);
            // One that was parked now may wait for this very flush, which the turn watches then.
            if link.out.bytes() >= FLUSH_BYTES && self.parked.is_none() {
                link.flush(ctx)?;
                if self.is_clogged(link) {
                    break;
                }
            }
        }
        Ok(at)
    }

    /// The clock of the next request starts.
    pub(super) fn begin(&mut self, ctx: &Ctx) {
        self.begun_ns = ctx.now_ns.get();
        self.paused_ms = 0;
    }

    /// Starts it if the last one is all here.
    fn begin_next(&mut self, ctx: &Ctx) {
        if matches!(self.rx, Rx::Header) && self.parked.is_none() {
            self.begin(ctx);
        }
    }

    fn parse_header(&mut self, link: &mut Link, ctx: &mut Ctx, bytes: &[u8]) -> Result<usize, End> {
        match wire::parse(bytes, self.terms.extended) {
            Ok(None) => Ok(0),
            Ok(Some(header)) => {
                self.turn_left = self.turn_left.saturating_sub(REQUEST_COST);
                let size = wire::header_bytes(self.terms.extended);
                self.at_hand = bytes.len() - size;
                self.request(link, ctx, header)?;
                Ok(size)
            }
            Err(wire::BadMagic(magic)) => Err(format!("request with wrong magic number {magic:#010x}").into()),
        }
    }

    fn parse_payload(&mut self, link: &mut Link, ctx: &mut Ctx, bytes: &[u8]) -> Result<usize, End> {
        if let Rx::Pieces { buf: None, .. } = self.rx {
            if !self.piece_buffer(link, ctx, bytes.len()) {
                return Ok(0);
            }
        }
        match &mut self.rx {
            Rx::Header => Ok(0),
            Rx::Payload { buf, filled, .. } | Rx::Pieces { buf: Some(buf), filled, .. } => {
                let count = bytes.len().min(buf.len() - *filled);
                buf[*filled..*filled + count].copy_from_slice(&bytes[..count]);
                self.filled(link, ctx, count)?;
                Ok(count)
            }
            Rx::Pieces { buf: None, .. } => Ok(0),
            Rx::Status { header, flags, bytes: payload, need } => {
                let count = bytes.len().min(*need - payload.len());
                payload.extend_from_slice(&bytes[..count]);
                if payload.len() == *need {
                    let (header, flags, payload) = (*header, *flags, std::mem::take(payload));
                    self.rx = Rx::Header;
                    self.status_payload(link, ctx, header, flags, &payload)?;
                }
                Ok(count)
            }
            Rx::Skip { header, left, no } => {
                let count = (bytes.len() as u64).min(*left);
                *left -= count;
                if *left == 0 {
                    let (header, no) = (*header, *no);
                    self.rx = Rx::Header;
                    self.refuse(link, ctx, &header, no);
                }
                Ok(count as usize)
            }
        }
    }

    /// `count` more bytes are in the payload's buffer.
    fn filled(&mut self, link: &mut Link, ctx: &mut Ctx, count: usize) -> Result<(), End> {
        match &mut self.rx {
            Rx::Payload { buf, filled, .. } => {
                *filled += count;
                if *filled < buf.len() {
                    return Ok(());
                }
                ctx.end_collecting(buf.capacity());
                if let Rx::Payload { asked, buf, .. } = std::mem::replace(&mut self.rx, Rx::Header) {
                    self.start(link, ctx, asked, Some(buf), Role::Whole { ids: None })?;
                }
                Ok(())
            }
            Rx::Pieces { large, left, buf: place @ Some(_), filled } => {
                *filled += count;
                *left -= count as u64;
                if place.as_ref().is_some_and(|buf| *filled < buf.len()) {
                    return Ok(());
                }
                *filled = 0;
                let (large, left, buf) = (*large, *left, place.take().expect("it was full"));
                ctx.end_collecting(buf.capacity());
                if left == 0 {
                    self.rx = Rx::Header;
                }
                self.write_piece(link, ctx, large, left, buf)
            }
            _ => unreachable!("only payloads are filled"),
        }
    }

    /// Gets the buffer for the next piece of a large WRITE's payload, if there is room for it. Where those that are slow
    /// to send have been promised all the room, what is `here` is a piece: it need not be waited for.
    fn piece_buffer(&mut self, link: &mut Link, ctx: &mut Ctx, here: usize) -> bool {
        let Rx::Pieces { left, .. } = self.rx else { return false };
        let mut len = left.min(PIECE_BYTES as u64) as usize;
        self.at_hand = 0;
        let may_collect = self.has_room_to_collect(link, ctx, len);
        self.as_it_comes = !may_collect && self.has_room(link, ctx, BufPool::cost(len), 1);
        if self.as_it_comes {
            len = len.min(here);
        }
        if len == 0 || !may_collect && !self.as_it_comes {
            return false;
        }
        let fresh = self.take_for_payload(ctx, len);
        if let Rx::Pieces { buf, .. } = &mut self.rx {
            *buf = Some(fresh);
        }
        true
    }

    /// Promises a task to a payload that is coming, and takes its buffer.
    pub(super) fn take_for_payload(&mut self, ctx: &mut Ctx, len: usize) -> IoBuf {
        ctx.begin_collecting(BufPool::cost(len));
        self.take(ctx, len)
    }

    /// From here on a large WRITE's payload is collected.
    pub(super) fn collect_pieces(&mut self, large: TaskHandle, left: u64) {
        self.direct = true;
        self.rx = Rx::Pieces { large, left, buf: None, filled: 0 };
    }

    /// Gives up what is half received. A large WRITE ends with what it has written by now.
    pub(super) fn abandon_rx(&mut self, link: &mut Link, ctx: &mut Ctx) {
        match std::mem::replace(&mut self.rx, Rx::Header) {
            Rx::Payload { buf, .. } => {
                ctx.end_collecting(buf.capacity());
                self.give(ctx, buf);
            }
            Rx::Pieces { large, buf, .. } => {
                if let Some(buf) = buf {
                    ctx.end_collecting(buf.capacity());
                    self.give(ctx, buf);
                }
                self.abandon_large(link, ctx, large);
            }
            Rx::Header | Rx::Status { .. } | Rx::Skip { .. } => {}
        }
    }
}
