//! One connection of a session in full feature phase: its numbers, its digests, what it is receiving.

use super::data::later_ms;
use super::digest::{Digest, DIGEST_BYTES};
use super::wire::{padding, Bhs, Head, Numbers};
use crate::backstores::file::mapped::MappedBytes;
use crate::shard::link::{End, Link};
use crate::shard::outqueue::OutQueue;
use crate::shard::tasks::TaskHandle;

/// Replies of so many bytes are sent before more are made: their buffers are then still hot.
pub const FLUSH_BYTES: usize = 256 << 10;
/// Bytes of an initiator that is being left that are read and thrown away.
const CLOSING_BYTES: usize = 8 << 20;

/// Where a data segment goes.
#[derive(Debug)]
pub enum Sink {
    /// Nowhere.
    Skip,
    /// Text, a ping's data.
    Bytes(Vec<u8>),
    /// A command's buffer, from there on; what does not fit is thrown away.
    Command { command: TaskHandle, at: usize },
}

/// A data segment that is coming.
#[derive(Debug)]
pub struct Segment {
    pub bhs: Bhs,
    pub sink: Sink,
    pub len: usize,
    pub done: usize,
    pub digest: Digest,
}

/// What the next bytes are.
#[derive(Debug)]
pub enum Rx {
    Header,
    Data(Segment),
}

/// Data that may still come of a command that was aborted.
#[derive(Clone, Copy, Debug)]
pub struct Ghost {
    pub itt: u32,
    /// What the Target Transfer Tags of its R2Ts have in common; NO_TAG: it is unsolicited.
    pub ttt: u32,
    /// Sequences that are to come.
    pub sequences: usize,
}

/// A ping of ours that has no answer yet.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    pub ttt: u32,
    /// When it was sent; or later, when what was sent before it was seen to be still on its way.
    pub sent_ms: u64,
    /// Bytes that had been acknowledged by then, if others had not.
    pub acked: Option<u64>,
}

/// A Logout Request that is answered when what it closes has nothing under way any more.
#[derive(Clone, Copy, Debug)]
pub struct Logout {
    pub itt: u32,
    /// The connection that it names; `None`: the session.
    pub cid: Option<u16>,
    /// The number of that connection, 0: the session.
    pub closes: u64,
}

/// See the module's text.
pub struct Conn {
    pub link: Link,
    pub cid: u16,
    pub header_digest: bool,
    pub data_digest: bool,
    /// The initiator's MaxRecvDataSegmentLength.
    pub max_send_data: usize,
    /// Ours, as this login declared it (RFC 7143 13.12: each connection has its own).
    pub max_recv_data: usize,
    pub stat_sn: u32,
    pub rx: Rx,
    /// Large data comes straight into its buffer: expect the next to be like it.
    pub direct: bool,
    /// A command's immediate data has no room: the connection is not read until it has. Since when that is so for
    /// want of room for data that is to come.
    pub parked: bool,
    pub waits_since_ms: Option<u64>,
    /// Data has come, at the slowest rate that there may be, up to this time.
    pub live_ms: u64,
    /// When the PDU that is half received began, and since when it is not read, by our own doing.
    pub begun_ms: u64,
    pub paused_since_ms: Option<u64>,
    /// Nothing more is read; the connection ends when all has been sent.
    pub closing: Option<End>,
    pub closing_since_ms: u64,
    /// Its logouts that wait for the end of what they close.
    pub logouts: Vec<Logout>,
    /// By a logout: its session's other connections stay.
    pub logged_out: bool,
    /// Another has its CID: there is nobody to say goodbye to.
    pub replaced: bool,
    /// Our direction has been closed; so much of what still comes is read and thrown away.
    pub finished: bool,
    pub closing_left: usize,
    pub turn_left: usize,
    pub ping: Option<Ping>,
    /// No data has been due for longer than since then, by its own clock; seen to anew when that is too long.
    pub data_since_ms: Option<u64>,
    /// Bytes that its commands were asked for and that have not come.
    pub owed: u64,
    /// For how long it was not read, all in all, by our own doing.
    pub unread_ms: u64,
    /// The Text Request that Python has.
    pub text: Option<Bhs>,
    ghosts: Vec<Ghost>,
    /// Asked for a turn by another connection of its session.
    pub kicked: bool,
}

impl Conn {
    /// A connection that enters full feature phase.
    pub fn new(link: Link, cid: u16, digests: (bool, bool), lengths: (u32, u32), stat_sn: u32, now_ms: u64) -> Self {
        let (header_digest, data_digest) = digests;
        Self {
            link,
            cid,
            header_digest,
            data_digest,
            max_send_data: lengths.0 as usize,
            max_recv_data: lengths.1 as usize,
            stat_sn,
            rx: Rx::Header,
            direct: false,
            parked: false,
            waits_since_ms: None,
            live_ms: 0,
            begun_ms: now_ms,
            paused_since_ms: None,
            closing: None,
            closing_since_ms: 0,
            logouts: Vec::new(),
            logged_out: false,
            replaced: false,
            finished: false,
            closing_left: CLOSING_BYTES,
            turn_left: 0,
            ping: None,
            data_since_ms: None,
            owed: 0,
            unread_ms: 0,
            text: None,
            ghosts: Vec::new(),
            kicked: false,
        }
    }

    /// Has it asked to be closed, its session's other connections to stay?
    pub fn closes_itself(&self) -> bool {
        self.logouts.iter().any(|asked| asked.closes == self.link.id)
    }

    /// Is it being closed, or has it asked for that, by itself or with its session?
    pub fn is_leaving(&self) -> bool {
        self.closing.is_some() || self.closes_itself() || self.logouts.iter().any(|asked| asked.cid.is_none())
    }

    /// Bytes behind a data segment of `len`: padding and digest.
    pub fn trailer(&self, len: usize) -> usize {
        padding(len) + if self.data_digest { DIGEST_BYTES } else { 0 }
    }

    /// Is a data segment here, to its last byte, that has not ended yet?
    pub fn is_whole(&self) -> bool {
        matches!(&self.rx, Rx::Data(segment) if segment.done == segment.len && self.trailer(segment.len) == 0)
    }

    /// Memory that it holds beside the pool's buffers.
    pub fn beside_buffers(&self) -> usize {
        let coming = match &self.rx {
            Rx::Data(Segment { sink: Sink::Bytes(bytes), .. }) => bytes.capacity(),
            _ => 0,
        };
        self.link.beside_buffers() + coming
    }

    /// Queues a PDU whose data, if it has some, lies with its header.
    pub fn send(&mut self, head: &Head, data: &[u8]) {
        let (header_digest, data_digest) = (self.header_digest, self.data_digest);
        self.link.out.head(|out| {
            put_head(out, head, header_digest);
            if !data.is_empty() {
                out.extend_from_slice(data);
                put_trailer(out, data, data_digest);
            }
        });
    }

    /// Queues a PDU whose data is a part of the buffer that was lent to the queue last.
    pub fn send_slice(&mut self, head: &Head, range: std::ops::Range<usize>, last: bool) {
        let (header_digest, data_digest) = (self.header_digest, self.data_digest);
        let out: &mut OutQueue = &mut self.link.out;
        let pad = padding(range.len());
        let digest = data_digest.then(|| Digest::of(&out.lent()[range.clone()]).and(&[0; 3][..pad]).bytes());
        out.head(|out| put_head(out, head, header_digest));
        out.slice(range, last);
        if pad > 0 || data_digest {
            out.head(|out| {
                out.extend_from_slice(&[0; 3][..pad]);
                out.extend_from_slice(digest.as_ref().map_or(&[], |digest| &digest[..]));
            });
        }
    }

    /// Sends a header and bytes of a volume's mapped file, which no digest covers.
    pub fn send_mapped(&mut self, head: &Head, volume: u64, bytes: MappedBytes) {
        debug_assert!(!self.data_digest);
        let (header_digest, pad) = (self.header_digest, padding(bytes.len()));
        let out: &mut OutQueue = &mut self.link.out;
        out.head(|out| put_head(out, head, header_digest));
        out.mapped(volume, bytes);
        out.head(|out| out.extend_from_slice(&[0; 3][..pad]));
    }

    /// The numbers for a PDU that takes a StatSN.
    pub fn next_numbers(&mut self, exp_cmd_sn: u32, max_cmd_sn: u32) -> Numbers {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        Numbers { stat_sn, exp_cmd_sn, max_cmd_sn }
    }

    /// Does the initiator not take its replies?
    pub fn is_clogged(&self) -> bool {
        !self.link.writable && self.link.out.bytes() >= FLUSH_BYTES
    }

    /// Is it read, if at all, for others alone? Then time does not count against its peer.
    pub fn is_paused(&self) -> bool {
        self.parked || self.is_clogged()
    }

    /// Is it not read for now? While others of its session wait for a command that may lie there (`wanted`), replies
    /// that nobody takes stand before it only when they are too many short ones: what is long waits in its command.
    pub fn is_unread(&self, wanted: bool) -> bool {
        let out = &self.link.out;
        let short = out.waiting_bytes() - out.buffer_bytes();
        self.parked || self.is_clogged() && !(wanted && short < FLUSH_BYTES)
    }

    /// Its own clock, which stands still while it is not read.
    pub fn clock_ms(&self, now_ms: u64) -> u64 {
        now_ms - self.unread_ms
    }

    /// Data of one of its commands has come: what it is asked for besides is not silent meanwhile, for it comes in its
    /// turn. `silent_ms`: so long before nothing counts.
    pub fn note_data(&mut self, bytes: u32, now_ms: u64, silent_ms: u64) {
        self.live_ms = later_ms(self.live_ms.max(now_ms.saturating_sub(silent_ms)), bytes, now_ms);
    }

    /// Has something come that it has had no turn for?
    pub fn is_behind(&self) -> bool {
        self.link.readable && !self.is_paused()
    }

    /// Takes nothing more; ends when what waits has been sent.
    pub fn close(&mut self, why: impl Into<End>, now_ms: u64) {
        if self.closing.is_none() {
            self.closing = Some(why.into());
            self.closing_since_ms = now_ms;
        }
    }

    /// An aborted command's data may still come: it is no error. Of such commands no more are remembered than there
    /// may be at a time, `most`.
    pub fn expect_ghost(&mut self, ghost: Ghost, most: usize) {
        if self.ghosts.len() == most {
            self.ghosts.remove(0);
        }
        self.ghosts.push(ghost);
    }

    /// Is data with these tags such a rest? `last`: the end of a sequence.
    pub fn is_ghost(&mut self, itt: u32, ttt: u32, last: bool) -> bool {
        let its = |ghost: &Ghost| (ghost.itt, ghost.ttt) == (itt, ttt);
        let Some(at) = self.ghosts.iter().position(its) else { return false };
        if last {
            self.ghosts[at].sequences -= 1;
            if self.ghosts[at].sequences == 0 {
                self.ghosts.remove(at);
            }
        }
        true
    }

    /// Its tag is used for a new command.
    pub fn forget_ghost(&mut self, itt: u32) {
        if !self.ghosts.is_empty() {
            self.ghosts.retain(|ghost| ghost.itt != itt);
        }
    }
}

fn put_head(out: &mut Vec<u8>, head: &Head, digest: bool) {
    out.extend_from_slice(&head.0);
    if digest {
        out.extend_from_slice(&Digest::of(&head.0).bytes());
    }
}

fn put_trailer(out: &mut Vec<u8>, data: &[u8], digest: bool) {
    let pad = padding(data.len());
    out.extend_from_slice(&[0; 3][..pad]);
    if digest {
        out.extend_from_slice(&Digest::of(data).and(&[0; 3][..pad]).bytes());
    }
}
