//! One connection from its greeting to its end.
//!
//! ```text
//! Handshake --"tls"--> StartTls --> Tls --> Handshake
//! Handshake --transmit--> Transmission --DISC, error, told to--> (Closing -->) gone
//! Handshake --"close"--> Closing --> gone
//! ```
//! In the handshake there is at most one event that Python has not answered; meanwhile nothing is
//! read. Python's answers leave before anything that they lead to.

use super::framing::{Frame, Framer};
use super::link::{End, Link, Turn};
use super::transmission::Transmission;
use crate::block::command::Request;
use crate::shard::context::{Ctx, Task};
use crate::shard::control::{Attach, NewConn, Then};
use crate::shard::events::Event;
use crate::shard::net;
use crate::shard::outqueue::OutQueue;
use crate::shard::poller::Source;
use crate::shard::status::{SessionStatus, TaskStatus};
use crate::shard::tasks::TaskHandle;
use crate::shard::tls::TlsStream;
use crate::shard::transport::Transport;

/// Bytes of a handshake that are received at once.
const HANDSHAKE_BYTES: usize = 4096;
/// Bytes of a client that is being closed that are read and thrown away.
const CLOSING_BYTES: usize = 1 << 20;

enum Phase {
    Handshake {
        framer: Framer,
        asked: bool,
    },
    /// Python's answer is still leaving; then TLS begins.
    StartTls {
        framer: Framer,
    },
    Tls {
        framer: Framer,
    },
    Transmission(Box<Transmission>),
    /// The last answer leaves; then we wait for the client to go.
    Closing {
        since_ms: u64,
        finished: bool,
        left: usize,
        why: &'static str,
    },
}

/// See the module's text.
pub struct Session {
    link: Link,
    phase: Phase,
    peer: String,
    since: f64,
    started_ms: u64,
    /// When the handshake's current step began: its last answer.
    step_ms: u64,
    tls_version: &'static str,
    /// The time of the earliest timer that is set for this connection.
    armed_ms: u64,
    /// Its part of the shard's `session_bytes`.
    counted_bytes: usize,
}

impl Session {
    /// A connection that has just been accepted; Python is told of it.
    pub fn new(new: NewConn, handle: TaskHandle, ctx: &mut Ctx) -> Self {
        let NewConn { id, fd, listener, label, peer, since, .. } = new;
        let limits = &ctx.limits;
        let framer = Framer::new(limits.option_bytes as usize, limits.option_skip_bytes as usize);
        let started_ms = ctx.now_ms();
        ctx.lanes.post(Event::Accepted { conn: id, listener, label: label.to_string(), peer: peer.clone() });
        let link = Link {
            id,
            handle,
            transport: Transport::plain(fd),
            input: Vec::new(),
            out: OutQueue::default(),
            readable: true,
            writable: true,
            received_ms: started_ms,
            stuck_since_ms: None,
        };
        let phase = Phase::Handshake { framer, asked: true };
        Self {
            link,
            phase,
            peer,
            since,
            started_ms,
            step_ms: started_ms,
            tls_version: "",
            armed_ms: u64::MAX,
            counted_bytes: 0,
        }
    }

    /// What it has yet to send of its volume's mapped file is from here on what that has now.
    pub fn settle(&mut self, ctx: &mut Ctx) {
        self.link.out.settle(&mut ctx.bufs, |_| true);
    }

    /// The connection's number.
    pub fn id(&self) -> u64 {
        self.link.id
    }

    /// Its socket.
    pub fn fd(&self) -> i32 {
        self.link.transport.fd()
    }

    /// The poller's news.
    pub fn note_ready(&mut self, readable: bool, writable: bool) {
        self.link.readable |= readable;
        self.link.writable |= writable;
    }

    /// Does what can be done now. `Err`: the connection is over.
    pub fn turn(&mut self, ctx: &mut Ctx) -> Result<Turn, End> {
        let turn = match &mut self.phase {
            Phase::Transmission(transmission) => match transmission.turn(&mut self.link, ctx) {
                Err(why)
                    if transmission.has_said_all(&self.link)
                        && net::acknowledged(self.link.transport.fd()).is_some() =>
                {
                    self.linger(ctx, why)?;
                    Turn::Over
                }
                turn => turn?,
            },
            _ => {
                self.handshake_turn(ctx)?;
                Turn::Over
            }
        };
        self.count_bytes(ctx);
        self.arm(ctx);
        Ok(turn)
    }

    /// Memory that it holds beside the pool's buffers.
    pub fn beside_buffers(&self) -> usize {
        match &self.phase {
            Phase::Transmission(transmission) => transmission.beside_buffers(&self.link),
            _ => self.link.beside_buffers(),
        }
    }

    /// Tells the shard what it holds now. A handshake is bounded by itself: a crowd in it must not
    /// take from those that have come further.
    fn count_bytes(&mut self, ctx: &mut Ctx) {
        if let Phase::Transmission(transmission) = &self.phase {
            let now = transmission.beside_buffers(&self.link);
            ctx.session_bytes = ctx.session_bytes + now - self.counted_bytes;
            self.counted_bytes = now;
        }
    }

    fn handshake_turn(&mut self, ctx: &mut Ctx) -> Result<(), End> {
        loop {
            self.link.flush(ctx)?;
            let going_on = match &mut self.phase {
                Phase::Handshake { asked: true, .. } | Phase::Transmission(_) => false,
                Phase::Handshake { .. } => self.frame(ctx)?,
                Phase::StartTls { .. } => self.start_tls(ctx)?,
                Phase::Tls { .. } => self.tls_handshake(ctx)?,
                Phase::Closing { .. } => self.closing()?,
            };
            if !going_on {
                return Ok(());
            }
        }
    }

    /// Looks for the next frame; false: nothing more to do for now.
    fn frame(&mut self, ctx: &mut Ctx) -> Result<bool, End> {
        let Phase::Handshake { framer, asked } = &mut self.phase else { return Ok(false) };
        let (taken, frame) = framer.next(&self.link.input)?;
        self.link.input.drain(..taken);
        if let Some(frame) = frame {
            *asked = true;
            let conn = self.link.id;
            ctx.lanes.post(match frame {
                Frame::Flags(flags) => Event::ClientFlags { conn, flags },
                Frame::Option { option, data, oversize } => Event::NbdOption { conn, option, data, oversize },
            });
            if self.link.input.is_empty() {
                self.link.input = Vec::new();
            }
            return Ok(false);
        }
        Ok(taken > 0 || self.receive_handshake(ctx)?)
    }

    fn receive_handshake(&mut self, ctx: &Ctx) -> Result<bool, End> {
        if !self.link.readable {
            return Ok(false);
        }
        let mut bytes = [0; HANDSHAKE_BYTES];
        match self.link.transport.recv(&mut bytes, &mut []) {
            Ok(0) => Err("closed by the client during the handshake".into()),
            Ok(count) => {
                self.link.received_ms = ctx.now_ms();
                self.link.input.extend_from_slice(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.link.readable = false;
                Ok(false)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(super::link::lost(&error)),
        }
    }

    /// The answer to STARTTLS has left: TLS begins, on a clean slate.
    fn start_tls(&mut self, ctx: &Ctx) -> Result<bool, End> {
        if self.link.has_unsent() {
            return Ok(false);
        }
        // Bytes sent in the clear after STARTTLS must not count as if they had come under TLS:
        // whoever sits between could have put them there.
        if !self.link.input.is_empty() {
            return Err("bytes in the clear after STARTTLS".into());
        }
        let config = ctx.tls.as_ref().ok_or("TLS is not configured")?;
        let stream = TlsStream::new(config).map_err(|error| error.to_string())?;
        self.link.transport.start_tls(stream);
        let Phase::StartTls { framer } = std::mem::replace(&mut self.phase, gone()) else { return Ok(false) };
        self.phase = Phase::Tls { framer };
        Ok(true)
    }

    fn tls_handshake(&mut self, ctx: &Ctx) -> Result<bool, End> {
        match self.link.transport.handshake() {
            Ok(false) => Ok(false),
            Ok(true) => {
                // The client's next bytes may have come with its last of the handshake: they are then
                // in memory already, and the socket will not tell of them.
                self.link.readable = true;
                let Phase::Tls { framer } = std::mem::replace(&mut self.phase, gone()) else { return Ok(false) };
                self.phase = Phase::Handshake { framer, asked: false };
                if let Some(tls) = self.link.transport.tls() {
                    let identity = tls.identity();
                    self.tls_version = tls.version();
                    let conn = self.link.id;
                    ctx.lanes.post(Event::TlsEstablished { conn, identity: identity.name, kind: identity.kind });
                }
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.link.readable = false;
                Ok(false)
            }
            Err(error) => Err(error.to_string().into()),
        }
    }

    /// Sends the rest, says goodbye, and waits for the client's: closing with unread bytes would
    /// reset the connection, and our last words with it.
    fn closing(&mut self) -> Result<bool, End> {
        if self.link.has_unsent() {
            return Ok(false);
        }
        let Phase::Closing { finished, left, why, .. } = &mut self.phase else { return Ok(false) };
        if !*finished {
            *finished = true;
            self.link.transport.finish();
        }
        self.link.input = Vec::new();
        let mut bytes = [0; HANDSHAKE_BYTES];
        match net::recv(self.link.transport.fd(), &mut bytes, &mut []) {
            Ok(0) => Err((*why).into()),
            Ok(count) => {
                *left = left.checked_sub(count).ok_or(*why)?;
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err((*why).into()),
        }
    }

    /// All is said, but not all of it is with the client. If the socket were closed now, unread bytes of the client's
    /// would take that back, as TLS's goodbye is some that came behind DISC.
    fn linger(&mut self, ctx: &mut Ctx, why: End) -> Result<(), End> {
        let why = match why {
            End::Borrowed(why) => why,
            End::Owned(_) => "closed",
        };
        let closing = Phase::Closing { since_ms: ctx.now_ms(), finished: false, left: CLOSING_BYTES, why };
        if let Phase::Transmission(mut transmission) = std::mem::replace(&mut self.phase, closing) {
            transmission.release(ctx);
        }
        ctx.session_bytes -= std::mem::take(&mut self.counted_bytes);
        self.handshake_turn(ctx)
    }

    /// Python's answer to a handshake event.
    pub fn reply(&mut self, ctx: &mut Ctx, data: &[u8], then: Then) -> Result<(), End> {
        if then == Then::Abort {
            return Err("refused in the handshake".into());
        }
        let Phase::Handshake { asked, .. } = &mut self.phase else {
            // The connection has gone on (it is closing): the answer is late, and nobody's.
            return Ok(());
        };
        *asked = false;
        self.queue(ctx, data)?;
        let now_ms = ctx.now_ms();
        self.step_ms = now_ms;
        match then {
            Then::Tls => {
                let Phase::Handshake { framer, .. } = std::mem::replace(&mut self.phase, gone()) else { return Ok(()) };
                self.phase = Phase::StartTls { framer };
            }
            Then::Close => {
                let (finished, left, why) = (false, CLOSING_BYTES, "closed");
                self.phase = Phase::Closing { since_ms: now_ms, finished, left, why };
            }
            Then::Option | Then::Abort => {}
        }
        Ok(())
    }

    /// Python's answer that ends the handshake.
    pub fn transmit(&mut self, ctx: &mut Ctx, data: &[u8], attach: Attach) -> Result<(), End> {
        let Phase::Handshake { .. } = self.phase else { return Ok(()) };
        self.queue(ctx, data)?;
        let Attach { volume, export, terms } = attach;
        let attachment = ctx.attach(&volume, export).ok_or("its volume is being closed")?;
        let mut transmission = Transmission::new(attachment, terms);
        // A part of the first request may be here: a client need not have waited for this.
        transmission.begin(ctx);
        self.phase = Phase::Transmission(Box::new(transmission));
        Ok(())
    }

    fn queue(&mut self, ctx: &Ctx, data: &[u8]) -> Result<(), End> {
        if self.link.out.bytes() + data.len() > ctx.limits.handshake_reply_bytes as usize {
            return Err("the handshake's answers are longer than allowed".into());
        }
        self.link.out.head(|out| out.extend_from_slice(data));
        Ok(())
    }

    /// Answers what is in flight, then ends.
    pub fn close_gently(&mut self, ctx: &mut Ctx, why: &'static str) -> Result<(), End> {
        match &mut self.phase {
            Phase::Transmission(transmission) => {
                transmission.close(&mut self.link, ctx, why.into());
                Ok(())
            }
            _ => Err(why.into()),
        }
    }

    /// One of its tasks has ended.
    pub fn task_ended(
        &mut self,
        ctx: &mut Ctx,
        task: Task,
        request: Request,
        result: Result<(), i32>,
    ) -> Result<(), End> {
        match &mut self.phase {
            Phase::Transmission(transmission) => transmission.task_ended(&mut self.link, ctx, task, request, result),
            _ => unreachable!("tasks come from the transmission phase, which nothing follows"),
        }
    }

    /// Is nothing under way? (Then a shard that stops may end it.)
    pub fn is_quiet(&self) -> bool {
        match &self.phase {
            Phase::Transmission(transmission) => transmission.in_flight() == 0 && !self.link.has_unsent(),
            _ => true,
        }
    }

    /// The volume that it serves.
    pub fn volume(&self) -> Option<u64> {
        match &self.phase {
            Phase::Transmission(transmission) => Some(transmission.attachment().entry.volume.id()),
            _ => None,
        }
    }

    /// When it must have got somewhere; `None`: it may idle.
    fn deadline_ms(&self, ctx: &Ctx) -> Option<(u64, &'static str)> {
        let limits = &ctx.limits;
        let stuck = self
            .link
            .stuck_since_ms
            .map(|since| (since + limits.send_stall_ms, "the client does not read its replies"));
        match &self.phase {
            Phase::Transmission(transmission) => {
                let stalled = transmission
                    .receive_deadline_ms(&self.link, limits.receive_stall_ms)
                    .map(|at_ms| (at_ms, "a request was begun and not finished in time"));
                [stuck, stalled].into_iter().flatten().min()
            }
            Phase::Closing { since_ms, why, .. } => Some((since_ms + limits.linger_ms, *why)),
            _ => {
                let step = self.step_ms + limits.handshake_ms;
                let whole = self.started_ms + limits.handshake_total_ms;
                Some((step.min(whole), "the handshake took too long"))
            }
        }
    }

    /// Sets a timer for the deadline, unless one that comes earlier is set already.
    fn arm(&mut self, ctx: &mut Ctx) {
        if let Some((at_ms, _)) = self.deadline_ms(ctx) {
            if at_ms < self.armed_ms {
                self.armed_ms = at_ms;
                ctx.timers.add(at_ms, Source::Conn(self.link.handle).token());
            }
        }
    }

    /// A timer of it came due.
    pub fn time_out(&mut self, ctx: &mut Ctx) -> Result<(), End> {
        self.armed_ms = u64::MAX;
        match self.deadline_ms(ctx) {
            Some((at_ms, why)) if at_ms <= ctx.now_ms() => Err(why.into()),
            _ => {
                if !self.link.has_unsent() {
                    self.link.out.shrink();
                }
                self.arm(ctx);
                Ok(())
            }
        }
    }

    /// Lets go of its buffers. The socket is closed with the session.
    pub fn release(&mut self, ctx: &mut Ctx) {
        ctx.session_bytes -= std::mem::take(&mut self.counted_bytes);
        self.link.out.discard(&mut ctx.bufs);
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.release(ctx);
            // After DISC the server "MUST ... shut down the TLS session", and SHOULD before any other end.
            self.link.transport.finish();
        }
        net::shutdown(self.fd(), libc::SHUT_RDWR);
    }

    /// As the control side sees it.
    pub fn status(&self) -> SessionStatus {
        let mut status = SessionStatus {
            conn: self.link.id,
            volume: 0,
            export: String::new(),
            peer: self.peer.clone(),
            tls: self.tls_version.to_owned(),
            since: self.since,
            in_flight: 0,
            unsent_bytes: self.link.out.bytes() as u64,
            phase: "handshake",
            protocol: "nbd",
            ..SessionStatus::default()
        };
        if let Phase::Transmission(transmission) = &self.phase {
            status.volume = transmission.attachment().entry.volume.id();
            status.export.clone_from(&transmission.attachment().export);
            status.counts = transmission.counts().map(|counts| Box::new(counts.clone()));
            status.in_flight = transmission.in_flight() as u64;
            status.phase = "transmission";
        }
        status
    }

    /// What it is collecting, has parked, or cannot get rid of: no tasks yet, or no more.
    pub fn waiting_requests(&self, now_ns: u64) -> Option<TaskStatus> {
        let Phase::Transmission(transmission) = &self.phase else { return None };
        let attachment = transmission.attachment();
        let mut status = TaskStatus {
            handle: 0,
            conn: self.link.id,
            volume: attachment.entry.volume.id(),
            export: attachment.export.clone(),
            op: "",
            offset: 0,
            length: 0,
            age_us: 0,
            phase: "",
        };
        if let Some((op, offset, length, phase)) = transmission.unfinished_request() {
            status.op = op.name();
            (status.offset, status.length, status.phase) = (offset, length, phase);
            status.age_us = now_ns.saturating_sub(transmission.begun_ns()) / 1000;
            return Some(status);
        }
        let since_ms = self.link.stuck_since_ms?;
        status.length = self.link.out.bytes() as u64;
        status.age_us = (now_ns / 1000).saturating_sub(since_ms * 1000);
        (status.op, status.phase) = ("reply", "sending");
        Some(status)
    }
}

/// Stands in a phase's place while it is being replaced.
fn gone() -> Phase {
    Phase::Closing { since_ms: 0, finished: true, left: 0, why: "" }
}
