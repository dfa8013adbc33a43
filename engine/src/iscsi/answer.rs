//! How commands end: Data-In, status, sense, residual counts (RFC 7143 11.4, 11.7).

use super::command::{Command, Plan};
use super::commands::REPORT_LUNS;
use super::session::Session;
use super::wire::{self, DataIn};
use crate::backstores::file::mapped::MappedBytes;
use crate::scsi::command::{status, Answer, Media};
use crate::scsi::sense::SENSE_BYTES;
use crate::shard::buffers::IoBuf;
use crate::shard::context::Ctx;
use crate::shard::tasks::TaskHandle;

/// The next bytes of a READ.
pub(super) enum Piece {
    Buffer(IoBuf),
    /// Still in the page cache.
    Mapped(MappedBytes),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Buffer(buf) => buf.len(),
            Piece::Mapped(bytes) => bytes.len(),
        }
    }
}

impl Session {
    /// A command that succeeded without data for the initiator. `data_in`: what its CDB has for it.
    pub(super) fn end_good(&mut self, ctx: &mut Ctx, handle: TaskHandle, data_in: u64) {
        let Some(command) = self.remove(ctx, handle) else { return };
        self.count(ctx, &command, false);
        self.respond(ctx, &command, status::GOOD, data_in, &[]);
        self.leave_task_set(ctx, handle, &command);
    }

    /// A command that did not.
    pub(super) fn end_failed(&mut self, ctx: &mut Ctx, handle: TaskHandle, answer: Answer) {
        let Some(command) = self.remove(ctx, handle) else { return };
        self.count(ctx, &command, true);
        let mut bytes = [0; SENSE_BYTES];
        let len = answer.sense.map_or(0, |sense| sense.encode(descriptor_sense(&command), &mut bytes));
        // Of a READ that failed half way the initiator has what came before (RFC 7143 11.4.5.2).
        let sent = u64::from(command.pieces.sent);
        self.respond(ctx, &command, answer.status, sent, &bytes[..len]);
        if answer.status == status::CHECK_CONDITION {
            self.fail_others(ctx, &command);
        }
        self.leave_task_set(ctx, handle, &command);
    }

    /// One that was aborted: with a status, or in silence.
    pub(super) fn end_aborted(&mut self, ctx: &mut Ctx, handle: TaskHandle, status: Option<u8>) {
        match status {
            None => self.drop_command(ctx, handle),
            Some(status) => self.end_with(ctx, handle, status, &[], &[]),
        }
    }

    /// One whose data and sense are ready.
    pub(super) fn end_with(&mut self, ctx: &mut Ctx, handle: TaskHandle, status: u8, data: &[u8], sense: &[u8]) {
        let Some(mut command) = self.remove(ctx, handle) else { return };
        if status == status::GOOD && command.cdb.bytes()[0] == REPORT_LUNS {
            self.luns.are_reported();
        }
        if let Some(data_sn) = self.send_data(ctx, &command, status, data, sense) {
            command.pieces.data_sn = data_sn;
            let sent = u64::from(command.pieces.sent) + data.len() as u64;
            self.respond(ctx, &command, status, sent, sense);
        }
        if status == status::CHECK_CONDITION {
            self.fail_others(ctx, &command);
        }
        self.leave_task_set(ctx, handle, &command);
    }

    /// Sends ready data. `None`: with the status; else the status is to follow, after so many PDUs.
    fn send_data(&mut self, ctx: &mut Ctx, command: &Command, status: u8, data: &[u8], sense: &[u8]) -> Option<u32> {
        let residual = command.residuals(data.len() as u64).0;
        let data = &data[..data.len().min(command.expected_in as usize)];
        let at = command.conn;
        if data.is_empty() || self.conns.get(at).is_none() {
            return Some(0);
        }
        // What only a SCSI Response can tell: sense, and two residual counts.
        let collapsed = sense.is_empty() && status == status::GOOD && command.expected_out == 0;
        let most = self.conn(at).max_send_data.min(self.terms.max_burst as usize);
        let (mut data_sn, mut offset) = (0, 0);
        for part in data.chunks(most) {
            let last = offset + part.len() == data.len();
            let status = (collapsed && last).then_some((status, residual));
            let pdu = DataIn { itt: command.itt, data_sn, offset: offset as u32, last: true, status };
            let numbers = match status {
                Some(_) => self.take_numbers(ctx, at),
                None => self.numbers(ctx, at),
            };
            self.conn(at).send(&wire::data_in(&pdu, part.len(), numbers), part);
            data_sn += 1;
            offset += part.len();
        }
        self.kick(ctx, at);
        (!collapsed).then_some(data_sn)
    }

    /// SCSI Response.
    fn respond(&mut self, ctx: &mut Ctx, command: &Command, status: u8, data_in: u64, sense: &[u8]) {
        let at = command.conn;
        if self.conns.get(at).is_none() {
            return;
        }
        let (residual, read) = command.residuals(data_in);
        let numbers = self.take_numbers(ctx, at);
        let mut data = [0; 2 + SENSE_MAX];
        let len = sense.len().min(SENSE_MAX);
        data[..2].copy_from_slice(&(len as u16).to_be_bytes());
        data[2..2 + len].copy_from_slice(&sense[..len]);
        let data = if len == 0 { &[][..] } else { &data[..2 + len] };
        let sent = command.pieces.data_sn + command.inflow.r2t_count();
        let head = wire::scsi_response(command.itt, status, residual, read, sent, data.len(), numbers);
        self.conn(at).send(&head, data);
        self.kick(ctx, at);
    }

    /// Sends the next piece of a READ; with the last of them the status. True: the command has ended.
    pub(super) fn send_piece(&mut self, ctx: &mut Ctx, handle: TaskHandle, media: &Media, piece: Piece) -> bool {
        let command = self.commands.get_mut(handle).expect("its data is there");
        let (at, itt, volume) = (command.conn, command.itt, command.volume());
        let total = media.data_in.min(u64::from(command.expected_in)) as u32;
        let (len, start) = (piece.len(), command.pieces.sent);
        command.pieces.sent += len as u32;
        let ends = command.pieces.sent == total;
        let collapsed = ends && command.expected_out == 0;
        let status = collapsed.then(|| (status::GOOD, command.residuals(media.data_in).0));
        let mut data_sn = command.pieces.data_sn;
        let ended = if ends { self.remove(ctx, handle) } else { None };
        let (most, burst) = (self.conn(at).max_send_data, self.terms.max_burst as usize);
        let mapped = match piece {
            Piece::Buffer(buf) => {
                self.held -= buf.capacity();
                self.conn(at).link.out.lend(buf);
                None
            }
            Piece::Mapped(bytes) => Some(bytes),
        };
        let mut from = 0;
        while from < len {
            // Each piece is a sequence, or several of them where MaxBurstLength is less.
            let to = (from + most).min(len).min((from / burst + 1) * burst);
            let last = to == len;
            let status = status.filter(|_| last);
            let numbers = match status {
                Some(_) => self.take_numbers(ctx, at),
                None => self.numbers(ctx, at),
            };
            let sequence_ends = to % burst == 0 || last;
            let pdu = DataIn { itt, data_sn, offset: start + from as u32, last: sequence_ends, status };
            let head = wire::data_in(&pdu, to - from, numbers);
            match &mapped {
                Some(bytes) => self.conn(at).send_mapped(&head, volume, bytes.part(from..to)),
                None => self.conn(at).send_slice(&head, from..to, last),
            }
            data_sn += 1;
            from = to;
        }
        self.kick(ctx, at);
        match ended {
            Some(mut command) => {
                command.pieces.data_sn = data_sn;
                self.count(ctx, &command, false);
                if !collapsed {
                    self.respond(ctx, &command, status::GOOD, media.data_in, &[]);
                }
                self.leave_task_set(ctx, handle, &command);
                true
            }
            None => {
                self.commands.get_mut(handle).expect("it goes on").pieces.data_sn = data_sn;
                false
            }
        }
    }

    /// Books a command that the engine has executed, or refused to.
    fn count(&mut self, ctx: &mut Ctx, command: &Command, failed: bool) {
        let Some(lun) = &command.lun else { return };
        let (op, bytes) = match command.plan {
            Plan::Media(_, media) => (media.op, media.len),
            _ => return,
        };
        if !command.slow {
            return self.ended.push((lun.attachment.clone(), op, bytes, failed));
        }
        let latency_us = ctx.now_ns.get().saturating_sub(command.started_ns) / 1000;
        lun.attachment.counts.borrow_mut().count(op, bytes, failed, latency_us);
        self.counts.get_or_insert_default().count(op, bytes, failed, latency_us);
    }
}

/// The longest sense data (SPC-4 4.5.1: 252 bytes).
const SENSE_MAX: usize = 252;

/// D_SENSE of the unit, as its gate has it.
fn descriptor_sense(command: &Command) -> bool {
    let Some(lun) = &command.lun else { return false };
    let gate = lun.attachment.entry.gate.borrow();
    gate.as_ref().and_then(|gate| gate.scsi.as_ref()).is_some_and(|scsi| scsi.descriptor_sense)
}
