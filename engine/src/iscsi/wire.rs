//! PDUs as bytes (RFC 7143 section 11): basic header segments in and out. No I/O, no state.
//!
//! All integers are big-endian. Serial numbers wrap, see [`sn_lt`] (RFC 1982, 32 bits).

/// Bytes of a basic header segment.
pub const BHS_BYTES: usize = 48;
/// A tag that names nothing: "reserved value" of ITT and TTT.
pub const NO_TAG: u32 = 0xffff_ffff;

/// Opcodes (11.2.1.2).
pub mod opcode {
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI_RESPONSE: u8 = 0x21;
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;
}

/// Reasons of a Reject (11.17.1).
pub mod reason {
    pub const DATA_DIGEST: u8 = 0x02;
    pub const SNACK: u8 = 0x03;
    pub const PROTOCOL: u8 = 0x04;
    pub const NOT_SUPPORTED: u8 = 0x05;
    pub const TOO_MANY_IMMEDIATE: u8 = 0x06;
    pub const TASK_IN_PROGRESS: u8 = 0x07;
    pub const INVALID_FIELD: u8 = 0x09;
    /// "Long op reject": to be sent again later.
    pub const OUT_OF_RESOURCES: u8 = 0x0a;
}

/// Task management functions (11.5.1).
pub mod function {
    pub const ABORT_TASK: u8 = 1;
    pub const ABORT_TASK_SET: u8 = 2;
    pub const CLEAR_ACA: u8 = 3;
    pub const CLEAR_TASK_SET: u8 = 4;
    pub const LOGICAL_UNIT_RESET: u8 = 5;
    pub const TARGET_WARM_RESET: u8 = 6;
    pub const TARGET_COLD_RESET: u8 = 7;
    pub const TASK_REASSIGN: u8 = 8;
}

/// Responses to them (11.6.1).
pub mod response {
    pub const COMPLETE: u8 = 0;
    pub const NO_SUCH_TASK: u8 = 1;
    pub const NO_SUCH_LUN: u8 = 2;
    pub const NO_REASSIGN: u8 = 4;
    pub const NOT_SUPPORTED: u8 = 5;
    pub const REJECTED: u8 = 255;
}

/// Task attributes (11.3.1).
pub mod attribute {
    pub const ORDERED: u8 = 2;
    pub const HEAD_OF_QUEUE: u8 = 3;
    pub const ACA: u8 = 4;
}

/// Does `a` come before `b` (4.2.2.1, serial number arithmetic)?
pub fn sn_lt(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A received header. What its fields mean depends on the opcode; which ones there are to ask
/// for is the caller's to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bhs(pub [u8; BHS_BYTES]);

impl Bhs {
    /// The header at the front of `bytes`; `None`: not all of it is there.
    pub fn at(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|bytes| Self(*bytes))
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    pub fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// Delivered at once, whatever its CmdSN.
    pub fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// F: the last of its sequence.
    pub fn is_final(&self) -> bool {
        self.0[1] & 0x80 != 0
    }

    /// Text Request: C. SCSI Command: R, data is expected.
    pub fn bit6(&self) -> bool {
        self.0[1] & 0x40 != 0
    }

    /// SCSI Command: W, data comes.
    pub fn writes(&self) -> bool {
        self.0[1] & 0x20 != 0
    }

    /// SCSI Command: ATTR.
    pub fn attribute(&self) -> u8 {
        self.0[1] & 7
    }

    /// Task management: the function. Logout: the reason.
    pub fn low7(&self) -> u8 {
        self.0[1] & 0x7f
    }

    /// Bytes of additional header segments: at most 1020.
    pub fn ahs_bytes(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// Bytes of the data segment, padding apart.
    pub fn data_bytes(&self) -> usize {
        self.u32(4) as usize & 0xff_ffff
    }

    /// The 8-byte LUN field.
    pub fn lun(&self) -> u64 {
        u64::from(self.u32(8)) << 32 | u64::from(self.u32(12))
    }

    /// Initiator Task Tag.
    pub fn itt(&self) -> u32 {
        self.u32(16)
    }

    /// Target Transfer Tag; task management: Referenced Task Tag; SCSI Command: Expected Data
    /// Transfer Length.
    pub fn word20(&self) -> u32 {
        self.u32(20)
    }

    /// Logout: CID.
    pub fn cid(&self) -> u16 {
        self.u16(20)
    }

    /// CmdSN (requests but Data-Out and SNACK).
    pub fn cmd_sn(&self) -> u32 {
        self.u32(24)
    }

    pub fn exp_stat_sn(&self) -> u32 {
        self.u32(28)
    }

    /// Task management: RefCmdSN.
    pub fn ref_cmd_sn(&self) -> u32 {
        self.u32(32)
    }

    /// Data-Out: DataSN.
    pub fn data_sn(&self) -> u32 {
        self.u32(36)
    }

    /// Data-Out: Buffer Offset.
    pub fn buffer_offset(&self) -> u32 {
        self.u32(40)
    }

    /// SCSI Command: the first 16 bytes of the CDB.
    pub fn cdb(&self) -> [u8; 16] {
        *self.0[32..].first_chunk().expect("16 bytes are left")
    }
}

/// Padding behind a segment of `len` bytes (11.1: to four).
pub const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// What every header to an initiator carries of its session and connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
}

/// A header to an initiator under construction.
#[derive(Clone, Copy, Debug)]
pub struct Head(pub [u8; BHS_BYTES]);

impl Head {
    /// With the fields that all have in their place.
    pub fn new(opcode: u8, flags: u8, data_bytes: usize, itt: u32, numbers: Numbers) -> Self {
        debug_assert!(data_bytes < 1 << 24);
        let mut head = Self([0; BHS_BYTES]);
        head.0[0] = opcode;
        head.0[1] = flags;
        head.put(4, data_bytes as u32);
        head.put(16, itt);
        head.put(24, numbers.stat_sn);
        head.put(28, numbers.exp_cmd_sn);
        head.put(32, numbers.max_cmd_sn);
        head
    }

    fn put(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    #[must_use]
    fn with(mut self, at: usize, value: u32) -> Self {
        self.put(at, value);
        self
    }

    #[must_use]
    fn with_byte(mut self, at: usize, value: u8) -> Self {
        self.0[at] = value;
        self
    }

    #[must_use]
    fn with_lun(mut self, lun: u64) -> Self {
        self.0[8..16].copy_from_slice(&lun.to_be_bytes());
        self
    }
}

/// How much less, or more, than expected was moved (11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residual {
    /// O: the command had this much more.
    pub over: u32,
    /// U: this much of what was expected was not moved.
    pub under: u32,
}

impl Residual {
    /// Of `expected` bytes a command that has `has` to move.
    pub fn of(expected: u32, has: u64) -> Self {
        let has = has.min(u64::from(u32::MAX)) as u32;
        Self { over: has.saturating_sub(expected), under: expected.saturating_sub(has) }
    }

    fn flags(self) -> u8 {
        if self.over > 0 {
            4
        } else if self.under > 0 {
            2
        } else {
            0
        }
    }

    fn count(self) -> u32 {
        self.over.max(self.under)
    }
}

/// SCSI Response (11.4): command completed at target. `read`: of a bidirectional command.
pub fn scsi_response(
    itt: u32,
    status: u8,
    residual: Residual,
    read: Residual,
    exp_data_sn: u32,
    data_bytes: usize,
    n: Numbers,
) -> Head {
    let flags = 0x80 | residual.flags() | read.flags() << 2;
    Head::new(opcode::SCSI_RESPONSE, flags, data_bytes, itt, n)
        .with_byte(3, status)
        .with(36, exp_data_sn)
        .with(40, read.count())
        .with(44, residual.count())
}

/// What a Data-In says beside its data.
#[derive(Clone, Copy, Debug)]
pub struct DataIn {
    pub itt: u32,
    pub data_sn: u32,
    pub offset: u32,
    /// F: the end of a sequence (or burst).
    pub last: bool,
    /// S: the command's status, and its residual.
    pub status: Option<(u8, Residual)>,
}

/// Data-In (11.7). StatSN counts with a status only, and is 0 without.
pub fn data_in(pdu: &DataIn, data_bytes: usize, n: Numbers) -> Head {
    let last = if pdu.last { 0x80 } else { 0 };
    let (flags, status, residual) = match pdu.status {
        Some((status, residual)) => (last | 1 | residual.flags(), status, residual.count()),
        None => (last, 0, 0),
    };
    let n = Numbers { stat_sn: if pdu.status.is_some() { n.stat_sn } else { 0 }, ..n };
    Head::new(opcode::DATA_IN, flags, data_bytes, pdu.itt, n)
        .with_byte(3, status)
        .with(20, NO_TAG)
        .with(36, pdu.data_sn)
        .with(40, pdu.offset)
        .with(44, residual)
}

/// Ready To Transfer (11.8); StatSN is the next one, and does not advance.
pub fn r2t(itt: u32, lun: u64, ttt: u32, r2t_sn: u32, offset: u32, len: u32, n: Numbers) -> Head {
    Head::new(opcode::R2T, 0x80, 0, itt, n).with_lun(lun).with(20, ttt).with(36, r2t_sn).with(40, offset).with(44, len)
}

/// Task Management Function Response (11.6).
pub fn management_response(itt: u32, response: u8, n: Numbers) -> Head {
    Head::new(opcode::TASK_MANAGEMENT_RESPONSE, 0x80, 0, itt, n).with_byte(2, response)
}

/// NOP-In (11.19): an answer (`itt` of the ping), or a ping of our own (`ttt`).
pub fn nop_in(itt: u32, ttt: u32, lun: u64, data_bytes: usize, n: Numbers) -> Head {
    Head::new(opcode::NOP_IN, 0x80, data_bytes, itt, n).with_lun(lun).with(20, ttt)
}

/// Text Response (11.11).
pub fn text_response(itt: u32, ttt: u32, last: bool, continued: bool, data_bytes: usize, n: Numbers) -> Head {
    let flags = u8::from(last) << 7 | u8::from(continued) << 6;
    Head::new(opcode::TEXT_RESPONSE, flags, data_bytes, itt, n).with(20, ttt)
}

/// Logout Response (11.15). Time2Wait and Time2Retain are 0: nothing is kept (level 0).
pub fn logout_response(itt: u32, response: u8, n: Numbers) -> Head {
    Head::new(opcode::LOGOUT_RESPONSE, 0x80, 0, itt, n).with_byte(2, response)
}

/// Reject (11.17); the rejected header is its data.
pub fn reject(reason: u8, n: Numbers) -> Head {
    Head::new(opcode::REJECT, 0x80, BHS_BYTES, NO_TAG, n).with_byte(2, reason)
}

/// Asynchronous Message (11.9).
pub fn async_message(lun: u64, event: u8, parameters: [u16; 3], data_bytes: usize, n: Numbers) -> Head {
    let [p1, p2, p3] = parameters.map(u32::from);
    Head::new(opcode::ASYNC, 0x80, data_bytes, NO_TAG, n)
        .with_lun(lun)
        .with(36, u32::from(event) << 24 | p1)
        .with(40, p2 << 16 | p3)
}

/// A Login Response that refuses: "invalid during login", as the RFC wants it of any other PDU
/// that comes before full feature phase (11.13.5, 6.3.1).
pub fn invalid_during_login(itt: u32) -> Head {
    let n = Numbers { stat_sn: 0, exp_cmd_sn: 0, max_cmd_sn: 0 };
    Head::new(opcode::LOGIN_RESPONSE, 0, 0, itt, n).with_byte(36, 2).with_byte(37, 0x0b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: Numbers = Numbers { stat_sn: 0x0102_0304, exp_cmd_sn: 5, max_cmd_sn: 0x85 };

    #[test]
    fn a_command_is_read_field_by_field() {
        #[rustfmt::skip]
        let bytes = [
            0x41, 0xa1, 0, 0,  1, 0, 2, 0,             // immediate, F W SIMPLE; AHS of 4 bytes, 512 of data
            0, 1, 0, 0, 0, 0, 0, 0,                    // LUN 1
            0x11, 0x22, 0x33, 0x44, 0, 0, 4, 0,        // ITT, 1024 bytes expected
            0, 0, 0, 7, 0, 0, 0, 9,                    // CmdSN, ExpStatSN
            0x2a, 0, 0, 0, 0, 8, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
        ];
        let bhs = Bhs::at(&bytes).unwrap();
        assert_eq!((bhs.opcode(), bhs.is_immediate()), (opcode::SCSI_COMMAND, true));
        assert_eq!((bhs.is_final(), bhs.bit6(), bhs.writes(), bhs.attribute()), (true, false, true, 1));
        assert_eq!((bhs.ahs_bytes(), bhs.data_bytes()), (4, 512));
        assert_eq!((bhs.lun(), bhs.itt(), bhs.word20()), (1 << 48, 0x1122_3344, 1024));
        assert_eq!((bhs.cmd_sn(), bhs.exp_stat_sn(), bhs.cdb()[0]), (7, 9, 0x2a));
        assert_eq!(Bhs::at(&bytes[..47]), None);
    }

    #[test]
    fn a_data_out_and_a_management_request_are_read() {
        let mut bytes = [0; 48];
        bytes[0] = 0x05;
        bytes[1] = 0x80;
        bytes[20..24].copy_from_slice(&[0, 0, 0, 3]);
        bytes[36..44].copy_from_slice(&[0, 0, 0, 2, 0, 0, 0x10, 0]);
        let bhs = Bhs(bytes);
        assert_eq!((bhs.word20(), bhs.data_sn(), bhs.buffer_offset()), (3, 2, 4096));
        bytes[0] = 0x42;
        bytes[1] = 0x85;
        bytes[32..36].copy_from_slice(&[0, 0, 0, 6]);
        let bhs = Bhs(bytes);
        assert_eq!((bhs.low7(), bhs.ref_cmd_sn(), bhs.is_immediate()), (5, 6, true));
    }

    #[test]
    fn a_data_in_with_status_is_laid_out_as_the_standard_says() {
        let pdu = DataIn {
            itt: 7,
            data_sn: 1,
            offset: 8192,
            last: true,
            status: Some((0, Residual { over: 0, under: 0x100 })),
        };
        #[rustfmt::skip]
        assert_eq!(data_in(&pdu, 4096, N).0, [
            0x25, 0x83, 0, 0,  0, 0, 0x10, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 7,        0xff, 0xff, 0xff, 0xff,
            1, 2, 3, 4,        0, 0, 0, 5,  0, 0, 0, 0x85,
            0, 0, 0, 1,        0, 0, 0x20, 0,  0, 0, 1, 0,
        ]);
        let bare = data_in(&DataIn { status: None, last: false, ..pdu }, 4096, N);
        assert_eq!((bare.0[1], &bare.0[24..28]), (0, &[0; 4][..]));
    }

    #[test]
    fn responses_are_laid_out_as_the_standard_says() {
        let over = Residual::of(512, 1024);
        let head = scsi_response(7, 2, over, Residual::default(), 3, 20, N);
        assert_eq!(head.0[..8], [0x21, 0x84, 0, 2, 0, 0, 0, 20]);
        assert_eq!(head.0[36..], [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 2, 0]);
        let both = scsi_response(7, 0, Residual::default(), Residual::of(5, 3), 0, 0, N);
        assert_eq!((both.0[1], both.0[43]), (0x88, 2));

        let head = r2t(7, 1 << 48, 9, 2, 65_536, 512, N);
        assert_eq!(head.0[..24], [0x31, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9]);
        assert_eq!(head.0[36..], [0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 2, 0]);

        let head = async_message(0, 1, [2, 3, 4], 0, N);
        assert_eq!(head.0[..2], [0x32, 0x80]);
        assert_eq!(head.0[16..20], [0xff; 4]);
        assert_eq!(head.0[36..], [1, 0, 0, 2, 0, 3, 0, 4, 0, 0, 0, 0]);

        assert_eq!(reject(4, N).0[..8], [0x3f, 0x80, 4, 0, 0, 0, 0, 48]);
        assert_eq!(invalid_during_login(1).0[36..38], [2, 0x0b]);
    }

    #[test]
    fn serial_numbers_wrap() {
        assert!(sn_lt(0xffff_ffff, 0) && !sn_lt(0, 0xffff_ffff));
        assert!(!sn_lt(3, 3) && sn_lt(3, 4));
    }

    #[test]
    fn residuals_are_over_or_under() {
        assert_eq!(Residual::of(10, 10), Residual::default());
        assert_eq!(Residual::of(10, 4), Residual { over: 0, under: 6 });
        assert_eq!(Residual::of(0, 1 << 40), Residual { over: u32::MAX, under: 0 });
    }
}
