//! One iSCSI connection as its shard sees it: in login by itself, then a part of its session.
//!
//! ```text
//! Login --login_done--> Full --logout, error--> gone
//! Login --"close"--> Leaving --> gone
//! ```
//! In login there is at most one PDU that Python has not answered; meanwhile nothing is read.

use std::cell::RefCell;
use std::rc::Rc;

use super::conn::Conn;
use super::params::Params;
use super::session::{Due, Session};
use super::shard::Outgoing;
use super::wire::{self, opcode, padding, Bhs, BHS_BYTES};
use crate::block::command::{Errno, Request};
use crate::shard::context::{Ctx, Task};
use crate::shard::control::{NewConn, Then};
use crate::shard::events::Event;
use crate::shard::link::{lost, End, Link, Turn};
use crate::shard::net;
use crate::shard::outqueue::OutQueue;
use crate::shard::poller::Source;
use crate::shard::status::{SessionStatus, TaskStatus};
use crate::shard::tasks::TaskHandle;
use crate::shard::transport::Transport;

/// Bytes of a login that are received at once.
const LOGIN_BYTES: usize = 4096;
/// Bytes of an initiator that is being left that are read and thrown away.
const LEAVING_BYTES: usize = 1 << 20;

enum Phase {
    Login {
        link: Box<Link>,
        asked: bool,
    },
    /// The last answer leaves; then we wait for the initiator to go.
    Leaving {
        link: Box<Link>,
        since_ms: u64,
        finished: bool,
        left: usize,
    },
    Full {
        session: Rc<RefCell<Session>>,
        at: TaskHandle,
    },
    Gone,
}

/// A connection on its way to the shard of its session.
pub struct Moving {
    pub id: u64,
    pub link: Box<Link>,
    pub peer: String,
    pub since: f64,
    pub pdu: Vec<u8>,
    pub params: Box<Params>,
}

/// See the module's text.
pub struct Connection {
    id: u64,
    handle: TaskHandle,
    fd: i32,
    peer: String,
    since: f64,
    started_ms: u64,
    /// When the login's current step began.
    step_ms: u64,
    /// The time of the earliest timer that is set for this connection.
    armed_ms: u64,
    /// Its part of the shard's `session_bytes`.
    counted_bytes: usize,
    phase: Phase,
}

impl Connection {
    /// One that has just been accepted; Python is told of it.
    pub fn new(new: NewConn, handle: TaskHandle, ctx: &mut Ctx) -> Self {
        let NewConn { id, fd, listener, label, peer, local, since, .. } = new;
        let now_ms = ctx.now_ms();
        ctx.lanes.post(Event::IscsiAccepted {
            conn: id,
            listener,
            label: label.to_string(),
            peer: peer.clone(),
            local,
        });
        let link = Link {
            id,
            handle,
            transport: Transport::plain(fd),
            input: Vec::new(),
            out: OutQueue::default(),
            readable: true,
            writable: true,
            received_ms: now_ms,
            stuck_since_ms: None,
        };
        let fd = link.transport.fd();
        let phase = Phase::Login { link: Box::new(link), asked: false };
        Self {
            id,
            handle,
            fd,
            peer,
            since,
            started_ms: now_ms,
            step_ms: now_ms,
            armed_ms: u64::MAX,
            counted_bytes: 0,
            phase,
        }
    }

    /// One that comes from another shard, at the end of its login.
    pub fn arrived(moving: Moving, handle: TaskHandle, ctx: &Ctx) -> (Self, Vec<u8>, Box<Params>) {
        let now_ms = ctx.now_ms();
        let Moving { id, mut link, peer, since, pdu, params } = moving;
        link.handle = handle;
        (link.readable, link.writable, link.received_ms) = (true, true, now_ms);
        let fd = link.transport.fd();
        let phase = Phase::Login { link, asked: true };
        let connection = Self {
            id,
            handle,
            fd,
            peer,
            since,
            started_ms: now_ms,
            step_ms: now_ms,
            armed_ms: u64::MAX,
            counted_bytes: 0,
            phase,
        };
        (connection, pdu, params)
    }

    /// Lets go of its socket for another shard. `None`: it is not in login.
    pub fn depart(self, pdu: Vec<u8>, params: Box<Params>) -> Option<Box<Moving>> {
        match self.phase {
            Phase::Login { link, .. } => {
                Some(Box::new(Moving { id: self.id, link, peer: self.peer, since: self.since, pdu, params }))
            }
            _ => None,
        }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its socket.
    pub fn fd(&self) -> i32 {
        self.fd
    }

    /// Is it past its login?
    pub fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Full { .. })
    }

    /// Its session, and its place there.
    pub fn session(&self) -> Option<(&Rc<RefCell<Session>>, TaskHandle)> {
        match &self.phase {
            Phase::Full { session, at } => Some((session, *at)),
            _ => None,
        }
    }

    /// The poller's news.
    pub fn note_ready(&mut self, readable: bool, writable: bool) {
        let note = |link: &mut Link| {
            link.readable |= readable;
            link.writable |= writable;
        };
        match &mut self.phase {
            Phase::Login { link, .. } | Phase::Leaving { link, .. } => note(link),
            Phase::Full { session, at } => {
                if let Some(conn) = session.borrow_mut().conns.get_mut(*at) {
                    note(&mut conn.link);
                }
            }
            Phase::Gone => {}
        }
    }

    /// Does what can be done now. `Err`: the connection is over.
    pub fn turn(&mut self, ctx: &mut Ctx) -> Result<Turn, End> {
        let turn = match &mut self.phase {
            Phase::Full { session, at } => session.clone().borrow_mut().turn(ctx, *at)?,
            _ => {
                while self.login_step(ctx)? {}
                Turn::Over
            }
        };
        self.count_bytes(ctx);
        self.arm(ctx);
        Ok(turn)
    }

    /// False: nothing more to do for now.
    fn login_step(&mut self, ctx: &mut Ctx) -> Result<bool, End> {
        match &mut self.phase {
            Phase::Login { link, asked } => {
                link.flush(ctx)?;
                if *asked {
                    return Ok(false);
                }
                match request(&mut link.input, ctx.limits.login_data_bytes as usize) {
                    Ok(Some((bhs, data))) => {
                        *asked = true;
                        ctx.lanes.post(Event::Login { conn: self.id, bhs: bhs.0.to_vec(), data });
                        Ok(false)
                    }
                    Ok(None) => receive(link, ctx),
                    Err(refusal) => {
                        link.out.head(|out| out.extend_from_slice(&refusal.0));
                        self.leave(ctx);
                        Ok(true)
                    }
                }
            }
            Phase::Leaving { link, finished, left, .. } => {
                link.flush(ctx)?;
                if link.has_unsent() {
                    return Ok(false);
                }
                if !std::mem::replace(finished, true) {
                    link.transport.finish();
                }
                link.input = Vec::new();
                let mut bytes = [0; LOGIN_BYTES];
                match net::recv(link.transport.fd(), &mut bytes, &mut []) {
                    Ok(count) if count > 0 => {
                        *left = left.checked_sub(count).ok_or("closed")?;
                        Ok(true)
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
                    _ => Err("closed".into()),
                }
            }
            Phase::Full { .. } | Phase::Gone => Ok(false),
        }
    }

    fn leave(&mut self, ctx: &Ctx) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Login { link, .. } => {
                Phase::Leaving { link, since_ms: ctx.now_ms(), finished: false, left: LEAVING_BYTES }
            }
            other => other,
        };
    }

    /// Python's answer to a Login Request that is not the last.
    pub fn login_reply(&mut self, ctx: &mut Ctx, pdu: &[u8], then: Then) -> Result<(), End> {
        let Phase::Login { link, asked } = &mut self.phase else { return Ok(()) };
        if then == Then::Abort {
            return Err("refused in login".into());
        }
        *asked = false;
        link.out.head(|out| out.extend_from_slice(pdu));
        self.step_ms = ctx.now_ms();
        if then == Then::Close {
            self.leave(ctx);
        }
        Ok(())
    }

    /// Python's answer that ends the login: full feature phase.
    pub fn begin(&mut self, ctx: &mut Ctx, pdu: &[u8], mut params: Box<Params>) -> Result<(), End> {
        let Phase::Login { .. } = self.phase else { return Ok(()) };
        let known = ctx.iscsi.sessions.get(&params.session).cloned();
        let session = match known {
            Some(session) => session,
            None if params.discovery || params.luns.is_some() => {
                let session = Session::new(ctx, &mut params).shared();
                ctx.iscsi.sessions.insert(params.session, session.clone());
                session
            }
            None => return Err("its session is gone".into()),
        };
        let Phase::Login { mut link, .. } = std::mem::replace(&mut self.phase, Phase::Gone) else { return Ok(()) };
        link.out.head(|out| out.extend_from_slice(pdu));
        let joined = session.borrow_mut().join(ctx, *link, &params);
        match joined {
            Ok(at) => {
                self.phase = Phase::Full { session, at };
                Ok(())
            }
            Err(link) => {
                // Its socket stays open until nobody watches it any more: its number would be another's.
                self.phase = Phase::Login { link, asked: true };
                Err("too many connections in its session".into())
            }
        }
    }

    /// One of its tasks has ended.
    pub fn task_ended(&mut self, ctx: &mut Ctx, task: Task, request: Request, result: Result<(), Errno>) {
        let Phase::Full { session, at } = &self.phase else { unreachable!("tasks come in full feature phase") };
        session.clone().borrow_mut().task_ended(ctx, *at, task, request, result);
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self, ctx: &mut Ctx) -> Result<(), End> {
        match &mut self.phase {
            Phase::Login { link, .. } | Phase::Leaving { link, .. } => link.flush(ctx),
            Phase::Full { session, at } => session.borrow_mut().conn(*at).link.flush(ctx),
            Phase::Gone => Ok(()),
        }
    }

    /// Takes nothing more, and ends.
    pub fn close_gently(&mut self, ctx: &mut Ctx, why: &'static str) -> Result<(), End> {
        match self.session() {
            Some((session, at)) => {
                session.borrow_mut().conn(at).close(why, ctx.now_ms());
                Ok(())
            }
            None => Err(why.into()),
        }
    }

    /// Is nothing under way?
    pub fn is_quiet(&self) -> bool {
        match self.session() {
            Some((session, at)) => {
                let session = session.borrow();
                session.commands.iter().all(|(_, command)| command.in_flight == 0)
                    && session.conns.get(at).is_none_or(|conn| !conn.link.has_unsent())
            }
            None => true,
        }
    }

    /// Memory that it holds beside the pool's buffers.
    pub fn beside_buffers(&self) -> usize {
        match &self.phase {
            Phase::Login { link, .. } | Phase::Leaving { link, .. } => link.beside_buffers(),
            Phase::Full { session, at } => session.borrow().conns.get(*at).map_or(0, Conn::beside_buffers),
            Phase::Gone => 0,
        }
    }

    /// Tells the shard what it holds now. A login is bounded by itself.
    fn count_bytes(&mut self, ctx: &mut Ctx) {
        if self.is_established() {
            let now = self.beside_buffers();
            ctx.session_bytes = ctx.session_bytes + now - self.counted_bytes;
            self.counted_bytes = now;
        }
    }

    fn deadline_ms(&self, ctx: &Ctx) -> Option<(u64, Due)> {
        let limits = &ctx.limits;
        match &self.phase {
            Phase::Login { .. } => {
                let at_ms = (self.step_ms + limits.handshake_ms).min(self.started_ms + limits.login_total_ms);
                Some((at_ms, Due::Close("the login took too long")))
            }
            Phase::Leaving { since_ms, .. } => Some((since_ms + limits.linger_ms, Due::Close("closed"))),
            Phase::Full { session, at } => session.borrow().deadline_ms(ctx, *at),
            Phase::Gone => None,
        }
    }

    /// Sets a timer for the deadline, unless one that comes earlier is set already.
    fn arm(&mut self, ctx: &mut Ctx) {
        if let Some((at_ms, _)) = self.deadline_ms(ctx) {
            if at_ms < self.armed_ms {
                self.armed_ms = at_ms;
                ctx.timers.add(at_ms, Source::Conn(self.handle).token());
            }
        }
    }

    fn is_data_late(&self, ctx: &Ctx) -> bool {
        self.session().is_some_and(|(session, at)| session.borrow_mut().is_data_late(ctx, at))
    }

    fn is_ping_late(&self, ctx: &Ctx) -> bool {
        self.session().is_some_and(|(session, at)| session.borrow_mut().is_ping_late(ctx, at))
    }

    /// A timer of it came due.
    pub fn time_out(&mut self, ctx: &mut Ctx) -> Result<(), End> {
        self.armed_ms = u64::MAX;
        match self.deadline_ms(ctx) {
            Some((at_ms, Due::Close(why))) if at_ms <= ctx.now_ms() => return Err(why.into()),
            Some((at_ms, Due::Ping)) if at_ms <= ctx.now_ms() => {
                if let Some((session, at)) = self.session() {
                    session.clone().borrow_mut().ping(ctx, at);
                }
            }
            Some((at_ms, Due::Relief)) if at_ms <= ctx.now_ms() => {
                if let Some((session, _)) = self.session() {
                    session.clone().borrow_mut().relieve(ctx);
                }
            }
            Some((at_ms, Due::Room)) if at_ms <= ctx.now_ms() => {
                if let Some((session, _)) = self.session() {
                    session.clone().borrow_mut().try_again(ctx);
                }
                // What was due is due until it has had its turn, which sets the next timer: one that is set now would
                // be due at once, and the turn never come.
                return Ok(());
            }
            Some((at_ms, Due::Pong)) if at_ms <= ctx.now_ms() && self.is_ping_late(ctx) => {
                return Err("the initiator does not answer".into());
            }
            Some((at_ms, Due::Data)) if at_ms <= ctx.now_ms() && self.is_data_late(ctx) => {
                return Err("data that was asked for, or promised, did not come in time".into());
            }
            _ => {}
        }
        self.arm(ctx);
        Ok(())
    }

    /// Lets go of all that it has. The socket is closed with it.
    pub fn release(&mut self, ctx: &mut Ctx) {
        ctx.session_bytes -= std::mem::take(&mut self.counted_bytes);
        net::shutdown(self.fd, libc::SHUT_RDWR);
        let Phase::Full { session, at } = std::mem::replace(&mut self.phase, Phase::Gone) else { return };
        let mut session = session.borrow_mut();
        // Who has asked for that, and does not wait for the answer, has said goodbye, unless something is left to
        // wait for.
        let drained = || ctx.tasks.iter().all(|(_, task)| task.conn_id != self.id);
        let conn = session.conn(at);
        let orderly = conn.logged_out || conn.closes_itself() && drained();
        if session.leave(ctx, at) {
            ctx.iscsi.sessions.remove(&session.number);
            session.seek_no_more(ctx);
            ctx.iscsi.outgoing.push(Outgoing::Ended(session.number));
        } else if !orderly {
            // Level 0 recovers sessions, not connections (RFC 7143 7.1.4.4): the others end with it.
            session.close_all(ctx);
        }
    }

    /// As the control side sees it.
    pub fn status(&self) -> SessionStatus {
        let mut status = SessionStatus {
            conn: self.id,
            peer: self.peer.clone(),
            since: self.since,
            phase: "login",
            protocol: "iscsi",
            ..SessionStatus::default()
        };
        if let Some((session, at)) = self.session() {
            let session = session.borrow();
            status.phase = "full-feature";
            status.target.clone_from(&session.target);
            status.initiator.clone_from(&session.initiator);
            status.export.clone_from(&session.target);
            status.session = session.number;
            status.in_flight = session.in_flight(at) as u64;
            status.unsent_bytes = session.conns.get(at).map_or(0, |conn| conn.link.out.bytes()) as u64;
            // They are the session's: shown once, at its first connection, so that sums are right.
            if session.conns.iter().next().is_some_and(|(first, _)| first == at) {
                status.counts.clone_from(&session.counts);
            }
        }
        status
    }

    /// Its commands that the volume does not have.
    pub fn waiting_requests(&self, now_ns: u64, out: &mut Vec<TaskStatus>) {
        let Some((session, at)) = self.session() else { return };
        let session = session.borrow();
        let waiting = session.commands.iter().filter(|(_, command)| command.conn == at && command.in_flight == 0);
        out.extend(waiting.map(|(_, command)| TaskStatus {
            handle: command.name.map_or(0, |name| name.0 << crate::shard::shared::SHARD_BITS),
            conn: self.id,
            volume: command.volume(),
            export: command.lun.as_ref().map_or(String::new(), |lun| lun.attachment.export.clone()),
            op: crate::scsi::row::find(command.cdb.bytes()).map_or("unknown", |row| row.name),
            offset: 0,
            length: u64::from(command.expected_out.max(command.expected_in)),
            age_us: now_ns.saturating_sub(command.started_ns) / 1000,
            phase: command.phase(),
        }));
    }
}

/// Takes a whole Login Request off the front of `input`. `Err`: what is to be answered to anything else.
fn request(input: &mut Vec<u8>, data_bytes: usize) -> Result<Option<(Bhs, Vec<u8>)>, wire::Head> {
    let Some(bhs) = Bhs::at(input) else { return Ok(None) };
    let len = bhs.data_bytes();
    if bhs.opcode() != opcode::LOGIN || bhs.ahs_bytes() > 0 || len > data_bytes {
        return Err(wire::invalid_during_login(bhs.itt()));
    }
    let whole = BHS_BYTES + len + padding(len);
    if input.len() < whole {
        return Ok(None);
    }
    let data = input[BHS_BYTES..BHS_BYTES + len].to_vec();
    input.drain(..whole);
    if input.is_empty() {
        *input = Vec::new();
    }
    Ok(Some((bhs, data)))
}

fn receive(link: &mut Link, ctx: &Ctx) -> Result<bool, End> {
    if !link.readable {
        return Ok(false);
    }
    let mut bytes = [0; LOGIN_BYTES];
    match link.transport.recv(&mut bytes, &mut []) {
        Ok(0) => Err("closed by the initiator during login".into()),
        Ok(count) => {
            link.received_ms = ctx.now_ms();
            link.input.extend_from_slice(&bytes[..count]);
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            link.readable = false;
            Ok(false)
        }
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(lost(&error)),
    }
}
