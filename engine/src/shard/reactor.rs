//! A shard's loop: wait, take what has come, give every connection its turn, wait again.

use std::collections::HashMap;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::time::Duration;

use super::acceptor::{Accepted, Acceptor};
use super::context::{Ctx, RingJob, Role, Task};
use super::control::{Control, NewConn, Protocol};
use super::events::Event;
use super::front::{Front, Kind};
use super::mailbox::{Completion, News};
use super::poller::{Ready, Source};
use super::shared::Shared;
use super::status::{ExportCounters, ShardCounters, TaskStatus};
use super::tasks::{Slab, TaskHandle};
use crate::block::command::{Op, Outcome, Request};
use crate::block::gate::Refusal;
use crate::block::volume::Step;
use crate::iscsi::connection::Connection;
use crate::iscsi::execute::drop_request;
use crate::iscsi::orders::Order;
use crate::iscsi::session::Granted;
use crate::iscsi::shard::Outgoing;
use crate::nbd::admit::refusal;
use crate::nbd::link::{End, Turn};
use crate::nbd::requests::count_task;
use crate::nbd::session::Session;

mod orders;

/// Turns of all connections between two looks at what has come from outside.
const ROUND: usize = 64;

/// How often in a row waiting may fail, and the pause before it is tried again: ten seconds in all.
const WAIT_TRIES: u32 = 1000;
const WAIT_PAUSE: Duration = Duration::from_millis(10);

/// A shard. Lives in, and never leaves, its own thread.
pub struct Reactor {
    ctx: Ctx,
    sessions: Slab<Box<Front>>,
    /// Python and operators know connections by their numbers.
    by_id: HashMap<u64, TaskHandle>,
    acceptors: Slab<Acceptor>,
    shared: Arc<Shared>,
    index: usize,
    wakeups: u64,
    /// Who waits until all has been taken in that has come by now.
    settling: Vec<Sender<()>>,
    /// Tasks that functions have stopped, in the order in which they had their ranges. Some may have ended.
    stopped: Vec<TaskHandle>,
    /// When a stop must be over, milliseconds of the shard's clock.
    stop_at_ms: Option<u64>,
}

impl Reactor {
    /// A shard without connections.
    pub fn new(index: usize, mut ctx: Ctx, shared: Arc<Shared>) -> std::io::Result<Self> {
        let fd = ctx.mailbox.fd();
        ctx.poller.add(fd, Source::Mailbox, false)?;
        ctx.iscsi.index = index;
        let connections = ctx.limits.connections as usize;
        Ok(Self {
            ctx,
            sessions: Slab::new(connections),
            by_id: HashMap::new(),
            acceptors: Slab::new(1 << 16),
            shared,
            index,
            wakeups: 0,
            settling: Vec::new(),
            stopped: Vec::new(),
            stop_at_ms: None,
        })
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            // What came before them is found by the look at the poller that begins here.
            let settled = mem::take(&mut self.settling);
            self.wait(&mut ready, settled.is_empty());
            self.ctx.tick();
            for event in ready.drain(..) {
                self.take_ready(event);
            }
            self.take_completions();
            self.take_control();
            self.take_timers();
            self.take_kicked();
            self.take_turns();
            self.take_kicked();
            self.send_outgoing();
            self.wake_starved();
            for done in settled {
                let _ = done.send(());
            }
            self.check_lease();
            if self.stop_is_over() {
                break;
            }
        }
        self.shut_down();
    }

    fn wait(&mut self, ready: &mut Vec<Ready>, may_sleep: bool) {
        let now_ms = self.ctx.now_ms();
        let lease_ms = self.ctx.lease.left_ms(self.ctx.now_ns.get());
        let next_ms =
            [self.ctx.timers.next_in_ms(now_ms), self.stop_at_ms.map(|at| at.saturating_sub(now_ms)), lease_ms];
        // One more than the rest, so that a wake-up is never a little early.
        let mut timeout_ms = next_ms.into_iter().flatten().min().map(|ms| ms + 1);
        if !may_sleep || !self.ctx.ready.is_empty() || !self.ctx.mailbox.may_sleep() {
            timeout_ms = Some(0);
        }
        let mut tries = 0;
        while let Err(error) = self.ctx.poller.wait(timeout_ms, ready) {
            // Want of memory passes. An error that does not leaves nothing that could be waited on,
            // and EBADR says that completions are lost: the data plane cannot go on.
            tries += 1;
            let passes = tries < WAIT_TRIES && error.raw_os_error() != Some(libc::EBADR);
            assert!(passes, "shard {}: waiting failed: {error}", self.index);
            std::thread::sleep(WAIT_PAUSE);
        }
        self.ctx.mailbox.awake();
        self.wakeups += 1;
    }

    fn take_ready(&mut self, event: Ready) {
        match event {
            Ready::Fd { source: Source::Mailbox, .. } => self.ctx.mailbox.clear(),
            Ready::Fd { source: Source::Conn(handle), readable, writable } => {
                if let Some(session) = self.sessions.get_mut(handle) {
                    session.note_ready(readable, writable);
                    queue(session, handle, &mut self.ctx);
                }
            }
            Ready::Fd { source: Source::Listener(handle), .. } => self.accept(handle),
            Ready::Fd { source: Source::File(_), .. } => {}
            Ready::File { task, result } => self.take_ring_result(task, result),
        }
    }

    fn take_ring_result(&mut self, handle: TaskHandle, result: i32) {
        if let Some(result) = self.ctx.ring_result(handle, result) {
            self.end_ring(handle, result);
        }
    }

    fn end_ring(&mut self, handle: TaskHandle, result: Result<(), i32>) {
        let Some(mut task) = self.ctx.end_task(handle) else { return };
        let Some(mut job) = task.ring.take() else { return };
        if job.request.op == Op::Read && result.is_err() {
            job.request.failed_at = Some(job.done as u64);
        }
        task.attachment.entry.volume.ring_done(&job.request, &result);
        self.finish(task, job.request, result);
    }

    fn take_completions(&mut self) {
        while let Some(done) = self.ctx.mailbox.next_done() {
            match done.news {
                News::Ended(Outcome { request, result }) => self.end(done.task, request, result),
                News::Granted(request) => self.go_on(done.task, request),
            }
        }
    }

    fn end(&mut self, handle: TaskHandle, request: Request, result: Result<(), i32>) {
        // A task that is gone has ended before: its slot counts the late news.
        if let Some(task) = self.ctx.end_task(handle) {
            self.finish(task, request, result);
        }
    }

    /// A request has the range that it waited for, or may go on that was stopped when it had it. Its gate may be
    /// another one by now, or its connection gone: then it never begins.
    fn go_on(&mut self, handle: TaskHandle, mut request: Request) {
        let fenced = self.ctx.is_fenced();
        let Some(task) = self.ctx.tasks.get_mut(handle) else { return };
        task.waiting = None;
        let allowed = match (self.sessions.get_mut(task.conn), &task.role) {
            (Some(front), Role::Scsi { command }) => {
                let session = front.iscsi().and_then(|connection| connection.session());
                let granted =
                    session.map(|(session, _)| session.borrow_mut().granted(&self.ctx.iscsi, *command, fenced));
                match granted {
                    Some(Granted::Go) => Ok(()),
                    Some(Granted::Stop) => {
                        // The function may have to wait for others (NBD's), which wait for this range.
                        request.permit = None;
                        task.stopped = Some(request);
                        self.stopped.push(handle);
                        return;
                    }
                    Some(Granted::Never) | None => Err(libc::ECANCELED),
                }
            }
            (Some(_), _) if fenced => Err(libc::ESHUTDOWN),
            (Some(_), _) => check_gate(task),
            (None, _) => Err(libc::ECANCELED),
        };
        if let Err(errno) = allowed {
            return self.end(handle, request, Err(errno));
        }
        let (volume, mailbox) = (task.attachment.entry.volume.clone(), self.ctx.mailbox.clone());
        let (ring, done) = (self.ctx.poller.has_ring(), || Completion::new(mailbox, handle));
        let step = match request.permit {
            Some(_) => volume.resume(request, ring, done),
            None => volume.start(request, ring, done),
        };
        match step {
            Step::Done(request, result) => self.end(handle, request, result),
            Step::Pending => {}
            Step::Ring(request, target) => {
                task.ring = Some(RingJob { request, target, done: 0 });
                if let Err(errno) = self.ctx.run_ring(handle) {
                    self.end_ring(handle, Err(errno));
                }
            }
            Step::Waiting(place) => task.waiting = Some(place),
        }
    }

    /// The one end of a task: its connection answers, or, if that is gone, only the books are kept.
    fn finish(&mut self, task: Task, request: Request, result: Result<(), i32>) {
        let handle = task.conn;
        if let Some(session) = self.sessions.get_mut(handle) {
            match session.task_ended(&mut self.ctx, task, request, result) {
                Ok(()) => queue(session, handle, &mut self.ctx),
                Err(why) => self.lose(handle, &why),
            }
            return;
        }
        if let Role::Whole { .. } | Role::Scsi { .. } = task.role {
            count_task(&task.attachment, &self.ctx, &task.asked, result.is_err(), task.started_ns);
        }
        drop_request(&mut self.ctx, request, task.cost);
    }

    /// Once the lease has lapsed, NBD requests are answered ESHUTDOWN as they come. SCSI has no status that says so
    /// of a command which may have begun: commands end without one, and their connections are closed, so that
    /// initiators look for them elsewhere at once. (BUSY would keep them here.)
    fn check_lease(&mut self) {
        let fenced = self.ctx.is_fenced();
        if !self.ctx.saw_lapse.take() {
            return;
        }
        if fenced && self.ctx.lease.note_lapse(self.ctx.now_ns.get()) {
            self.ctx.lanes.post_urgent(Event::Fenced);
        }
        let carries_scsi = |front: &Front| matches!(&front.kind, Kind::Iscsi(conn) if conn.session().is_some());
        let found: Vec<_> =
            self.sessions.iter().filter(|(_, front)| carries_scsi(front)).map(|(handle, _)| handle).collect();
        for handle in found {
            self.lose(handle, &"the gateway's lease has lapsed".into());
        }
    }

    fn take_timers(&mut self) {
        let now_ms = self.ctx.now_ms();
        while let Some(token) = self.ctx.timers.pop_due(now_ms) {
            match Source::of_token(token) {
                Some(Source::Listener(handle)) => self.accept(handle),
                Some(Source::Conn(handle)) => {
                    let Some(session) = self.sessions.get_mut(handle) else { continue };
                    if let Err(why) = session.time_out(&mut self.ctx) {
                        self.lose(handle, &why);
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives those another try that waited for buffers or tasks which others held, once there
    /// is less taken than when they began to wait.
    fn wake_starved(&mut self) {
        if !self.ctx.may_feed() {
            return;
        }
        for handle in mem::take(&mut self.ctx.starved) {
            if let Some(session) = self.sessions.get_mut(handle) {
                session.starved = false;
                queue(session, handle, &mut self.ctx);
            }
        }
    }

    fn take_turns(&mut self) {
        for _ in 0..ROUND.min(self.ctx.ready.len()) {
            let Some(handle) = self.ctx.ready.pop_front() else { return };
            let Some(session) = self.sessions.get_mut(handle) else { continue };
            session.queued = false;
            match session.turn(&mut self.ctx) {
                Ok(Turn::More) => queue(session, handle, &mut self.ctx),
                Ok(Turn::Starved) if !session.starved => {
                    session.starved = true;
                    self.ctx.note_starved(handle);
                }
                Ok(Turn::Starved | Turn::Over) => {}
                Err(why) => self.lose(handle, &why),
            }
        }
    }

    fn take_kicked(&mut self) {
        while let Some(handle) = self.ctx.kicked.pop() {
            if let Some(session) = self.sessions.get_mut(handle) {
                queue(session, handle, &mut self.ctx);
            }
        }
    }

    /// A connection is over: Python is told, its tasks go on without it.
    fn lose(&mut self, handle: TaskHandle, why: &End) {
        let Some(mut session) = self.sessions.remove(handle) else { return };
        let established = session.is_established();
        self.ctx.poller.remove(session.fd(), Source::Conn(handle));
        session.release(&mut self.ctx);
        self.by_id.remove(&session.id());
        self.shared.forget_connection(session.id(), self.index);
        let lost = Event::Lost { conn: session.id(), reason: why.to_string() };
        // It must not overtake an event of its own connection; after the handshake there is none.
        match established {
            false => self.ctx.lanes.post(lost),
            true => self.ctx.lanes.post_urgent(lost),
        }
        self.send_outgoing();
    }

    fn accept(&mut self, handle: TaskHandle) {
        let Some(acceptor) = self.acceptors.get(handle) else { return };
        let again_in_ms = match acceptor.run(&self.shared) {
            Accepted::All => return,
            Accepted::More => 0,
            Accepted::Exhausted => self.ctx.limits.accept_pause_ms,
        };
        // Readiness has been told, and will not be told again: ask again by a timer.
        self.ctx.timers.add(self.ctx.now_ms() + again_in_ms, Source::Listener(handle).token());
    }

    fn adopt(&mut self, new: NewConn) {
        let (fd, id) = (new.fd.as_raw_fd(), new.id);
        let made = self.sessions.insert_with(|handle| {
            Front::new(match new.protocol {
                Protocol::Nbd => Kind::Nbd(Session::new(new, handle, &mut self.ctx)),
                Protocol::Iscsi => Kind::Iscsi(Connection::new(new, handle, &mut self.ctx)),
            })
        });
        match made {
            Some(handle) => {
                self.settle(handle, id, fd);
            }
            None => {
                self.shared.unload(self.index);
                self.ctx.lanes.forget_connection();
            }
        }
    }

    /// A connection is in the table: from now on it is watched. False: it is gone again.
    fn settle(&mut self, handle: TaskHandle, id: u64, fd: RawFd) -> bool {
        self.by_id.insert(id, handle);
        if let Err(error) = self.ctx.poller.add(fd, Source::Conn(handle), true) {
            self.lose(handle, &error.to_string().into());
            return false;
        }
        if self.stop_at_ms.is_some() {
            self.lose(handle, &"the server is being shut down".into());
            return false;
        }
        if let Some(session) = self.sessions.get_mut(handle) {
            queue(session, handle, &mut self.ctx);
        }
        true
    }

    /// Calls `what` on a connection and gives it its turn; a failure ends it.
    fn with_session(&mut self, conn: u64, what: impl FnOnce(&mut Front, &mut Ctx) -> Result<(), End>) -> bool {
        let Some(handle) = self.by_id.get(&conn).copied() else { return false };
        let Some(session) = self.sessions.get_mut(handle) else { return false };
        match what(session, &mut self.ctx) {
            Ok(()) => queue(session, handle, &mut self.ctx),
            Err(why) => self.lose(handle, &why),
        }
        true
    }

    fn take_control(&mut self) {
        while let Some(message) = self.ctx.mailbox.next_control() {
            self.obey(message);
        }
    }

    fn obey(&mut self, message: Control) {
        match message {
            Control::AddListener { id, fd, label, protocol } => {
                self.add_listener(Acceptor::new(id, fd, label, protocol))
            }
            Control::Iscsi(order) => self.obey_iscsi(order),
            Control::RemoveListener { id, done } => {
                self.remove_listener(|acceptor| acceptor.id() == id);
                let _ = done.send(());
            }
            Control::Adopt(new) => self.adopt(new),
            Control::Reply { conn, data, then } => {
                self.with_session(conn, |front, ctx| front.nbd().map_or(Ok(()), |it| it.reply(ctx, &data, then)));
            }
            Control::Transmit { conn, data, attach } => {
                self.with_session(conn, |front, ctx| front.nbd().map_or(Ok(()), |it| it.transmit(ctx, &data, attach)));
            }
            Control::Disconnect { conn, known } => {
                let was = self.with_session(conn, |front, ctx| {
                    // What it has been answered by now leaves first, as far as the socket takes it.
                    front.iscsi().map_or(Ok(()), |it| it.flush(ctx))?;
                    Err("disconnected by the operator".into())
                });
                let _ = known.send(was);
            }
            Control::SetGate { volume, gate, done } => {
                let entry = self.ctx.entry(&volume);
                let mut in_force = entry.gate.borrow_mut();
                if in_force.as_ref().is_none_or(|known| known.generation <= gate.generation) {
                    *in_force = Some(gate);
                }
                let _ = done.send(());
            }
            Control::DropVolume { volume, done } => {
                self.drop_volume(volume);
                let _ = done.send(());
            }
            Control::SetTls { config, done } => {
                self.ctx.tls = config;
                let _ = done.send(());
            }
            Control::Settle(done) => self.settling.push(done),
            Control::Sessions(answer) => {
                let _ = answer.send(self.sessions.iter().map(|(_, session)| session.status()).collect());
            }
            Control::Tasks(answer) => {
                let _ = answer.send(self.tasks());
            }
            Control::Counters(answer) => {
                let _ = answer.send((self.counters(), self.export_counters()));
            }
            // It has woken the shard, which is all.
            Control::Lease => {}
            Control::Stop { drain_ms } => self.stop(drain_ms),
        }
    }

    fn add_listener(&mut self, acceptor: Acceptor) {
        let raw = acceptor.fd();
        let Ok(handle) = self.acceptors.insert(acceptor) else { return };
        if self.ctx.poller.add(raw, Source::Listener(handle), false).is_ok() {
            self.accept(handle);
        }
    }

    fn remove_listener(&mut self, which: impl Fn(&Acceptor) -> bool) {
        let handles: Vec<_> =
            self.acceptors.iter().filter(|(_, acceptor)| which(acceptor)).map(|(handle, _)| handle).collect();
        for handle in handles {
            if let Some(acceptor) = self.acceptors.remove(handle) {
                self.ctx.poller.remove(acceptor.fd(), Source::Listener(handle));
            }
        }
    }

    fn drop_volume(&mut self, volume: u64) {
        if let Some(entry) = self.ctx.volumes.remove(&volume) {
            *entry.gate.borrow_mut() = None;
        }
        self.ctx.attachments.retain(|(id, _), _| *id != volume);
        self.close_gently(|session| session.volume() == Some(volume), "its volume is being closed");
    }

    fn close_gently(&mut self, which: impl Fn(&Front) -> bool, why: &'static str) {
        let handles: Vec<_> =
            self.sessions.iter().filter(|(_, session)| which(session)).map(|(handle, _)| handle).collect();
        for handle in handles {
            let Some(session) = self.sessions.get_mut(handle) else { continue };
            match session.close_gently(&mut self.ctx, why) {
                Ok(()) => queue(session, handle, &mut self.ctx),
                Err(why) => self.lose(handle, &why),
            }
        }
    }

    fn stop(&mut self, drain_ms: u64) {
        self.ctx.stopping = true;
        self.stop_at_ms = Some(self.ctx.now_ms() + drain_ms);
        self.remove_listener(|_| true);
        let handles: Vec<_> = self.sessions.iter().map(|(handle, _)| handle).collect();
        for handle in handles {
            if let Some(session) = self.sessions.get_mut(handle) {
                // What has arrived is read once more, and answered ESHUTDOWN.
                queue(session, handle, &mut self.ctx);
            }
        }
    }

    fn stop_is_over(&mut self) -> bool {
        let Some(at_ms) = self.stop_at_ms else { return false };
        if self.ctx.now_ms() >= at_ms {
            return true;
        }
        self.ctx.ready.is_empty()
            && self.ctx.tasks.is_empty()
            && self.sessions.iter().all(|(_, session)| session.is_quiet())
    }

    fn shut_down(mut self) {
        let handles: Vec<_> = self.sessions.iter().map(|(handle, _)| handle).collect();
        for handle in handles {
            self.lose(handle, &"the server was shut down".into());
        }
        self.remove_listener(|_| true);
        // Connections on their way here are dropped with the mailbox; they count as well.
        while let Some(message) = self.ctx.mailbox.next_control() {
            if let Control::Adopt(_) | Control::Iscsi(Order::Arrive(_)) = message {
                self.ctx.lanes.forget_connection();
            }
        }
        self.ctx.mailbox.close();
        if self.ctx.ring_in_flight > 0 {
            // The kernel may still write to these buffers: they must outlive the process's use of them.
            std::mem::forget(std::mem::replace(&mut self.ctx.tasks, Slab::new(0)));
        }
    }

    fn tasks(&self) -> Vec<TaskStatus> {
        let now_ns = self.ctx.now_ns.get();
        let running = self.ctx.tasks.iter().map(|(handle, task)| TaskStatus {
            handle: handle.0,
            conn: task.conn_id,
            volume: task.attachment.entry.volume.id(),
            export: task.attachment.export.clone(),
            op: task.asked.op.name(),
            offset: task.asked.offset,
            length: task.asked.len,
            age_us: now_ns.saturating_sub(task.started_ns) / 1000,
            phase: if task.waiting.is_some() { "waiting-range" } else { "submitted" },
        });
        let mut tasks: Vec<_> = running.collect();
        self.sessions.iter().for_each(|(_, session)| session.waiting_requests(now_ns, &mut tasks));
        tasks
    }

    fn counters(&self) -> ShardCounters {
        let sessions: usize = self.sessions.iter().map(|(_, session)| session.beside_buffers()).sum();
        ShardCounters {
            connections: self.sessions.len() as u64,
            tasks: self.ctx.tasks.len() as u64,
            queue_depth: self.ctx.mailbox.depth() as u64,
            ring_in_flight: self.ctx.ring_in_flight as u64,
            wakeups: self.wakeups,
            late_completions: self.ctx.tasks.stale() + self.ctx.iscsi.named.stale(),
            put_off: self.ctx.iscsi.put_off,
            buffer_bytes: (self.ctx.bufs.held_bytes() + sessions) as u64,
        }
    }

    fn export_counters(&self) -> Vec<ExportCounters> {
        let all = self.ctx.attachments.iter();
        all.map(|((volume, export), attachment)| ExportCounters {
            volume: *volume,
            export: export.clone(),
            counts: attachment.counts.borrow().clone(),
        })
        .collect()
    }
}

/// Does the gate still allow what a task asks? The errno is the one that its protocol answers.
fn check_gate(task: &Task) -> Result<(), i32> {
    let asked = &task.asked;
    let gate = task.attachment.entry.gate.borrow();
    let checked = match gate.as_ref() {
        Some(gate) => gate.check(task.conn_id, asked.op, asked.offset, asked.len),
        None => Err(Refusal::Closed),
    };
    // The protocol's errors have Linux' numbers.
    checked.map_err(|why| refusal(asked.op, why).error as i32)
}

fn queue(session: &mut Front, handle: TaskHandle, ctx: &mut Ctx) {
    if !session.queued {
        session.queued = true;
        ctx.ready.push_back(handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::events::Lanes;
    use crate::shard::limits::Limits;
    use crate::shard::mailbox::Mailbox;
    use crate::shard::poller::{open, FileIo, IoPath, Poller};
    use std::io;
    use std::os::fd::RawFd;

    /// A poller whose first waits fail.
    struct Failing {
        inner: Box<dyn Poller>,
        failures: u32,
    }

    impl Poller for Failing {
        fn name(&self) -> &'static str {
            self.inner.name()
        }
        fn add(&mut self, fd: RawFd, source: Source, write: bool) -> io::Result<()> {
            self.inner.add(fd, source, write)
        }
        fn remove(&mut self, fd: RawFd, source: Source) {
            self.inner.remove(fd, source);
        }
        fn has_ring(&self) -> bool {
            false
        }
        unsafe fn submit_file(&mut self, _: TaskHandle, _: FileIo) -> io::Result<()> {
            unreachable!("it has no ring")
        }
        fn wait(&mut self, timeout_ms: Option<u64>, out: &mut Vec<Ready>) -> io::Result<()> {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            self.inner.wait(timeout_ms, out)
        }
    }

    #[test]
    fn waiting_that_fails_for_a_while_is_tried_again() {
        let lanes = Arc::new(Lanes::new(1).unwrap());
        let mailbox = Mailbox::new(64).unwrap();
        let poller = Failing { inner: open(IoPath::Epoll).unwrap(), failures: 5 };
        let ctx = Ctx::new(Limits::default(), lanes.clone(), mailbox.clone(), Box::new(poller));
        let shared = Arc::new(Shared::new(lanes, vec![mailbox.clone()]));
        let reactor = Reactor::new(0, ctx, shared).unwrap();
        mailbox.post_control(Control::Stop { drain_ms: 0 });
        reactor.run();
    }
}
