//! What a connection has yet to send: headers and buffers, left in one vectored send.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::buffers::{BufPool, IoBuf};
use super::transport::Transport;
use crate::backstores::file::mapped::MappedBytes;

/// Most parts in one send (the kernel's UIO_MAXIOV is 1024).
const PARTS: usize = 256;
/// Headers' memory that a drained queue may keep.
const KEPT_HEADS: usize = 2048;
/// Beyond so much it held data, as of a ping or a text, and goes as soon as that has left.
const LARGE_HEADS: usize = 64 << 10;

enum Part {
    /// So many bytes of `heads`.
    Heads(usize),
    /// Bytes of the buffer that is in turn; `last`: the buffer goes when they have left.
    Slice { start: usize, end: usize, last: bool },
    /// Bytes of a volume's file, for the kernel's eyes only.
    Mapped { volume: u64, bytes: MappedBytes, sent: usize },
    /// Such bytes could not be had: nothing is sent in their place, or after them.
    Lost,
}

/// Replies in the order in which they leave. Headers lie together, apart from the page-aligned
/// payloads; neighbouring ones are one part.
#[derive(Default)]
pub struct OutQueue {
    parts: VecDeque<Part>,
    bufs: VecDeque<IoBuf>,
    heads: Vec<u8>,
    /// Bytes at the front of `heads` that have left.
    heads_sent: usize,
    bytes: usize,
    buffer_bytes: usize,
}

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The queue is empty.
    All,
    /// The socket takes no more for now; `progress`: but it took something.
    Blocked { progress: bool },
}

impl OutQueue {
    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Capacity of the pool's buffers that wait.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Memory that goes as the replies leave: the buffers, and the heads that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.buffer_bytes + self.heads.len() - self.heads_sent
    }

    /// Memory beside the pool's buffers.
    pub fn beside_buffers(&self) -> usize {
        self.heads.capacity()
            + self.parts.capacity() * std::mem::size_of::<Part>()
            + self.bufs.capacity() * std::mem::size_of::<IoBuf>()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Appends what `write` appends to the headers.
    pub fn head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.heads.len();
        write(&mut self.heads);
        let added = self.heads.len() - before;
        self.bytes += added;
        match self.parts.back_mut() {
            Some(Part::Heads(len)) => *len += added,
            _ if added > 0 => self.parts.push_back(Part::Heads(added)),
            _ => {}
        }
    }

    /// Appends a buffer, which goes back to its pool once it has left.
    pub fn buffer(&mut self, buf: IoBuf) {
        let len = buf.len();
        self.lend(buf);
        self.slice(0..len, true);
    }

    /// Takes a buffer whose bytes leave in slices, with heads in between: [`slice`](Self::slice)s follow,
    /// the last of them said to be so, before another buffer does.
    pub fn lend(&mut self, buf: IoBuf) {
        debug_assert!(!matches!(self.parts.back(), Some(Part::Slice { last: false, .. })));
        self.buffer_bytes += buf.capacity();
        self.bufs.push_back(buf);
    }

    /// The buffer that was lent last.
    pub fn lent(&self) -> &[u8] {
        self.bufs.back().map_or(&[], |buf| &buf[..])
    }

    /// Appends bytes of that buffer.
    pub fn slice(&mut self, range: Range<usize>, last: bool) {
        debug_assert!(range.end <= self.lent().len());
        self.bytes += range.len();
        self.parts.push_back(Part::Slice { start: range.start, end: range.end, last });
    }

    /// Appends bytes of a volume's mapped file. Not for a transport with TLS, which would read them itself.
    pub fn mapped(&mut self, volume: u64, bytes: MappedBytes) {
        self.bytes += bytes.len();
        self.parts.push_back(Part::Mapped { volume, bytes, sent: 0 });
    }

    /// Takes copies of the mapped bytes that wait, of the volumes that are `meant`: from here on they are what the
    /// file had now. May read from the disk. Where they cannot be had the next send fails.
    pub fn settle(&mut self, pool: &mut BufPool, meant: impl Fn(u64) -> bool) {
        let mut before = 0; // buffers that leave earlier
        for part in &mut self.parts {
            match part {
                Part::Heads(_) | Part::Lost => {}
                Part::Slice { last, .. } => before += usize::from(*last),
                Part::Mapped { volume, .. } if !meant(*volume) => {}
                Part::Mapped { bytes, sent, .. } => {
                    let len = bytes.len() - *sent;
                    let mut buf = pool.take(len);
                    if bytes.copy_to(*sent, &mut buf).is_err() {
                        pool.give(buf);
                        *part = Part::Lost;
                        continue;
                    }
                    self.buffer_bytes += buf.capacity();
                    self.bufs.insert(before, buf);
                    *part = Part::Slice { start: 0, end: len, last: true };
                    before += 1;
                }
            }
        }
    }

    /// Sends as much as the transport takes.
    pub fn send(
        &mut self,
        transport: &mut Transport,
        parts: &mut Vec<libc::iovec>,
        pool: &mut BufPool,
    ) -> io::Result<Sent> {
        let mut progress = false;
        loop {
            if let Some(Part::Lost) = self.parts.front() {
                return Err(io::Error::from_raw_os_error(libc::EFAULT));
            }
            if self.parts.is_empty() && !transport.has_unsent() {
                return Ok(Sent::All);
            }
            self.gather(parts);
            // SAFETY: the parts point into `heads`, buffers and mappings that this queue holds and
            // does not touch until the call is over; a mapped page that is gone is the kernel's EFAULT.
            match unsafe { transport.send_parts(parts) } {
                Ok(sent) => {
                    progress = true;
                    self.advance(sent, pool);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Sent::Blocked { progress });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn gather(&self, parts: &mut Vec<libc::iovec>) {
        parts.clear();
        let (mut at, mut buf) = (self.heads_sent, 0);
        for part in self.parts.iter().take(PARTS) {
            let bytes = match part {
                Part::Mapped { bytes, sent, .. } => {
                    let address = bytes.address(*sent).cast_mut().cast();
                    parts.push(libc::iovec { iov_base: address, iov_len: bytes.len() - *sent });
                    continue;
                }
                Part::Lost => return,
                Part::Heads(len) => {
                    let bytes = &self.heads[at..at + len];
                    at += len;
                    bytes
                }
                Part::Slice { start, end, last } => {
                    let bytes = &self.bufs[buf][*start..*end];
                    buf += usize::from(*last);
                    bytes
                }
            };
            parts.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        }
    }

    fn advance(&mut self, mut sent: usize, pool: &mut BufPool) {
        debug_assert!(sent <= self.bytes);
        self.bytes -= sent;
        while let Some(part) = self.parts.front_mut() {
            match part {
                Part::Lost => return,
                Part::Heads(len) => {
                    let taken = sent.min(*len);
                    self.heads_sent += taken;
                    *len -= taken;
                    sent -= taken;
                    if *len > 0 {
                        break;
                    }
                    self.parts.pop_front();
                }
                Part::Mapped { bytes, sent: gone, .. } => {
                    let taken = sent.min(bytes.len() - *gone);
                    *gone += taken;
                    sent -= taken;
                    if *gone < bytes.len() {
                        break;
                    }
                    self.parts.pop_front();
                }
                Part::Slice { start, end, last } => {
                    let taken = sent.min(*end - *start);
                    *start += taken;
                    sent -= taken;
                    if start < end {
                        break;
                    }
                    let buf = if *last { self.bufs.pop_front() } else { None };
                    self.parts.pop_front();
                    if let Some(buf) = buf {
                        self.buffer_bytes -= buf.capacity();
                        pool.give(buf);
                    }
                }
            }
        }
        if self.parts.is_empty() {
            self.heads.clear();
            self.heads.shrink_to(LARGE_HEADS);
            self.heads_sent = 0;
        } else if self.heads_sent > 4 * KEPT_HEADS {
            // A peer that always leaves something unread must not make this grow.
            self.heads.drain(..self.heads_sent);
            self.heads_sent = 0;
        }
    }

    /// Appends all of another queue, which has sent nothing yet.
    pub fn append(&mut self, other: &mut OutQueue) {
        debug_assert_eq!(other.heads_sent, 0);
        self.bytes += other.bytes;
        self.buffer_bytes += other.buffer_bytes;
        self.heads.extend_from_slice(&other.heads);
        self.parts.append(&mut other.parts);
        self.bufs.append(&mut other.bufs);
        *other = Self::default();
    }

    /// Gives back memory that an idle connection need not hold.
    pub fn shrink(&mut self) {
        debug_assert!(self.is_empty());
        self.heads.shrink_to(KEPT_HEADS);
        self.parts.shrink_to(32);
        self.bufs.shrink_to(16);
    }

    /// Drops everything, the buffers into their pool.
    pub fn discard(&mut self, pool: &mut BufPool) {
        self.bufs.drain(..).for_each(|buf| pool.give(buf));
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_leave_in_order_however_little_the_socket_takes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut transport = Transport::plain(OwnedFd::from(ours));
        let (mut pool, mut parts) = (BufPool::new(1 << 20), Vec::new());
        let (mut queue, mut expected) = (OutQueue::default(), Vec::new());
        for round in 0..40u8 {
            queue.head(|out| out.extend([round; 16]));
            expected.extend([round; 16]);
            let mut buf = pool.take(30_000);
            buf.fill(round);
            expected.extend(&buf[..]);
            queue.buffer(buf);
            queue.head(|out| out.push(round));
            expected.push(round);
        }
        assert_eq!(queue.bytes(), expected.len());
        let mut got: Vec<u8> = Vec::new();
        loop {
            let sent = queue.send(&mut transport, &mut parts, &mut pool).unwrap();
            let mut portion = [0; 7000];
            if let Ok(count) = theirs.read(&mut portion) {
                got.extend(&portion[..count]);
            } else if sent == Sent::All {
                break;
            }
        }
        assert!(got == expected);
        assert_eq!((queue.bytes(), queue.buffer_bytes(), pool.lent_bytes()), (0, 0, 0));
    }

    #[test]
    fn mapped_bytes_that_wait_are_settled_where_they_stand() {
        let path = std::env::temp_dir().join(format!("blockgate-settle-{}", std::process::id()));
        let old: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &old).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mapped = |range: Range<usize>| MappedBytes::of(&file, range).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut transport = Transport::plain(OwnedFd::from(ours));
        let (mut pool, mut parts) = (BufPool::new(1 << 20), Vec::new());
        let (mut queue, mut expected) = (OutQueue::default(), Vec::new());
        for round in 0..3usize {
            queue.head(|out| out.push(1));
            let mut buf = pool.take(70_000);
            buf.fill(round as u8);
            let range = round * 100_000..round * 100_000 + 90_000;
            expected.extend([&[1][..], &buf, &old[range.clone()], &[2]].concat());
            queue.buffer(buf);
            queue.mapped(round as u64, mapped(range));
            queue.head(|out| out.push(2));
        }
        // Some of it has left, maybe in the middle of the mapped bytes.
        assert_eq!(queue.send(&mut transport, &mut parts, &mut pool).unwrap(), Sent::Blocked { progress: true });
        let (left, buffers) = (queue.bytes(), queue.buffer_bytes());
        queue.settle(&mut pool, |volume| volume == 9);
        assert_eq!(queue.buffer_bytes(), buffers, "of other volumes nothing is copied");
        queue.settle(&mut pool, |_| true);
        assert_eq!(queue.bytes(), left);
        file.set_len(0).unwrap();
        let mut got: Vec<u8> = Vec::new();
        while got.len() < expected.len() {
            let mut portion = [0; 7000];
            let count = theirs.read(&mut portion).unwrap();
            got.extend(&portion[..count]);
            queue.send(&mut transport, &mut parts, &mut pool).unwrap();
        }
        assert!(got == expected);
        assert_eq!((queue.bytes(), queue.buffer_bytes(), pool.lent_bytes()), (0, 0, 0));
        // Nothing is there any more: nothing is sent in its place.
        queue.mapped(0, mapped(0..100));
        queue.settle(&mut pool, |_| true);
        assert!(queue.send(&mut transport, &mut parts, &mut pool).is_err());
    }

    #[test]
    fn what_is_discarded_goes_back_to_the_pool() {
        let mut pool = BufPool::new(1 << 20);
        let mut queue = OutQueue::default();
        queue.head(|out| out.push(1));
        queue.buffer(pool.take(100));
        queue.discard(&mut pool);
        assert!(queue.is_empty());
        assert_eq!((queue.bytes(), pool.lent_bytes()), (0, 0));
    }
}
