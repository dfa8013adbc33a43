//! Orders for iSCSI sessions, carried out by the shard that has them.

use std::cell::RefCell;
use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

use super::{Connection, Control, Event, Front, Kind, Outgoing, Reactor, Role, Source, TaskHandle};
use crate::iscsi::orders::Order;
use crate::iscsi::params::Params;
use crate::iscsi::scope::{Abort, Drain, Scope};
use crate::iscsi::session::Session;
use crate::iscsi::shard::{Named, Table};

impl Reactor {
    pub(super) fn obey_iscsi(&mut self, order: Order) {
        match order {
            Order::LoginReply { conn, pdu, then } => {
                self.with_session(conn, |front, ctx| {
                    front.iscsi().map_or(Ok(()), |connection| connection.login_reply(ctx, &pdu, then))
                });
            }
            Order::LoginDone { conn, pdu, params, shard } if shard == self.index => self.begin(conn, &pdu, params),
            Order::LoginDone { conn, pdu, params, shard } => self.depart(conn, pdu, params, shard),
            Order::Arrive(moving) => {
                let (id, fd) = (moving.id, moving.link.transport.fd());
                let mut login = None;
                let made = self.sessions.insert_with(|handle| {
                    let (connection, pdu, params) = Connection::arrived(*moving, handle, &self.ctx);
                    login = Some((pdu, params));
                    Front::new(Kind::Iscsi(connection))
                });
                let (Some(handle), Some((pdu, params))) = (made, login) else {
                    self.shared.forget_connection(id, self.index);
                    return self.ctx.lanes.post(Event::Lost { conn: id, reason: "too many connections".into() });
                };
                if self.settle(handle, id, fd) {
                    self.begin(id, &pdu, params);
                }
            }
            Order::SetLuns { session, luns, done } => {
                self.with_iscsi(session, |session, ctx| session.set_luns(ctx, luns));
                let _ = done.send(());
            }
            Order::Attend { session, lun, attentions, done } => {
                self.with_iscsi(session, |session, _| session.attend(lun, attentions));
                let _ = done.send(());
            }
            Order::Complete { task, status, data, sense } => {
                self.with_command(task, |session, ctx, command| session.complete(ctx, command, status, &data, &sense));
            }
            Order::Resume { task } => self.with_command(task, Session::resume),
            Order::TextReply { conn, reply } => {
                self.with_conn(conn, |session, ctx, at| session.text_reply(ctx, at, &reply));
            }
            Order::LogoutDone { conn, closed } => {
                self.with_conn(conn, |session, ctx, at| session.logout_done(ctx, at, closed));
            }
            Order::Reject { conn, bhs, reason } => {
                self.with_conn(conn, |session, ctx, at| session.reject_for(ctx, at, &bhs, reason));
            }
            Order::Message { session, message } => {
                self.with_iscsi(session, |session, ctx| session.message(ctx, &message));
            }
            Order::Abort(abort) => self.abort(abort),
            Order::ManagementDone { task, response } => self.management_done(task, response),
            Order::Hold(cut) => self.ctx.iscsi.hold(cut),
            Order::HoldNexus { volume, nexus } => self.ctx.iscsi.hold_nexus(volume, nexus),
            Order::LetGo { volume, nexus } => self.let_go(volume, nexus),
            Order::UnitDone { task, volume } => self.release_everywhere(task, Some(volume)),
            Order::Release { cut, volume } => self.release(cut, volume),
        }
        self.send_outgoing();
    }

    fn begin(&mut self, conn: u64, pdu: &[u8], params: Box<Params>) {
        let number = params.session;
        self.with_session(conn, |front, ctx| {
            front.iscsi().map_or(Ok(()), |connection| connection.begin(ctx, pdu, params))
        });
        if !self.ctx.iscsi.sessions.contains_key(&number) {
            self.shared.forget_session(number);
        }
    }

    /// A connection whose session is on another shard goes there.
    fn depart(&mut self, conn: u64, pdu: Vec<u8>, params: Box<Params>, shard: usize) {
        let Some(handle) = self.by_id.remove(&conn) else { return };
        let Some(front) = self.sessions.remove(handle) else { return };
        self.ctx.poller.remove(front.fd(), Source::Conn(handle));
        let Kind::Iscsi(connection) = front.kind else { return };
        self.shared.move_connection(conn, self.index, shard);
        match connection.depart(pdu, params) {
            Some(moving) => {
                debug_assert!(moving.link.transport.fd().as_raw_fd() >= 0);
                self.shared.mailboxes[shard].post_control(Control::Iscsi(Order::Arrive(moving)));
            }
            None => {
                self.shared.forget_connection(conn, shard);
                self.ctx.lanes.post(Event::Lost { conn, reason: "closed in login".into() });
            }
        }
    }

    fn with_iscsi(&mut self, session: u64, what: impl FnOnce(&mut Session, &mut super::Ctx)) {
        let session: Option<Rc<RefCell<Session>>> = self.ctx.iscsi.sessions.get(&session).cloned();
        if let Some(session) = session {
            what(&mut session.borrow_mut(), &mut self.ctx);
        }
    }

    /// The session of a connection in full feature phase.
    fn with_conn(&mut self, conn: u64, what: impl FnOnce(&mut Session, &mut super::Ctx, TaskHandle)) {
        self.with_session(conn, |front, ctx| {
            let Some(connection) = front.iscsi() else { return Ok(()) };
            if let Some((session, at)) = connection.session() {
                let session = session.clone();
                what(&mut session.borrow_mut(), ctx, at);
            }
            Ok(())
        });
    }

    /// The command that Python's number stands for. One that has ended is a counted no-op.
    fn with_command(&mut self, task: u64, what: impl FnOnce(&mut Session, &mut super::Ctx, TaskHandle) -> bool) {
        let name = Table::name_of(task);
        match self.ctx.iscsi.named.get(name) {
            Some(Named::Command { session, command }) => {
                let (session, command) = (*session, *command);
                self.with_iscsi(session, |session, ctx| {
                    what(session, ctx, command);
                });
            }
            Some(Named::Management { .. }) => {}
            None => drop(self.ctx.iscsi.named.remove(name)),
        }
    }

    /// Aborts what is in scope on this shard, and waits for what the volumes have of it.
    fn abort(&mut self, abort: Arc<Abort>) {
        let one = abort.task.map(|name| {
            self.ctx.iscsi.named.get(name).and_then(|named| match named {
                Named::Command { session, command } => Some((*session, *command)),
                Named::Management { .. } => None,
            })
        });
        self.settle_reads(&abort.scope);
        let mut tasks = self.tasks_in(&abort, one);
        if one != Some(None) {
            let sessions: Vec<_> = self.ctx.iscsi.sessions.values().cloned().collect();
            for session in sessions {
                let mut session = session.borrow_mut();
                match one.flatten() {
                    Some((number, _)) if number != session.number => {}
                    one => session.abort(&mut self.ctx, &abort, one.map(|(_, command)| command)),
                }
            }
        }
        self.withdraw(&mut tasks);
        self.ctx.drains.extend(Drain::new(abort, tasks));
    }

    /// READs in a scope that have left their task sets may still be sent out of mapped files: not of what is written
    /// there once an abort is over.
    fn settle_reads(&mut self, scope: &Scope) {
        for session in self.ctx.iscsi.sessions.values().cloned().collect::<Vec<_>>() {
            session.borrow_mut().settle_within(&mut self.ctx, scope);
        }
        for front in self.sessions.iter_mut() {
            // An NBD connection is a nexus of its own.
            if front.volume().is_some_and(|volume| scope.covers(volume, front.id())) {
                if let Some(session) = front.nbd() {
                    session.settle(&mut self.ctx);
                }
            }
        }
    }

    /// Tasks in an abort's scope.
    fn tasks_in(&self, abort: &Abort, one: Option<Option<(u64, TaskHandle)>>) -> HashSet<TaskHandle> {
        let except = abort.except.and_then(|name| match self.ctx.iscsi.named.get(name) {
            Some(Named::Command { session, command }) => Some((*session, *command)),
            _ => None,
        });
        let is = |task: &super::Task, which: (u64, TaskHandle)| {
            let nexus = self.ctx.iscsi.sessions.get(&which.0).map(|session| session.borrow().nexus);
            matches!(task.role, Role::Scsi { command } if command == which.1) && nexus == Some(task.nexus)
        };
        let inside = |task: &super::Task| match one {
            Some(None) => false,
            Some(Some(one)) => is(task, one),
            None => {
                abort.scope.covers(task.attachment.entry.volume.id(), task.nexus)
                    && abort.reaches(task.conn_id)
                    && except.is_none_or(|except| !is(task, except))
                    && !self.is_spared(abort, task)
            }
        };
        self.ctx.tasks.iter().filter(|(_, task)| inside(task)).map(|(handle, _)| handle).collect()
    }

    /// Is it a command's that the abort's cut does not reach?
    fn is_spared(&self, abort: &Abort, task: &super::Task) -> bool {
        let Role::Scsi { command } = task.role else { return false };
        let Some(session) = self.ctx.iscsi.session_of(abort.cut) else { return false };
        let session = session.borrow();
        let command = session.commands.get(command).filter(|_| session.nexus == task.nexus);
        command.is_some_and(|command| !self.ctx.iscsi.is_behind(abort.cut, session.number, command))
    }

    /// Takes back what waits for its range: it never begins. (NBD's requests are left to themselves.)
    fn withdraw(&mut self, tasks: &mut HashSet<TaskHandle>) {
        let waiting: Vec<TaskHandle> = tasks.iter().copied().collect();
        for handle in waiting {
            let Some(task) = self.ctx.tasks.get_mut(handle) else { continue };
            if !matches!(task.role, Role::Scsi { .. }) {
                continue;
            }
            let place = task.waiting.take();
            let request = match (task.stopped.take(), place) {
                (Some(request), _) => Some(request),
                (None, Some(place)) => task.attachment.entry.volume.withdraw(place),
                (None, None) => None,
            };
            if let Some(request) = request {
                tasks.remove(&handle);
                self.end(handle, request, Err(libc::ECANCELED));
            }
        }
    }

    fn management_done(&mut self, task: u64, response: u8) {
        let named = self.ctx.iscsi.named.remove(Table::name_of(task));
        if let Some(Named::Management { session, conn, itt, target }) = named {
            self.with_iscsi(session, |session, ctx| session.management_done(ctx, conn, itt, target, response));
            if target.is_some() {
                // It has been stopped without a cut, and is still there if it was not aborted.
                self.restart_stopped();
            }
        }
        // The cut has the function's number.
        self.release_everywhere(task, None);
    }

    /// By way of the shard that made the cut, which has told the others of it before.
    fn release_everywhere(&mut self, cut: u64, volume: Option<u64>) {
        self.release(cut, volume);
        for (index, mailbox) in self.shared.mailboxes.iter().enumerate() {
            if index != self.index {
                mailbox.post_control(Control::Iscsi(Order::Release { cut, volume }));
            }
        }
    }

    /// A cut is over, or one volume of it: what it held goes on.
    fn release(&mut self, cut: u64, volume: Option<u64>) {
        if !self.ctx.iscsi.release(cut, volume) {
            return;
        }
        let sessions: Vec<_> = self.ctx.iscsi.sessions.values().cloned().collect();
        for session in sessions {
            session.borrow_mut().released(&mut self.ctx);
        }
        self.restart_stopped();
    }

    /// Tasks that functions had stopped go on, unless others stop them still.
    fn restart_stopped(&mut self) {
        for handle in std::mem::take(&mut self.stopped) {
            if let Some(request) = self.ctx.tasks.get_mut(handle).and_then(|task| task.stopped.take()) {
                self.go_on(handle, request);
            }
        }
    }

    /// What was held back of a nexus at a volume goes on: none of it has been started.
    fn let_go(&mut self, volume: u64, nexus: u64) {
        self.ctx.iscsi.let_go(volume, nexus);
        let its = self.ctx.iscsi.sessions.values().filter(|session| session.borrow().nexus == nexus);
        for session in its.cloned().collect::<Vec<_>>() {
            session.borrow_mut().released(&mut self.ctx);
        }
    }

    /// Tells other shards, and Python, what sessions have left to be told.
    pub(super) fn send_outgoing(&mut self) {
        for outgoing in std::mem::take(&mut self.ctx.iscsi.outgoing) {
            match outgoing {
                Outgoing::Hold(cut) => {
                    for (index, mailbox) in self.shared.mailboxes.iter().enumerate() {
                        if index != self.index {
                            mailbox.post_control(Control::Iscsi(Order::Hold(cut.clone())));
                        }
                    }
                }
                Outgoing::Ended(session) => {
                    self.shared.forget_session(session);
                    self.ctx.lanes.post_urgent(Event::SessionEnded { session });
                }
            }
        }
    }
}
