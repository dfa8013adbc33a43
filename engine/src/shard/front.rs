//! A shard's connections, whatever they speak.

use super::context::{Ctx, Task};
use super::link::{End, Turn};
use super::status::{SessionStatus, TaskStatus};
use crate::block::command::{Errno, Request};
use crate::iscsi::connection::Connection;
use crate::nbd::session::Session;

/// What a connection speaks.
pub enum Kind {
    Nbd(Session),
    Iscsi(Connection),
}

/// One connection in its shard's table.
pub struct Front {
    pub kind: Kind,
    /// In the shard's list of connections with something to do.
    pub queued: bool,
    /// In the shard's list of connections that wait for what others hold.
    pub starved: bool,
}

/// Calls the same on either kind.
macro_rules! either {
    ($front:expr, $one:ident => $call:expr) => {
        match $front {
            Kind::Nbd($one) => $call,
            Kind::Iscsi($one) => $call,
        }
    };
}

impl Front {
    /// A connection that has nothing to do yet.
    pub fn new(kind: Kind) -> Box<Self> {
        Box::new(Self { kind, queued: false, starved: false })
    }

    /// The NBD session, if it is one.
    pub fn nbd(&mut self) -> Option<&mut Session> {
        match &mut self.kind {
            Kind::Nbd(session) => Some(session),
            Kind::Iscsi(_) => None,
        }
    }

    /// The iSCSI connection, if it is one.
    pub fn iscsi(&mut self) -> Option<&mut Connection> {
        match &mut self.kind {
            Kind::Nbd(_) => None,
            Kind::Iscsi(connection) => Some(connection),
        }
    }

    /// The connection's number.
    pub fn id(&self) -> u64 {
        either!(&self.kind, one => one.id())
    }

    /// Its socket.
    pub fn fd(&self) -> i32 {
        either!(&self.kind, one => one.fd())
    }

    /// The poller's news.
    pub fn note_ready(&mut self, readable: bool, writable: bool) {
        either!(&mut self.kind, one => one.note_ready(readable, writable));
    }

    /// Does what can be done now. `Err`: the connection is over.
    pub fn turn(&mut self, ctx: &mut Ctx) -> Result<Turn, End> {
        either!(&mut self.kind, one => one.turn(ctx))
    }

    /// One of its tasks has ended.
    pub fn task_ended(
        &mut self,
        ctx: &mut Ctx,
        task: Task,
        request: Request,
        result: Result<(), Errno>,
    ) -> Result<(), End> {
        match &mut self.kind {
            Kind::Nbd(session) => session.task_ended(ctx, task, request, result),
            Kind::Iscsi(connection) => {
                connection.task_ended(ctx, task, request, result);
                Ok(())
            }
        }
    }

    /// A timer of it came due.
    pub fn time_out(&mut self, ctx: &mut Ctx) -> Result<(), End> {
        either!(&mut self.kind, one => one.time_out(ctx))
    }

    /// Answers what is in flight, then ends.
    pub fn close_gently(&mut self, ctx: &mut Ctx, why: &'static str) -> Result<(), End> {
        either!(&mut self.kind, one => one.close_gently(ctx, why))
    }

    /// Lets go of its buffers. The socket is closed with it.
    pub fn release(&mut self, ctx: &mut Ctx) {
        either!(&mut self.kind, one => one.release(ctx));
    }

    /// Is nothing under way?
    pub fn is_quiet(&self) -> bool {
        either!(&self.kind, one => one.is_quiet())
    }

    /// Is its handshake, or login, over? Then no event of it can be overtaken by its loss.
    pub fn is_established(&self) -> bool {
        match &self.kind {
            Kind::Nbd(session) => session.volume().is_some(),
            Kind::Iscsi(connection) => connection.is_established(),
        }
    }

    /// The one volume that it serves, if it is one.
    pub fn volume(&self) -> Option<u64> {
        match &self.kind {
            Kind::Nbd(session) => session.volume(),
            Kind::Iscsi(_) => None,
        }
    }

    /// Memory that it holds beside the pool's buffers.
    pub fn beside_buffers(&self) -> usize {
        either!(&self.kind, one => one.beside_buffers())
    }

    /// As the control side sees it.
    pub fn status(&self) -> SessionStatus {
        either!(&self.kind, one => one.status())
    }

    /// Appends what it is collecting, or has waiting.
    pub fn waiting_requests(&self, now_ns: u64, out: &mut Vec<TaskStatus>) {
        match &self.kind {
            Kind::Nbd(session) => out.extend(session.waiting_requests(now_ns)),
            Kind::Iscsi(connection) => connection.waiting_requests(now_ns, out),
        }
    }
}
