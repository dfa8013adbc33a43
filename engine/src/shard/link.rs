//! A connection's two directions: what has come and is not parsed, what is to leave.

use std::borrow::Cow;
use std::io;

use super::context::{Ctx, Scratch};
use super::outqueue::{OutQueue, Sent};
use super::tasks::TaskHandle;
use super::transport::Transport;

/// Why a connection is over, in words for an operator.
pub type End = Cow<'static, str>;

/// See the module's text.
pub struct Link {
    pub id: u64,
    pub handle: TaskHandle,
    pub transport: Transport,
    /// Received and not parsed: the beginning of a header, or what came after a request that waits.
    pub input: Vec<u8>,
    pub out: OutQueue,
    /// The kernel may have bytes for us (edge-triggered: true until it says no).
    pub readable: bool,
    /// The kernel may have room for us.
    pub writable: bool,
    /// When the last byte came.
    pub received_ms: u64,
    /// Since when replies wait without a byte leaving; `None`: they do not wait.
    pub stuck_since_ms: Option<u64>,
}

/// How a connection's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until something comes.
    Over,
    /// There may be more, but others first.
    More,
    /// It waits for buffers or tasks that others hold.
    Starved,
}

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing for now.
    Nothing,
    /// The peer's end of its stream.
    End,
    /// So many bytes.
    Bytes(usize),
}

impl Link {
    /// Receives: into `first`, then into `area` bytes of the scratch.
    pub fn recv(&mut self, ctx: &Ctx, first: &mut [u8], scratch: &mut Scratch, area: usize) -> Result<Received, End> {
        let area = scratch.area(area);
        let result = loop {
            let result = match first.is_empty() {
                true => self.transport.recv(area, &mut []),
                false => self.transport.recv(first, area),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match result {
            Ok(0) => Ok(Received::End),
            Ok(count) => {
                self.received_ms = ctx.now_ms();
                Ok(Received::Bytes(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(Received::Nothing)
            }
            Err(error) => Err(lost(&error)),
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self, ctx: &mut Ctx) -> Result<(), End> {
        if !self.writable || !self.has_unsent() {
            return Ok(());
        }
        match self.out.send(&mut self.transport, &mut ctx.iovecs, &mut ctx.bufs) {
            Ok(Sent::All) => self.stuck_since_ms = None,
            Ok(Sent::Blocked { progress }) => {
                self.writable = false;
                if progress || self.stuck_since_ms.is_none() {
                    self.stuck_since_ms = Some(ctx.now_ms());
                }
            }
            Err(error) => return Err(lost(&error)),
        }
        Ok(())
    }

    /// Is anything waiting to leave?
    pub fn has_unsent(&self) -> bool {
        !self.out.is_empty() || self.transport.has_unsent()
    }

    /// Memory that it holds beside the pool's buffers, bytes.
    pub fn beside_buffers(&self) -> usize {
        self.input.capacity() + self.out.beside_buffers() + self.transport.ciphertext_bytes()
    }

    /// Keeps `rest` for later; frees what an idle connection need not hold.
    pub fn keep_input(&mut self, rest: &[u8]) {
        self.input.clear();
        if rest.is_empty() {
            self.input = Vec::new();
        } else {
            self.input.extend_from_slice(rest);
        }
    }
}

/// The words for a socket's error.
pub fn lost(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "reset by the client".into(),
        io::ErrorKind::BrokenPipe => "closed by the client before its replies were sent".into(),
        _ => error.to_string().into(),
    }
}
