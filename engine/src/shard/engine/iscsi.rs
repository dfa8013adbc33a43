//! The engine's calls for iSCSI; what each means is told in `_engine.pyi`.
//!
//! A connection, session or task that is gone is none of the caller's errors: such calls do nothing.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;

use super::{Control, Engine, Refused, Then};
use crate::iscsi::orders::Order;
use crate::iscsi::params::{LunMap, Mapped, Params};
use crate::iscsi::requests::{Message, TextReply};
use crate::iscsi::scope::{Abort, Scope};
use crate::iscsi::shard::Table;
use crate::scsi::canned::Canned;
use crate::shard::limits::PIECE_BYTES;
use crate::shard::mailbox::Mailbox;

/// A LUN map by handles of volumes.
#[derive(Clone, Debug, Default)]
pub struct LunMapSpec {
    /// (LUN field, volume, read-only).
    pub luns: Vec<(u64, u64, bool)>,
    pub report_luns: Canned,
    /// What a LUN begins with, by LUN field.
    pub attentions: HashMap<u64, u64>,
}

/// What is to be aborted. Tasks by Python's numbers.
#[derive(Clone, Debug, Default)]
pub struct AbortOrder {
    pub request: u64,
    /// 0: every volume.
    pub volume: u64,
    /// 0: every nexus.
    pub nexus: u64,
    /// This one alone; `None`: all that are in scope.
    pub task: Option<u64>,
    /// 0: none is left alone.
    pub except_task: u64,
    pub status: Option<u8>,
    pub cut: u64,
    /// 0: by whichever connection they came.
    pub conn: u64,
}

fn post(mailbox: Option<&Arc<Mailbox>>, order: Order) {
    if let Some(mailbox) = mailbox {
        mailbox.post_control(Control::Iscsi(order));
    }
}

/// Posts an order and waits until it is in force. A shard that has ended does not answer.
fn post_and_wait(mailbox: Option<&Arc<Mailbox>>, order: impl FnOnce(Sender<()>) -> Order) {
    let (done, told) = channel();
    post(mailbox, order(done));
    let _ = told.recv();
}

impl Engine {
    /// Sends a Login Response.
    pub fn login_reply(&self, conn: u64, pdu: Vec<u8>, then: Then) {
        post(self.shared.mailbox_of(conn), Order::LoginReply { conn, pdu, then });
    }

    /// Sends the last Login Response; full feature phase follows. `luns`: of a session's first connection.
    pub fn login_done(
        &self,
        conn: u64,
        pdu: Vec<u8>,
        mut params: Params,
        luns: Option<LunMapSpec>,
    ) -> Result<(), Refused> {
        let invalid = |text: &str| Err(Refused::new(libc::EINVAL, text));
        if params.terms.first_burst as usize > PIECE_BYTES {
            return invalid("FirstBurstLength is at most 256 KiB");
        }
        if u64::from(params.max_recv_data) > self.limits.pdu_data_bytes {
            return invalid("MaxRecvDataSegmentLength is above the limit pdu_data_bytes");
        }
        if params.max_send_data < 512 || params.max_recv_data < 512 || params.terms.max_burst < 512 {
            return invalid("lengths are at least 512 (RFC 7143 13.12, 13.13)");
        }
        let depth = self.limits.commands_per_session.saturating_sub(self.limits.immediate_commands).max(1);
        params.queue_depth = params.queue_depth.clamp(1, depth as u32);
        params.luns = luns.map(|luns| self.lun_map(luns)).transpose()?;
        let shard = self.shared.place_session(params.session, conn);
        post(self.shared.mailbox_of(conn), Order::LoginDone { conn, pdu, params: Box::new(params), shard });
        Ok(())
    }

    fn lun_map(&self, spec: LunMapSpec) -> Result<LunMap, Refused> {
        let mut luns = Vec::with_capacity(spec.luns.len());
        for (lun, volume, read_only) in spec.luns {
            let attentions = spec.attentions.get(&lun).copied().unwrap_or(0);
            luns.push(Mapped { lun, volume: self.volume(volume)?, read_only, attentions });
        }
        luns.sort_unstable_by_key(|mapped| mapped.lun);
        luns.dedup_by_key(|mapped| mapped.lun);
        Ok(LunMap { luns, report_luns: spec.report_luns })
    }

    /// Another LUN map for a session; returns when it is in force.
    pub fn set_luns(&self, session: u64, luns: LunMapSpec) -> Result<(), Refused> {
        let luns = self.lun_map(luns)?;
        let mailbox = self.shared.mailbox_of_session(session);
        post_and_wait(mailbox, |done| Order::SetLuns { session, luns, done });
        Ok(())
    }

    /// Sets unit attentions; returns when they are in force.
    pub fn attend(&self, session: u64, lun: Option<u64>, attentions: u64) {
        let mailbox = self.shared.mailbox_of_session(session);
        post_and_wait(mailbox, |done| Order::Attend { session, lun, attentions, done });
    }

    /// Ends a command that was handed up.
    pub fn complete(&self, task: u64, status: u8, data: Vec<u8>, sense: Vec<u8>) {
        post(self.shared.mailbox_of_task(task), Order::Complete { task, status, data, sense });
    }

    /// Lets one go on as if it had just come.
    pub fn resume(&self, task: u64) {
        post(self.shared.mailbox_of_task(task), Order::Resume { task });
    }

    /// Sends a Text Response.
    pub fn text_reply(&self, conn: u64, reply: TextReply) {
        post(self.shared.mailbox_of(conn), Order::TextReply { conn, reply });
    }

    /// Answers a logout; `closed`: the connection that it closes, 0: the session.
    pub fn logout_done(&self, conn: u64, closed: u64) {
        post(self.shared.mailbox_of(conn), Order::LogoutDone { conn, closed });
    }

    /// Rejects a PDU.
    pub fn reject(&self, conn: u64, bhs: Vec<u8>, reason: u8) {
        post(self.shared.mailbox_of(conn), Order::Reject { conn, bhs, reason });
    }

    /// Aborts what is in scope; an event tells when it is over.
    pub fn abort(&self, order: AbortOrder) {
        let volumes = if order.volume == 0 { Vec::new() } else { vec![order.volume] };
        let all = &self.shared.mailboxes;
        // One task is on the shard that its number names. The one that is to be left alone is named on its own.
        let only = order.task.and_then(|task| self.shared.mailbox_of_task(task));
        let except = Some(order.except_task).filter(|task| *task != 0);
        let except_at = except.and_then(|task| self.shared.mailbox_of_task(task));
        let make = |except, shards: &Arc<AtomicUsize>| Abort {
            request: order.request,
            scope: Scope { volumes: volumes.clone(), nexus: order.nexus },
            task: order.task.map(Table::name_of),
            except,
            status: order.status,
            cut: order.cut,
            conn: order.conn,
            shards: shards.clone(),
            lanes: self.shared.lanes.clone(),
        };
        let targets: Vec<&Arc<Mailbox>> = only.map_or_else(|| all.iter().collect(), |one| vec![one]);
        let shards = Arc::new(AtomicUsize::new(targets.len()));
        for mailbox in targets {
            let except = except.filter(|_| except_at.is_some_and(|at| Arc::ptr_eq(at, mailbox))).map(Table::name_of);
            post(Some(mailbox), Order::Abort(Arc::new(make(except, &shards))));
        }
    }

    /// What a task management function does to one volume is over.
    pub fn unit_done(&self, task: u64, volume: u64) {
        post(self.shared.mailbox_of_task(task), Order::UnitDone { task, volume });
    }

    /// Answers a task management function.
    pub fn management_done(&self, task: u64, response: u8) {
        post(self.shared.mailbox_of_task(task), Order::ManagementDone { task, response });
    }

    /// From now on nothing is started that a nexus has for a volume. Every shard is told: the nexus's session is
    /// not there yet, and may be on its way to any of them.
    pub fn hold(&self, volume: u64, nexus: u64) {
        self.shared.mailboxes.iter().for_each(|mailbox| post(Some(mailbox), Order::HoldNexus { volume, nexus }));
    }

    /// Ends such a hold.
    pub fn let_go(&self, volume: u64, nexus: u64) {
        self.shared.mailboxes.iter().for_each(|mailbox| post(Some(mailbox), Order::LetGo { volume, nexus }));
    }

    /// Sends an Asynchronous Message.
    pub fn async_message(&self, session: u64, message: Message) {
        post(self.shared.mailbox_of_session(session), Order::Message { session, message });
    }
}
