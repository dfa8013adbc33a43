//! PDUs beside commands and their data: NOP, text, logout, reject, asynchronous messages, SNACK.

use super::conn::{Conn, Logout};
use super::session::{Session, SESSION_OVER};
use super::wire::{self, opcode, reason, Bhs, NO_TAG};
use crate::shard::context::Ctx;
use crate::shard::events::Event;
use crate::shard::link::End;
use crate::shard::net;
use crate::shard::tasks::TaskHandle;

/// Logout: reasons (11.14.1) and responses (11.15.1).
mod logout {
    pub const CLOSE_SESSION: u8 = 0;
    pub const CLOSE_CONNECTION: u8 = 1;
    pub const CLOSED: u8 = 0;
    pub const NO_SUCH_CID: u8 = 1;
    pub const NO_RECOVERY: u8 = 2;
}

/// The event of an Asynchronous Message: "target requests logout" (11.9.1).
const REQUEST_LOGOUT: u8 = 1;

/// An Asynchronous Message; see `async_message` in `_engine.pyi`.
#[derive(Debug)]
pub struct Message {
    pub lun: u64,
    pub event: u8,
    pub parameters: [u16; 3],
    pub sense: Vec<u8>,
}

/// A Text Response; see `text_reply` in `_engine.pyi`.
#[derive(Debug)]
pub struct TextReply {
    pub itt: u32,
    pub ttt: u32,
    pub last: bool,
    pub continued: bool,
    pub data: Vec<u8>,
    /// What the initiator takes in a data segment from this answer on, where it has said so anew.
    pub max_send_data: Option<u32>,
}

impl Session {
    /// A PDU whose turn has come.
    pub(super) fn deliver_other(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs, data: Vec<u8>) -> Result<(), End> {
        if self.conns.get(at).is_none() {
            return Ok(());
        }
        let tagged = matches!(bhs.opcode(), opcode::TASK_MANAGEMENT | opcode::TEXT | opcode::LOGOUT);
        if bhs.ahs_bytes() > 0 || tagged && bhs.itt() == NO_TAG {
            self.reject(ctx, at, bhs, reason::INVALID_FIELD);
            return Ok(());
        }
        match bhs.opcode() {
            opcode::NOP_OUT => self.nop_out(ctx, at, bhs, &data),
            opcode::TASK_MANAGEMENT => self.management(ctx, at, bhs),
            opcode::TEXT => self.text(ctx, at, bhs, data),
            opcode::LOGOUT => self.logout(ctx, at, bhs),
            // Level 0 has nothing to send again (11.16).
            opcode::SNACK => self.reject(ctx, at, bhs, reason::SNACK),
            _ => self.reject(ctx, at, bhs, reason::NOT_SUPPORTED),
        }
        Ok(())
    }

    /// Reject: with the header that it is about.
    pub(super) fn reject(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs, reason: u8) {
        let numbers = self.take_numbers(ctx, at);
        self.conn(at).send(&wire::reject(reason, numbers), &bhs.0);
        self.kick(ctx, at);
    }

    fn nop_out(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs, data: &[u8]) {
        // An answer to a ping of ours: that something came is all that was wanted.
        if bhs.itt() == NO_TAG {
            return;
        }
        let data = &data[..data.len().min(self.conn(at).max_send_data)];
        let numbers = self.take_numbers(ctx, at);
        self.conn(at).send(&wire::nop_in(bhs.itt(), NO_TAG, bhs.lun(), data.len(), numbers), data);
    }

    /// Asks the initiator whether it is there.
    pub fn ping(&mut self, ctx: &mut Ctx, at: TaskHandle) {
        self.pings = self.pings.wrapping_add(1) & 0x7fff_ffff;
        let ttt = self.pings;
        let numbers = self.numbers(ctx, at);
        let sent_ms = ctx.now_ms();
        let conn = self.conn(at);
        let acked = net::acknowledged(conn.link.transport.fd());
        conn.ping = Some(super::conn::Ping { ttt, sent_ms, acked });
        conn.send(&wire::nop_in(NO_TAG, ttt, 0, 0, numbers), &[]);
        self.wake(ctx, at);
    }

    /// Has a ping no answer although the initiator must have come to it? Not while it still takes, slowly, what
    /// was sent before; and when it has taken the last of that it gets the time once more.
    pub fn is_ping_late(&mut self, ctx: &Ctx, at: TaskHandle) -> bool {
        let conn = self.conn(at);
        let fd = conn.link.transport.fd();
        let Some(ping) = &mut conn.ping else { return false };
        let acked = net::acknowledged(fd);
        if ping.acked.is_none() || acked == ping.acked {
            return true;
        }
        (ping.sent_ms, ping.acked) = (ctx.now_ms(), acked);
        false
    }

    fn text(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs, data: Vec<u8>) {
        if self.conn(at).text.is_some() {
            return self.reject(ctx, at, bhs, reason::PROTOCOL);
        }
        let session = self.number;
        let conn = self.conn(at);
        conn.text = Some(*bhs);
        ctx.lanes.post(Event::Text(Text {
            conn: conn.link.id,
            session,
            itt: bhs.itt(),
            ttt: bhs.word20(),
            lun: bhs.lun(),
            last: bhs.is_final(),
            continued: bhs.bit6(),
            data,
        }));
    }

    /// Python's answer to a Text Request.
    pub fn text_reply(&mut self, ctx: &mut Ctx, at: TaskHandle, reply: &TextReply) {
        if self.conn(at).text.is_none_or(|bhs| bhs.itt() != reply.itt) {
            return;
        }
        self.conn(at).text = None;
        let numbers = self.take_numbers(ctx, at);
        let len = reply.data.len().min(self.conn(at).max_send_data);
        let head = wire::text_response(reply.itt, reply.ttt, reply.last, reply.continued, len, numbers);
        self.conn(at).send(&head, &reply.data[..len]);
        if let Some(bytes) = reply.max_send_data {
            // RFC 7143 13.12: not less than this; with 0 no data would ever leave.
            self.conn(at).max_send_data = bytes.max(512) as usize;
        }
        self.kick(ctx, at);
    }

    /// Python rejects a PDU: with its header, or the Text Request that waits.
    pub fn reject_for(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &[u8], reason: u8) {
        let waiting = self.conn(at).text;
        let bhs = Bhs::at(bhs).or(waiting);
        let Some(bhs) = bhs else { return };
        if waiting.is_some_and(|text| text.itt() == bhs.itt()) {
            self.conn(at).text = None;
        }
        self.reject(ctx, at, &bhs, reason);
    }

    fn logout(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs) {
        match bhs.low7() {
            logout::CLOSE_SESSION => self.logout_session(ctx, at, bhs),
            logout::CLOSE_CONNECTION => self.logout_connection(ctx, at, bhs),
            _ => self.logged_out(ctx, at, bhs.itt(), logout::NO_RECOVERY, Vec::new()),
        }
    }

    /// Python closes the session: what comes of the nexus's loss is in force before the initiator hears that it
    /// is over. It is told once by each connection.
    fn logout_session(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs) {
        match self.conn(at).logouts.iter().any(|asked| asked.cid.is_none()) {
            true => self.reject(ctx, at, bhs, reason::PROTOCOL),
            false => self.ask_logout(ctx, at, Logout { itt: bhs.itt(), cid: None, closes: 0 }),
        }
    }

    /// Closes one connection, this or another. Its commands are terminated (11.14.1), and what the volumes have of
    /// them is over before the initiator hears of it: what it then writes by another connection must not be
    /// overwritten by that.
    fn logout_connection(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs) {
        let cid = bhs.cid();
        let named = |conn: &Conn| conn.cid == cid && !conn.logged_out;
        let found = self.conns.iter().find(|(_, conn)| named(conn)).map(|(other, _)| other);
        let asks = |conn: &Conn| conn.logouts.iter().any(|asked| asked.cid == Some(cid));
        // Of one that is being closed nobody is told that it is not there: only that it is not over yet.
        let asked = self.conns.iter().any(|(by, conn)| (by == at || found.is_none()) && asks(conn));
        match found {
            _ if asked => self.reject(ctx, at, bhs, reason::PROTOCOL),
            None => self.logged_out(ctx, at, bhs.itt(), logout::NO_SUCH_CID, Vec::new()),
            Some(other) => {
                self.terminate(ctx, other, other == at);
                let closes = self.conn(other).link.id;
                self.ask_logout(ctx, at, Logout { itt: bhs.itt(), cid: Some(cid), closes });
            }
        }
    }

    /// Ends what a connection has under way, without answers. One that is closed by another is not read any more:
    /// what has not been acknowledged by now comes again on that one (7.2.2).
    fn terminate(&mut self, ctx: &mut Ctx, at: TaskHandle, itself: bool) {
        self.forget_early(ctx, at);
        let its: Vec<_> = self.commands.iter().filter(|(_, it)| it.conn == at).map(|(handle, _)| handle).collect();
        its.into_iter().for_each(|handle| self.abort_one(ctx, handle, None));
        if !itself {
            self.close_logged_out(ctx, at);
        }
    }

    /// Python sees to the end of what is closed.
    fn ask_logout(&mut self, ctx: &mut Ctx, at: TaskHandle, asked: Logout) {
        let session = self.number;
        let conn = self.conn(at);
        conn.logouts.push(asked);
        ctx.lanes.post(Event::Logout { conn: conn.link.id, session, closes: asked.closes });
    }

    /// What this connection has asked to close has nothing under way any more: answers, if it still waits for that.
    pub fn logout_done(&mut self, ctx: &mut Ctx, at: TaskHandle, closed: u64) {
        let Some(conn) = self.conns.get_mut(at) else { return };
        let Some(place) = conn.logouts.iter().position(|asked| asked.closes == closed) else { return };
        let asked = conn.logouts.remove(place);
        let closes = |conn: &Conn| asked.cid.is_none() || conn.link.id == closed;
        let closes = self.conns.iter().filter(|(_, conn)| closes(conn)).map(|(other, _)| other).collect();
        self.logged_out(ctx, at, asked.itt, logout::CLOSED, closes);
    }

    fn logged_out(&mut self, ctx: &mut Ctx, at: TaskHandle, itt: u32, response: u8, closes: Vec<TaskHandle>) {
        let numbers = self.take_numbers(ctx, at);
        self.conn(at).send(&wire::logout_response(itt, response, numbers), &[]);
        self.kick(ctx, at);
        closes.into_iter().for_each(|other| self.close_logged_out(ctx, other));
    }

    fn close_logged_out(&mut self, ctx: &mut Ctx, at: TaskHandle) {
        self.forget_early(ctx, at);
        let now_ms = ctx.now_ms();
        let conn = self.conn(at);
        conn.close("logged out", now_ms);
        conn.logged_out = true;
        self.kick(ctx, at);
    }

    /// Tells the initiator something that it did not ask for. To log out it is asked on each
    /// connection, since that holds for the one that it comes by (11.9.1).
    pub fn message(&mut self, ctx: &mut Ctx, message: &Message) {
        let open = self.conns.iter().filter(|(_, conn)| conn.closing.is_none()).map(|(at, _)| at);
        let wanted = if message.event == REQUEST_LOGOUT { usize::MAX } else { 1 };
        for at in open.take(wanted).collect::<Vec<_>>() {
            self.message_on(ctx, at, message);
        }
    }

    fn message_on(&mut self, ctx: &mut Ctx, at: TaskHandle, message: &Message) {
        let mut data = Vec::new();
        if !message.sense.is_empty() {
            data.extend_from_slice(&(message.sense.len() as u16).to_be_bytes());
            data.extend_from_slice(&message.sense);
        }
        let numbers = self.take_numbers(ctx, at);
        let head = wire::async_message(message.lun, message.event, message.parameters, data.len(), numbers);
        self.conn(at).send(&head, &data);
        self.kick(ctx, at);
    }

    /// Ends all its connections but one that is gone already.
    pub fn close_all(&mut self, ctx: &mut Ctx) {
        let now_ms = ctx.now_ms();
        let all: Vec<TaskHandle> = self.conns.iter().map(|(at, _)| at).collect();
        for at in all {
            self.conn(at).close(SESSION_OVER, now_ms);
            self.kick(ctx, at);
        }
    }
}

/// A Text Request on its way up; see `TextPdu` in `_engine.pyi`.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    pub conn: u64,
    pub session: u64,
    pub itt: u32,
    pub ttt: u32,
    pub lun: u64,
    pub last: bool,
    pub continued: bool,
    pub data: Vec<u8>,
}
