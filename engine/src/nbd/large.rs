//! Requests longer than one piece: cut up, carried out piece by piece, and put together again.
//!
//! A READ's pieces leave as chunks of their own in whatever order they end, where the reply has
//! chunks. Where it must be one (simple replies, DF) all pieces are gathered before the first byte
//! leaves, so that an error can still be said, and that nothing else of the connection waits for a
//! piece that blocks. Above 1 MiB that is more than a connection may hold: one such READ at a time
//! gets its buffers apart, out of the shard's soft bound. Where there is no room for that, it is
//! streamed in order, and an error after the reply's head ends the connection, as the protocol text
//! demands ("Simple replies").

use std::collections::VecDeque;

use super::replies::Asked;
use crate::block::command::Op;
use crate::shard::buffers::IoBuf;
use crate::shard::limits::PIECE_BYTES;

/// Most pieces of one request that are in flight at a time.
pub const WINDOW: usize = 4;
/// The longest READ whose pieces are gathered in what a connection may hold, bytes.
pub const GATHER_BYTES: u64 = (WINDOW * PIECE_BYTES) as u64;

/// How the pieces become a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A WRITE: there is nothing to put together.
    Write,
    /// A chunk for each piece.
    Chunks,
    /// One reply when all are there.
    Gather,
    /// One reply, begun when its first piece is there; gathered apart if there is room for it.
    Stream,
}

/// A large request in progress.
#[derive(Debug)]
pub struct Large {
    pub asked: Asked,
    pub mode: Mode,
    /// Bytes whose pieces have been started.
    pub started: u64,
    pub in_flight: usize,
    /// The first error: the errno, and where in the volume.
    pub error: Option<(i32, u64)>,
    /// Pieces that have ended before those in front of them, by their place behind `emitted`.
    slots: VecDeque<Option<IoBuf>>,
    /// Bytes that have been handed over in order.
    emitted: u64,
    /// Buffers for the pieces that are not started, the next one last.
    reserved: Vec<IoBuf>,
    /// Its buffers do not count among what the connection holds.
    pub apart: bool,
    pub head_sent: bool,
    pub started_ns: u64,
}

impl Large {
    /// Nothing is started yet. `one_reply`: the data must leave in one piece.
    pub fn new(asked: Asked, one_reply: bool, now_ns: u64) -> Self {
        let mode = match asked.op {
            Op::Read if !one_reply => Mode::Chunks,
            Op::Read if asked.len <= GATHER_BYTES => Mode::Gather,
            Op::Read => Mode::Stream,
            _ => Mode::Write,
        };
        Self {
            asked,
            mode,
            started: 0,
            in_flight: 0,
            error: None,
            slots: VecDeque::new(),
            emitted: 0,
            reserved: Vec::new(),
            apart: false,
            head_sent: false,
            started_ns: now_ns,
        }
    }

    /// From now on it gathers; `take` gives a buffer for each of its pieces.
    pub fn gather_apart(&mut self, take: impl FnMut(usize) -> IoBuf) {
        debug_assert!(self.mode == Mode::Stream && self.started == 0);
        let (whole, rest) = (self.asked.len / PIECE_BYTES as u64, (self.asked.len % PIECE_BYTES as u64) as usize);
        let lengths = (rest > 0).then_some(rest).into_iter().chain((0..whole).map(|_| PIECE_BYTES));
        self.reserved = lengths.map(take).collect();
        (self.mode, self.apart) = (Mode::Gather, true);
    }

    /// The buffer of the piece to be started next, if it was taken at the beginning.
    pub fn take_reserved(&mut self) -> Option<IoBuf> {
        self.reserved.pop()
    }

    /// Length of the piece to be started next; `None`: all have been, or an error makes more of
    /// them useless.
    pub fn next_piece(&self) -> Option<usize> {
        let left = self.asked.len - self.started;
        (left > 0 && self.error.is_none()).then(|| left.min(PIECE_BYTES as u64) as usize)
    }

    /// Counts a piece as started; gives its offset in the volume.
    pub fn start(&mut self, len: usize) -> u64 {
        let at = self.asked.offset + self.started;
        self.started += len as u64;
        self.in_flight += 1;
        at
    }

    /// Notes an error; the first one counts.
    pub fn fail(&mut self, errno: i32, at: u64) {
        self.error.get_or_insert((errno, at));
    }

    /// Puts a piece that has ended in its place (`at`: in the volume).
    pub fn keep(&mut self, at: u64, buf: IoBuf) {
        let index = ((at - self.asked.offset - self.emitted) / PIECE_BYTES as u64) as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(buf);
    }

    /// The next piece in order, if it is there.
    pub fn next_in_order(&mut self) -> Option<IoBuf> {
        let buf = self.slots.front_mut()?.take()?;
        self.slots.pop_front();
        self.emitted += buf.len() as u64;
        Some(buf)
    }

    /// Is no piece in flight, and none to be started?
    pub fn is_over(&self) -> bool {
        self.in_flight == 0 && self.next_piece().is_none()
    }

    /// Have all bytes been handed over in order?
    pub fn all_emitted(&self) -> bool {
        self.emitted == self.asked.len
    }

    /// Pieces that are kept, and buffers of those that were not started.
    pub fn take_kept(&mut self) -> impl Iterator<Item = IoBuf> + '_ {
        self.slots.drain(..).flatten().chain(self.reserved.drain(..))
    }

    /// Bytes of the buffers of both.
    pub fn kept_bytes(&self) -> usize {
        self.slots.iter().flatten().chain(&self.reserved).map(IoBuf::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::command::Flags;

    fn large(len: u64, one_reply: bool) -> Large {
        let asked = Asked { op: Op::Read, flags: Flags::default(), cookie: 1, offset: 100, len };
        Large::new(asked, one_reply, 0)
    }

    #[test]
    fn pieces_cover_the_request_and_come_out_in_order() {
        let len = 2 * PIECE_BYTES as u64 + 5;
        let mut large = large(len, true);
        assert_eq!(large.mode, Mode::Gather);
        let mut pieces = Vec::new();
        while let Some(len) = large.next_piece() {
            pieces.push((large.start(len), len));
        }
        assert_eq!(pieces.iter().map(|(_, len)| *len as u64).sum::<u64>(), len);
        for (at, len) in pieces.iter().rev() {
            assert!(large.next_in_order().is_none());
            large.in_flight -= 1;
            let mut buf = IoBuf::zeroed(*len);
            buf[0] = (*at % 251) as u8;
            large.keep(*at, buf);
        }
        for (at, len) in pieces {
            let buf = large.next_in_order().unwrap();
            assert_eq!((buf.len(), buf[0]), (len, (at % 251) as u8));
        }
        assert!(large.is_over() && large.all_emitted());
    }

    #[test]
    fn an_error_stops_further_pieces() {
        let mut large = large(100 << 20, false);
        assert_eq!(large.mode, Mode::Chunks);
        let len = large.next_piece().unwrap();
        large.start(len);
        large.fail(5, 7);
        large.fail(6, 8);
        assert_eq!((large.next_piece(), large.error), (None, Some((5, 7))));
        assert!(!large.is_over());
        large.in_flight = 0;
        assert!(large.is_over());
    }

    #[test]
    fn long_single_replies_are_streamed_or_gathered_apart() {
        let mut large = large(GATHER_BYTES + 1, true);
        assert_eq!(large.mode, Mode::Stream);
        large.gather_apart(IoBuf::zeroed);
        assert_eq!((large.mode, large.apart), (Mode::Gather, true));
        while let Some(len) = large.next_piece() {
            large.start(len);
            assert_eq!(large.take_reserved().map(|buf| buf.len()), Some(len));
        }
        assert!(large.take_reserved().is_none());
    }
}
