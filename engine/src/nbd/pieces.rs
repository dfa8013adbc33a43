//! How a connection carries out its large requests; see [`large`](super::large).

use super::admit::No;
use super::large::{Large, Mode, GATHER_BYTES, WINDOW};
use super::link::{End, Link};
use super::replies::{self, Asked};
use super::transmission::{Transmission, FLUSH_BYTES};
use super::wire::{self, ChunkOf};
use crate::shard::buffers::{BufPool, IoBuf};
use crate::shard::context::{Ctx, Role};
use crate::shard::limits::PIECE_BYTES;
use crate::shard::outqueue::OutQueue;
use crate::shard::tasks::TaskHandle;

impl Transmission {
    /// Is there room to begin with a large request? One that gathers all its pieces needs room for
    /// all of them now: several half gathered ones would wait for each other for ever.
    pub(super) fn has_room_for(&self, link: &Link, ctx: &Ctx, large: &Large) -> bool {
        match large.mode {
            Mode::Gather => {
                let whole = large.asked.len.div_ceil(PIECE_BYTES as u64) as usize * PIECE_BYTES;
                debug_assert!(whole as u64 <= GATHER_BYTES);
                self.has_room(link, ctx, whole, WINDOW)
            }
            // Each of its pieces will be asked for room when its payload comes.
            Mode::Write => true,
            _ => self.has_room(link, ctx, PIECE_BYTES, 1),
        }
    }

    /// A large request has been taken in.
    pub(super) fn begin_large(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        handle: TaskHandle,
        mode: Mode,
    ) -> Result<(), End> {
        if mode == Mode::Write {
            let len = self.larges.get(handle).map_or(0, |large| large.asked.len);
            self.collect_pieces(handle, len);
            return Ok(());
        }
        if mode == Mode::Stream && !self.gather_apart(ctx, handle) {
            self.stream = Some(handle);
        }
        // Not `pump`: what was promised to this one must not go to others.
        if self.pump_one(link, ctx, handle)? {
            self.active.push(handle);
        }
        Ok(())
    }

    /// Takes the buffers of a long READ that must be one reply. False: there is no room for that.
    fn gather_apart(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> bool {
        let large = self.larges.get_mut(handle).expect("begun just now");
        let whole = (large.asked.len as usize).next_multiple_of(PIECE_BYTES);
        // As one that holds something already: what goes above the soft bound is one piece for each.
        let room = ctx.may_take_within(usize::MAX, Some(&self.attachment.entry), 1, whole);
        if self.apart || !room {
            return false;
        }
        large.gather_apart(|len| ctx.bufs.take(len));
        self.apart = true;
        true
    }

    /// Starts pieces of large READs, as far as there is room for them.
    pub(super) fn pump(&mut self, link: &mut Link, ctx: &mut Ctx) -> Result<(), End> {
        let mut at = 0;
        while let Some(handle) = self.active.get(at).copied() {
            match self.pump_one(link, ctx, handle)? {
                true => at += 1,
                false => self.active.retain(|other| *other != handle),
            }
        }
        Ok(())
    }

    /// False: no further pieces of it are to be started.
    fn pump_one(&mut self, link: &mut Link, ctx: &mut Ctx, handle: TaskHandle) -> Result<bool, End> {
        loop {
            let Some(large) = self.larges.get(handle) else { return Ok(false) };
            let Some(len) = large.next_piece() else { return Ok(false) };
            let (mode, in_flight, apart) = (large.mode, large.in_flight, large.apart);
            if link.out.bytes() >= FLUSH_BYTES {
                link.flush(ctx)?;
            }
            let waits = self.turn_left == 0 || self.is_clogged(link);
            let room = match mode {
                // The room was taken at the beginning; of one apart, that of the buffers.
                Mode::Gather => !apart || ctx.task_room() > 0,
                // What others hold may be waiting for this very reply: one piece always fits.
                Mode::Stream if in_flight == 0 => ctx.task_room() > 0,
                _ => self.has_room(link, ctx, BufPool::cost(len), 1),
            };
            let must_go_on = mode == Mode::Gather && !apart;
            if in_flight >= WINDOW || (waits && !must_go_on) || !room {
                return Ok(true);
            }
            let reserved = self.larges.get_mut(handle).and_then(Large::take_reserved);
            let buf = reserved.unwrap_or_else(|| self.take(ctx, len));
            let large = self.larges.get_mut(handle).expect("looked at above");
            let offset = large.start(len);
            let asked = Asked { offset, len: len as u64, ..large.asked };
            self.start(link, ctx, asked, Some(buf), Role::Piece { large: handle })?;
        }
    }

    /// One piece of a large WRITE's payload is there; `left` more bytes are to come.
    pub(super) fn write_piece(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        handle: TaskHandle,
        left: u64,
        buf: IoBuf,
    ) -> Result<(), End> {
        let large = self.larges.get_mut(handle).expect("a WRITE lives until all its payload is there");
        debug_assert_eq!(large.asked.len - large.started, left + buf.len() as u64);
        let failed = large.error.is_some();
        let offset = large.start(buf.len());
        let asked = Asked { offset, len: buf.len() as u64, ..large.asked };
        if failed {
            // The rest is only taken off the wire.
            return self.piece_ended(link, ctx, handle, &asked, Some(buf), Ok(()));
        }
        self.start(link, ctx, asked, Some(buf), Role::Piece { large: handle })
    }

    /// A piece has ended, inline or later.
    pub(super) fn piece_ended(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        handle: TaskHandle,
        piece: &Asked,
        buf: Option<IoBuf>,
        result: Result<(), i32>,
    ) -> Result<(), End> {
        let large = self.larges.get_mut(handle).expect("a large request outlives its pieces");
        large.in_flight -= 1;
        let mode = large.mode;
        match (result, buf) {
            (Ok(()), Some(buf)) if mode == Mode::Chunks => {
                let last = large.is_over() && large.error.is_none();
                let of =
                    ChunkOf { extended: self.terms.extended, cookie: large.asked.cookie, offset: large.asked.offset };
                large.head_sent |= last;
                self.held -= buf.capacity();
                let out = self.sink(link);
                out.head(|bytes| of.put_data_head(bytes, last, piece.offset, piece.len));
                out.buffer(buf);
            }
            (Ok(()), Some(buf)) if mode != Mode::Write => large.keep(piece.offset, buf),
            (result, buf) => {
                if let Err(errno) = result {
                    large.fail(errno, piece.offset);
                }
                match buf {
                    Some(buf) if large.apart => ctx.bufs.give(buf),
                    Some(buf) => self.give(ctx, buf),
                    None => {}
                }
            }
        }
        if mode == Mode::Stream {
            self.stream_on(link, handle)?;
        }
        let large = self.larges.get(handle).expect("not ended yet");
        // A WRITE that failed still waits for the rest of its payload.
        let over = large.is_over() && (mode != Mode::Write || large.started == large.asked.len);
        if over {
            self.large_ended(link, ctx, handle);
        }
        Ok(())
    }

    /// The rest of a large WRITE's payload will never come.
    pub(super) fn abandon_large(&mut self, link: &mut Link, ctx: &mut Ctx, handle: TaskHandle) {
        let Some(large) = self.larges.get_mut(handle) else { return };
        large.fail(libc::ESHUTDOWN, large.asked.offset + large.started);
        large.started = large.asked.len;
        if large.in_flight == 0 {
            self.large_ended(link, ctx, handle);
        }
    }

    /// Hands over the pieces of a streamed READ that are next in order.
    fn stream_on(&mut self, link: &mut Link, handle: TaskHandle) -> Result<(), End> {
        let large = self.larges.get_mut(handle).expect("not ended yet");
        if large.error.is_some() {
            // "the server MUST immediately initiate a hard disconnect" once the head is out.
            return if large.head_sent {
                Err("a read failed after the head of its reply was sent".into())
            } else {
                Ok(())
            };
        }
        while let Some(buf) = large.next_in_order() {
            if !large.head_sent {
                large.head_sent = true;
                self.aside = Some(OutQueue::default());
                replies::data_head(&mut link.out, &self.terms, &large.asked);
            }
            self.held -= buf.capacity();
            link.out.buffer(buf);
        }
        Ok(())
    }

    /// The last piece has ended: the end of the reply, and the books.
    fn large_ended(&mut self, link: &mut Link, ctx: &mut Ctx, handle: TaskHandle) {
        let mut large = self.larges.remove(handle).expect("ends once");
        let asked = large.asked;
        self.active.retain(|other| *other != handle);
        if large.apart {
            // What leaves now counts as any reply that waits to be sent.
            self.held += large.kept_bytes();
            self.apart = false;
        }
        self.count_task(ctx, &asked, large.error.is_some(), large.started_ns);
        if self.stream == Some(handle) {
            self.stream = None;
            if let Some(mut aside) = self.aside.take() {
                link.out.append(&mut aside);
            }
        }
        match large.error {
            Some((errno, at)) => {
                let kept: Vec<IoBuf> = large.take_kept().collect();
                kept.into_iter().for_each(|buf| self.give(ctx, buf));
                self.say_error_at(link, &asked, errno, at);
            }
            None => self.say_success(link, &mut large),
        }
    }

    fn say_success(&mut self, link: &mut Link, large: &mut Large) {
        let asked = large.asked;
        match large.mode {
            Mode::Write => self.say(link, &asked, Ok(())),
            Mode::Gather => {
                let terms = &self.terms;
                let out = self.aside.as_mut().unwrap_or(&mut link.out);
                replies::data_head(out, terms, &asked);
                while let Some(buf) = large.next_in_order() {
                    self.held -= buf.capacity();
                    out.buffer(buf);
                }
                debug_assert!(large.all_emitted());
            }
            // The last chunk carried the end of the reply.
            Mode::Chunks | Mode::Stream => debug_assert!(large.head_sent),
        }
    }

    fn say_error_at(&mut self, link: &mut Link, asked: &Asked, errno: i32, at: u64) {
        let error = wire::error_of(errno);
        match replies::chunks(&self.terms, asked.cookie, asked.offset) {
            Some(of) => self.sink(link).head(|bytes| of.put_error_offset(bytes, true, error, at)),
            None => {
                let terms = &self.terms;
                let out = self.aside.as_mut().unwrap_or(&mut link.out);
                replies::error(out, terms, asked.cookie, asked.offset, No { error, text: "" });
            }
        }
    }
}
