//! Commands that the engine executes: cut into requests to the volume, and put together again.

use super::answer::Piece;
use super::command::{sense, Command, Plan};
use super::conn::Conn;
use super::full::is_full;
use super::session::Session;
use super::share::Lack;
use super::wire::attribute;
use crate::backstores::file::mapped::MAPPED_MIN;
use crate::block::command::{Errno, Op, Request, MAX_EXTENTS};
use crate::block::volume::Step;
use crate::nbd::replies::Asked;
use crate::scsi::command::{lba_status_descriptors, put_lba_status, unmap_spans, Answer, Media};
use crate::scsi::row::Action;
use crate::scsi::sense::Sense;
use crate::shard::buffers::{BufPool, IoBuf};
use crate::shard::context::{Ctx, RingJob, Role, Task};
use crate::shard::limits::PIECE_BYTES;
use crate::shard::mailbox::Completion;
use crate::shard::tasks::TaskHandle;

/// Most pieces of one command that are in flight at a time.
const WINDOW: usize = 4;
/// Extent vectors that a shard keeps for reuse.
const SPARE_EXTENTS: usize = 16;

/// How a command becomes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Pieces to the initiator.
    Read,
    /// Pieces from it.
    Write,
    /// One request, with all the data that there is.
    Whole,
}

pub(super) fn way(media: &Media) -> Way {
    match media.op {
        Op::Read => Way::Read,
        Op::Write | Op::OrWrite | Op::WriteVerify => Way::Write,
        Op::Verify if media.data_out == media.len && media.len > 0 => Way::Write,
        _ => Way::Whole,
    }
}

/// What came of giving a request to the volume.
pub(super) enum Submitted {
    Done(Request, Result<(), Errno>),
    /// It ends with this task.
    Pending(TaskHandle),
    /// The gate would not have it any more: the command's plan says so now.
    Refused,
    /// The lease has lapsed: the command ends without a status, and its connection after it.
    Fenced,
}

impl Session {
    /// Does the next thing for an enabled command that has been judged.
    pub(super) fn carry_out(&mut self, ctx: &mut Ctx, handle: TaskHandle) {
        let Some(command) = self.commands.get(handle) else { return };
        match command.plan {
            Plan::None => unreachable!("it has been judged"),
            Plan::Fail(answer) => {
                if !command.inflow.is_open() && command.in_flight == 0 {
                    self.end_in_error(ctx, handle, answer);
                }
            }
            Plan::HandUp(_) if command.wants() as usize > PIECE_BYTES => {
                self.refuse(ctx, handle, Answer::check(Sense::PARAMETER_LIST_LENGTH_ERROR));
            }
            Plan::HandUp(_) => {
                if self.collect(ctx, handle) {
                    self.hand_up(ctx, handle);
                }
            }
            Plan::Media(_, media) => match way(&media) {
                Way::Read => self.read(ctx, handle, &media),
                Way::Write => self.write(ctx, handle, &media),
                Way::Whole => self.whole(ctx, handle, &media),
            },
        }
    }

    /// From here on the command can only fail.
    pub(super) fn refuse(&mut self, ctx: &mut Ctx, handle: TaskHandle, answer: Answer) {
        if let Some(command) = self.commands.get_mut(handle) {
            command.fail(answer);
            self.carry_out(ctx, handle);
        }
    }

    /// Starts pieces of a READ, as far as there is room for them.
    fn read(&mut self, ctx: &mut Ctx, handle: TaskHandle, media: &Media) {
        loop {
            let Some(command) = self.commands.get(handle) else { return };
            let total = media.data_in.min(u64::from(command.expected_in)) as u32;
            if total == 0 {
                return self.end_good(ctx, handle, media.data_in);
            }
            if let Some(answer) = command.error {
                return self.refuse(ctx, handle, answer);
            }
            let started = command.pieces.started;
            if started == total || command.in_flight >= WINDOW {
                return;
            }
            let len = ((total - started) as usize).min(PIECE_BYTES);
            if self.waits_for_its_connection(command) || !self.has_room(ctx, handle, BufPool::cost(len)) {
                return self.queue(handle);
            }
            if self.read_mapped(ctx, handle, media, len) {
                continue;
            }
            let buf = self.take(ctx, len);
            self.commands.get_mut(handle).expect("looked at above").pieces.started += len as u32;
            let request = Request::with_buf(Op::Read, media.flags, media.offset + u64::from(started), buf);
            match self.submit(ctx, handle, request) {
                Submitted::Done(request, result) => self.request_ended(ctx, handle, request, result),
                Submitted::Pending(_) => {}
                Submitted::Refused => return self.carry_out(ctx, handle),
                Submitted::Fenced => return,
            }
        }
    }

    /// Is it a READ whose next piece has to wait until its connection has sent what waits there, or has another turn?
    pub(super) fn waits_for_its_connection(&self, command: &Command) -> bool {
        let reads = matches!(command.plan, Plan::Media(_, media) if way(&media) == Way::Read);
        let is_busy = |conn: &Conn| conn.is_clogged() || conn.turn_left == 0 && command.pieces.started > 0;
        reads && self.conns.get(command.conn).is_none_or(is_busy)
    }

    /// Answers with the next piece of a READ straight from the page cache, where that can be done: nothing
    /// of it is under way that has to be sent before, and no digest has to be made of it.
    fn read_mapped(&mut self, ctx: &mut Ctx, handle: TaskHandle, media: &Media, len: usize) -> bool {
        let command = self.commands.get(handle).expect("it is being carried out");
        let (started, at) = (command.pieces.started, command.conn);
        // Those behind an ORDERED or HEAD OF QUEUE task count on its being over when it has left the task set.
        let others_wait = matches!(command.attribute, attribute::ORDERED | attribute::HEAD_OF_QUEUE);
        if len < MAPPED_MIN
            || others_wait
            || media.flags.fua
            || command.pieces.sent != started
            || self.conn(at).data_digest
        {
            return false;
        }
        let Some(command) = self.commands.get(handle) else { return false };
        // What the gate has to say against it is said where the request is submitted.
        let Ok(generation) = self.recheck(command) else { return false };
        if ctx.is_fenced() {
            return false;
        }
        let lun = command.lun.clone().expect("media commands have a unit");
        let Some(bytes) = lun.attachment.entry.volume.map_read(media.offset + u64::from(started), len) else {
            return false;
        };
        let command = self.commands.get_mut(handle).expect("as above");
        command.generation = generation;
        command.pieces.started += len as u32;
        let conn = self.conn(at);
        conn.turn_left = conn.turn_left.saturating_sub(len);
        self.send_piece(ctx, handle, media, Piece::Mapped(bytes));
        true
    }

    /// Gives the pieces of a WRITE and its like to the volume, as their data is there.
    fn write(&mut self, ctx: &mut Ctx, handle: TaskHandle, media: &Media) {
        loop {
            let Some(command) = self.commands.get(handle) else { return };
            if let Some(answer) = command.error {
                return self.refuse(ctx, handle, answer);
            }
            let (wants, base) = (command.wants(), command.base);
            // A WRITE is done as far as its data goes; GOOD for a VERIFY says that all of it was compared.
            if media.op == Op::Verify && u64::from(wants) < media.data_out {
                return self.refuse(ctx, handle, Answer::check(sense::TOO_LITTLE_EXPECTED));
            }
            if base >= wants {
                if command.in_flight == 0 && !command.inflow.is_open() {
                    self.end_good(ctx, handle, 0);
                }
                return;
            }
            if command.in_flight >= WINDOW || command.shares_a_block(media) {
                return;
            }
            if !self.collect(ctx, handle) || !self.has_range(ctx, handle, media) {
                return;
            }
            let mut buf = self.take_collected(ctx, handle).expect("data is collected in a buffer");
            // One for a first burst may be less than a piece.
            let len = (wants - base).min(buf.len() as u32);
            buf.set_len(len as usize);
            let command = self.commands.get_mut(handle).expect("looked at above");
            command.base += len;
            let claim = command.claim.share();
            let offset = media.offset + u64::from(base);
            let request = Request { claim, ..Request::with_buf(media.op, media.flags, offset, buf) };
            match self.submit(ctx, handle, request) {
                Submitted::Done(request, result) => self.request_ended(ctx, handle, request, result),
                Submitted::Pending(_) => {}
                Submitted::Refused => return self.carry_out(ctx, handle),
                Submitted::Fenced => return,
            }
        }
    }

    /// A command of one request.
    fn whole(&mut self, ctx: &mut Ctx, handle: TaskHandle, media: &Media) {
        let command = self.commands.get(handle).expect("it is being carried out");
        if command.slow && (command.in_flight > 0 || command.base > 0) {
            return;
        }
        let wants = command.wants();
        // UNMAP makes do with the descriptors that come; the others need all of their data.
        if u64::from(wants) < media.data_out && media.op != Op::Unmap || wants as usize > PIECE_BYTES {
            return self.refuse(ctx, handle, Answer::check(sense::TOO_LITTLE_EXPECTED));
        }
        // Their data has one right length (SBC-3 5.3, 5.44): what an initiator sends beyond it shows
        // that it means another command, one of more blocks than the CDB can say, for example.
        let exact = matches!(media.action, Action::CompareAndWrite | Action::WriteSame);
        if exact && u64::from(command.expected_out) > media.data_out {
            return self.refuse(ctx, handle, Answer::check(Sense::INVALID_FIELD_IN_CDB));
        }
        if wants > 0 && !self.collect(ctx, handle) {
            return;
        }
        let command = self.commands.get(handle).expect("it is being carried out");
        if command.inflow.is_open() {
            return;
        }
        if !self.has_room(ctx, handle, 0) {
            return self.queue(handle);
        }
        let buf = if wants > 0 { self.take_collected(ctx, handle) } else { None };
        let buf = buf.map(|buf| buf.with_len(wants as usize));
        let request = match self.whole_request(ctx, handle, media, buf) {
            Ok(Some(request)) => request,
            Ok(None) => return self.end_good(ctx, handle, 0),
            Err(sense) => return self.refuse(ctx, handle, Answer::check(sense)),
        };
        match self.submit(ctx, handle, request) {
            Submitted::Done(request, result) => self.request_ended(ctx, handle, request, result),
            Submitted::Pending(task) => self.is_under_way(ctx, handle, media, task),
            Submitted::Fenced => {}
            Submitted::Refused => self.carry_out(ctx, handle),
        }
    }

    /// `None`: there is nothing to do.
    fn whole_request(
        &mut self,
        ctx: &mut Ctx,
        handle: TaskHandle,
        media: &Media,
        buf: Option<IoBuf>,
    ) -> Result<Option<Request>, Sense> {
        let mut request = match (media.op, buf) {
            (Op::Unmap, buf) => {
                let spans = self.spans(handle, buf.as_deref().unwrap_or(&[]));
                if let Some(buf) = buf {
                    self.give(ctx, buf);
                }
                let spans = spans?;
                return Ok((!spans.is_empty()).then(|| Request::unmap(spans)));
            }
            (Op::Flush, _) => Request::new(Op::Flush, media.flags, 0, 0),
            _ if media.len == 0 => return Ok(None),
            (Op::CompareAndWrite, Some(buf)) => Request::compare_and_write(media.flags, media.offset, buf),
            (_, buf) => Request { buf, ..Request::new(media.op, media.flags, media.offset, media.len) },
        };
        if media.op == Op::BlockStatus {
            request.extents = Some(ctx.extents.pop().unwrap_or_default());
        }
        Ok(Some(request))
    }

    fn spans(&self, handle: TaskHandle, list: &[u8]) -> Result<Vec<crate::block::command::Span>, Sense> {
        let lun = self.commands.get(handle).and_then(|command| command.lun.as_ref());
        let gate = lun.ok_or(Sense::NOT_READY)?.attachment.entry.gate.borrow();
        let gate = gate.as_ref().ok_or(Sense::NOT_READY)?;
        unmap_spans(list, gate.scsi.as_deref().ok_or(Sense::NOT_READY)?, gate.size)
    }

    /// Gives a request to the volume. The gate is asked once more: it may have changed since the command
    /// was judged.
    pub(super) fn submit(&mut self, ctx: &mut Ctx, handle: TaskHandle, request: Request) -> Submitted {
        if ctx.is_fenced() {
            if let Some(buf) = request.buf {
                self.give(ctx, buf);
            }
            self.abort_one(ctx, handle, None);
            return Submitted::Fenced;
        }
        let command = self.commands.get(handle).expect("it is being carried out");
        let checked = self.recheck(command);
        let (at, started_ns) = (command.conn, command.started_ns);
        let attachment = command.lun.as_ref().expect("media commands have a unit").attachment.clone();
        match checked {
            Ok(generation) => self.commands.get_mut(handle).expect("as above").generation = generation,
            Err(answer) => {
                if let Some(buf) = request.buf {
                    self.give(ctx, buf);
                }
                self.commands.get_mut(handle).expect("as above").fail(answer);
                return Submitted::Refused;
            }
        }
        let cost = request.buf.as_ref().map_or(0, IoBuf::capacity);
        let conn = self.conn(at);
        conn.turn_left = conn.turn_left.saturating_sub(cost);
        let asked = Asked { op: request.op, flags: request.flags, cookie: 0, offset: request.offset, len: request.len };
        let (conn, conn_id, nexus) = (conn.link.handle, conn.link.id, self.nexus);
        let role = Role::Scsi { command: handle };
        let (waiting, stopped, ring) = (None, None, None);
        let mut task =
            Some(Task { conn, conn_id, nexus, attachment, asked, role, started_ns, cost, waiting, stopped, ring });
        let volume = task.as_ref().expect("just made").attachment.entry.volume.clone();
        let (mailbox, ring, tasks) = (&ctx.mailbox, ctx.poller.has_ring(), &mut ctx.tasks);
        let mut insert = |ring: Option<RingJob>| {
            let task = Task { ring, ..task.take().expect("a request becomes one task") };
            task.attachment.entry.task_begins(cost);
            tasks.insert(task).ok().expect("room was checked before the request was started")
        };
        let mut made = None;
        let step = volume.start(request, ring, || {
            let handle = insert(None);
            made = Some(handle);
            Completion::new(mailbox.clone(), handle)
        });
        let ring_task = match step {
            Step::Done(request, result) => return Submitted::Done(request, result),
            Step::Pending => None,
            Step::Waiting(place) => {
                if let Some(task) = made.and_then(|handle| ctx.tasks.get_mut(handle)) {
                    task.waiting = Some(place);
                }
                None
            }
            Step::Ring(request, target) => Some(insert(Some(RingJob { request, target, done: 0 }))),
        };
        let command = self.commands.get_mut(handle).expect("as above");
        command.in_flight += 1;
        command.lent += cost;
        command.slow = true;
        if let Some(unit) = command.lun.clone() {
            self.count_lent(&unit, cost, 0);
        }
        if let Some(task) = ring_task {
            if let Err(errno) = ctx.run_ring(task) {
                return self.ring_refused(ctx, handle, task, errno);
            }
        }
        Submitted::Pending(ring_task.or(made).expect("one of them has been made"))
    }

    /// The ring did not take a task's I/O.
    fn ring_refused(&mut self, ctx: &mut Ctx, handle: TaskHandle, task: TaskHandle, errno: Errno) -> Submitted {
        let mut task = ctx.end_task(task).expect("it was just made");
        let job = task.ring.take().expect("a ring task");
        task.attachment.entry.volume.ring_done(&job.request, &Err(errno));
        self.taken_back(handle, task.cost);
        Submitted::Done(job.request, Err(errno))
    }

    /// The volume has one request less of a command.
    fn taken_back(&mut self, handle: TaskHandle, cost: usize) {
        let Some(command) = self.commands.get_mut(handle) else { return };
        command.in_flight -= 1;
        command.lent -= cost;
        if let Some(unit) = command.lun.clone() {
            self.count_lent(&unit, 0, cost);
        }
    }

    /// A task of one of its commands has ended.
    pub fn task_ended(
        &mut self,
        ctx: &mut Ctx,
        at: TaskHandle,
        task: Task,
        request: Request,
        result: Result<(), Errno>,
    ) {
        let Role::Scsi { command: handle } = task.role else { unreachable!("iSCSI makes no other tasks") };
        self.current = Some(at);
        match self.commands.get(handle) {
            Some(_) => {
                if request.buf.is_none() && task.cost > 0 {
                    // A back end that lost the request lost its buffer too.
                    self.held -= task.cost;
                    ctx.bufs.forget(task.cost);
                }
                self.taken_back(handle, task.cost);
                self.request_ended(ctx, handle, request, result);
                self.advance(ctx, handle);
            }
            None => {
                self.note_deferred(ctx, &task, result);
                drop_request(ctx, request, task.cost);
            }
        }
        self.current = None;
        self.count_ended(ctx);
    }

    /// A request of a command has ended, inline or later.
    pub(super) fn request_ended(
        &mut self,
        ctx: &mut Ctx,
        handle: TaskHandle,
        mut request: Request,
        result: Result<(), Errno>,
    ) {
        let permit = request.permit.take();
        let command = self.commands.get_mut(handle).expect("it waits for this");
        if command.takes_claim(&request, permit, result) {
            return;
        }
        let media = match command.plan {
            Plan::Media(_, media) => Some(media),
            _ => None,
        };
        if let Err(errno) = result {
            self.note_failure(handle, &request, errno);
        }
        let command = self.commands.get_mut(handle).expect("as above");
        let wanted = result.is_ok() && command.error.is_none() && command.aborted.is_none();
        let extents = request.extents.take();
        match (media, request.buf.take()) {
            (Some(media), Some(buf)) if wanted && request.op == Op::Read => {
                let index = (request.offset - media.offset - u64::from(command.pieces.sent)) / PIECE_BYTES as u64;
                return self.piece_read(ctx, handle, &media, index as usize, buf);
            }
            (_, Some(buf)) => self.give_or_keep(ctx, handle, buf),
            _ => {}
        }
        let command = self.commands.get(handle).expect("as above");
        if let Some(status) = command.aborted {
            if command.in_flight == 0 {
                self.end_aborted(ctx, handle, status);
            }
        } else if let Some(media) = media.filter(|media| way(media) == Way::Whole) {
            match (command.error, extents) {
                (Some(answer), _) if is_full(answer) => self.refuse(ctx, handle, answer),
                (Some(answer), _) => self.end_failed(ctx, handle, answer),
                (None, Some(extents)) => self.end_lba_status(ctx, handle, &media, extents),
                (None, None) => self.end_good(ctx, handle, 0),
            }
        }
    }

    /// A request of a command has failed: its first failure is told, with the first block of all that failed.
    fn note_failure(&mut self, handle: TaskHandle, request: &Request, errno: Errno) {
        let block_size = u64::from(self.provisioning(handle).0);
        let command = self.commands.get_mut(handle).expect("it waits for this");
        let lba = (request.offset + request.failed_at.unwrap_or(0)) / block_size;
        match (&mut command.plan, &mut command.error) {
            (Plan::Fail(first), _) | (_, Some(first)) => first.fail_from(lba),
            (Plan::Media(_, media), first) => {
                let information = match (errno, request.op) {
                    (libc::EILSEQ, _) => request.failed_at.map(|at| at + request.offset - media.offset),
                    // Of the whole volume, or of who knows which of its ranges.
                    (_, Op::Flush | Op::Unmap) => None,
                    _ => Some(lba),
                };
                *first = Some(Answer::of_errno(request.op, errno, information));
            }
            (Plan::None | Plan::HandUp(_), None) => {}
        }
    }

    /// A piece of a READ is there: sent if it is the next, else kept.
    fn piece_read(&mut self, ctx: &mut Ctx, handle: TaskHandle, media: &Media, index: usize, buf: IoBuf) {
        let command = self.commands.get_mut(handle).expect("it waits for this");
        let unit = command.lun.clone().expect("media commands have a unit");
        if index > 0 {
            self.count_lent(&unit, buf.capacity(), 0);
            return self.commands.get_mut(handle).expect("as above").pieces.keep(index, buf);
        }
        command.pieces.skip();
        let mut next = Some(buf);
        while let Some(buf) = next {
            if self.send_piece(ctx, handle, media, Piece::Buffer(buf)) {
                return;
            }
            next = self.commands.get_mut(handle).and_then(|command| command.pieces.take_next());
            self.count_lent(&unit, 0, next.as_ref().map_or(0, IoBuf::capacity));
        }
    }

    fn end_lba_status(
        &mut self,
        ctx: &mut Ctx,
        handle: TaskHandle,
        media: &Media,
        mut extents: Vec<crate::block::command::Extent>,
    ) {
        let most = lba_status_descriptors(media.data_in, MAX_EXTENTS);
        let (block_size, thin) = self.provisioning(handle);
        if !thin {
            // All blocks of a fully provisioned unit are mapped, whatever the file has (SBC-3 4.7.2).
            extents.iter_mut().for_each(|extent| extent.flags = 0);
        }
        let mut data = Vec::with_capacity(8 + 16 * most.min(extents.len()));
        put_lba_status(&mut data, &extents, media.lba, block_size, most);
        data.truncate(usize::try_from(media.data_in).unwrap_or(usize::MAX));
        if ctx.extents.len() < SPARE_EXTENTS {
            extents.clear();
            extents.shrink_to(64);
            ctx.extents.push(extents);
        }
        self.end_with(ctx, handle, crate::scsi::command::status::GOOD, &data, &[]);
    }

    /// The logical block length, bytes, and whether blocks can be given back.
    pub(super) fn provisioning(&self, handle: TaskHandle) -> (u32, bool) {
        let lun = self.commands.get(handle).and_then(|command| command.lun.as_ref());
        let gate = lun.map(|lun| lun.attachment.entry.gate.borrow());
        gate.and_then(|gate| gate.as_ref()?.scsi.as_ref().map(|scsi| (scsi.block_size, scsi.is_thin())))
            .unwrap_or((512, false))
    }

    /// Commands that wait for memory, for those before them, for their quota, or for a name, try again.
    pub(super) fn advance_waiting(&mut self, ctx: &mut Ctx) {
        while let Some(handle) = self.enabled.pop_front() {
            self.advance(ctx, handle);
        }
        while self.may_hand_up(ctx) {
            let Some(handle) = self.quota.pop_front() else { break };
            if let Some(command) = self.commands.get_mut(handle) {
                command.queued = false;
            }
            self.advance(ctx, handle);
        }
        self.advance_queued(ctx);
    }

    /// Those that wait for memory, the oldest first. The first that waits for what all of its session take from is
    /// the last that is tried: so none of them overtakes it for ever. What waits for something else keeps its place,
    /// and stands in the way of nobody but those that would take the same (see `is_behind`).
    fn advance_queued(&mut self, ctx: &mut Ctx) {
        self.starved = false;
        let mut place = 0;
        while let Some((_, handle)) = self.queued.get(place).copied() {
            let Some(command) = self.commands.get(handle) else {
                self.queued.remove(place);
                continue;
            };
            if self.waits_for_its_connection(command) {
                place += 1;
                continue;
            }
            self.queued.remove(place);
            self.commands.get_mut(handle).expect("looked at above").queued = false;
            self.advance(ctx, handle);
            if self.queued.get(place).is_none_or(|(_, waits)| *waits != handle) {
                continue;
            }
            if self.commands.get(handle).and_then(|command| command.lacks).is_some_and(Lack::is_common) {
                break;
            }
            place += 1;
        }
    }
}

/// What comes back for a command, or a connection, that is gone.
pub fn drop_request(ctx: &mut Ctx, mut request: Request, cost: usize) {
    request.permit = None;
    match request.buf.take() {
        Some(buf) => ctx.bufs.give(buf),
        None => ctx.bufs.forget(cost),
    }
}

impl Command {
    /// Has the volume all of it?
    pub fn is_submitted(&self) -> bool {
        self.in_flight > 0
    }
}
