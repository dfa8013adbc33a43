//! Sense data (SPC-4 4.5): what went wrong, in fixed or in descriptor format.

use crate::block::command::{Errno, Op};

/// The longest encoding: a descriptor format header, an information and a sense key specific descriptor,
/// and room to spare.
pub const SENSE_BYTES: usize = 32;

/// SENSE KEY (SPC-4 table 28).
pub mod key {
    pub const NO_SENSE: u8 = 0x0;
    pub const RECOVERED_ERROR: u8 = 0x1;
    pub const NOT_READY: u8 = 0x2;
    pub const MEDIUM_ERROR: u8 = 0x3;
    pub const HARDWARE_ERROR: u8 = 0x4;
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    pub const UNIT_ATTENTION: u8 = 0x6;
    pub const DATA_PROTECT: u8 = 0x7;
    pub const ABORTED_COMMAND: u8 = 0xb;
    pub const MISCOMPARE: u8 = 0xe;
}

/// What the SENSE KEY SPECIFIC field says (SPC-4 4.5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specific {
    /// The field that is wrong: its first byte and, where it is less than bytes, its highest bit.
    Field { in_cdb: bool, byte: u16, bit: Option<u8> },
    /// How far an operation is, in parts of 65,536.
    Progress(u16),
}

/// One sense. Small and `Copy`: it is made on the hot path of refusals and encoded only when it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    pub key: u8,
    pub asc: u8,
    pub ascq: u8,
    pub information: Option<u64>,
    pub specific: Option<Specific>,
    /// Of an earlier command, which had ended GOOD by then (SPC-4 4.5.5).
    pub deferred: bool,
}

macro_rules! senses {
    ($($(#[$doc:meta])* $name:ident = $key:ident, $asc:literal, $ascq:literal;)*) => {
        impl Sense { $($(#[$doc])* pub const $name: Sense = Sense::new(key::$key, $asc, $ascq);)* }
    };
}

senses! {
    /// Active commands of the logical unit go on, but none on this port.
    TRANSITIONING = NOT_READY, 0x04, 0x0a;
    STANDBY = NOT_READY, 0x04, 0x0b;
    UNAVAILABLE = NOT_READY, 0x04, 0x0c;
    OFFLINE = NOT_READY, 0x04, 0x12;
    /// The volume is being closed, or has no gate yet: CAUSE NOT REPORTABLE.
    NOT_READY = NOT_READY, 0x04, 0x00;
    WRITE_ERROR = MEDIUM_ERROR, 0x0c, 0x00;
    UNRECOVERED_READ_ERROR = MEDIUM_ERROR, 0x11, 0x00;
    INTERNAL_TARGET_FAILURE = HARDWARE_ERROR, 0x44, 0x00;
    PARAMETER_LIST_LENGTH_ERROR = ILLEGAL_REQUEST, 0x1a, 0x00;
    INVALID_OPCODE = ILLEGAL_REQUEST, 0x20, 0x00;
    LBA_OUT_OF_RANGE = ILLEGAL_REQUEST, 0x21, 0x00;
    INVALID_FIELD_IN_CDB = ILLEGAL_REQUEST, 0x24, 0x00;
    LOGICAL_UNIT_NOT_SUPPORTED = ILLEGAL_REQUEST, 0x25, 0x00;
    INVALID_FIELD_IN_PARAMETER_LIST = ILLEGAL_REQUEST, 0x26, 0x00;
    WRITE_PROTECTED = DATA_PROTECT, 0x27, 0x00;
    SOFTWARE_WRITE_PROTECTED = DATA_PROTECT, 0x27, 0x02;
    SPACE_ALLOCATION_FAILED = DATA_PROTECT, 0x27, 0x07;
    MISCOMPARE_DURING_VERIFY = MISCOMPARE, 0x1d, 0x00;
}

impl Sense {
    /// With nothing but its key and codes.
    pub const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Sense { key, asc, ascq, information: None, specific: None, deferred: false }
    }

    /// Pointing at a field of the CDB that is whole bytes.
    pub const fn at_byte(self, byte: u16) -> Self {
        self.at(Specific::Field { in_cdb: true, byte, bit: None })
    }

    /// Pointing at a field of the CDB whose highest bit is `bit` of `byte`.
    pub const fn at_bit(self, byte: u16, bit: u8) -> Self {
        self.at(Specific::Field { in_cdb: true, byte, bit: Some(bit) })
    }

    /// Pointing at a field of the parameter list.
    pub const fn at_parameter(self, byte: u16) -> Self {
        self.at(Specific::Field { in_cdb: false, byte, bit: None })
    }

    /// With a sense key specific field.
    pub const fn at(mut self, specific: Specific) -> Self {
        self.specific = Some(specific);
        self
    }

    /// With a number in INFORMATION: an LBA, or the offset of a miscompare.
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// As that of an earlier command.
    pub const fn deferred(mut self) -> Self {
        self.deferred = true;
        self
    }

    /// What a back end's error means for a command that the engine executes. (`ENOMEM` has no sense: it
    /// is a BUSY status, see [`Answer::of_errno`](super::command::Answer::of_errno).)
    pub fn of_errno(op: Op, errno: Errno) -> Self {
        match errno {
            libc::EILSEQ => Sense::MISCOMPARE_DURING_VERIFY,
            // SBC-3 4.7.3.6: a thin pool that is full; the write may be tried again once it is not.
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG if op.is_write() => Sense::SPACE_ALLOCATION_FAILED,
            // What has been acknowledged is lost, and its place is none that an initiator has asked for.
            libc::EIO | libc::ENOSPC | libc::EDQUOT if op == Op::Flush => Sense::WRITE_ERROR,
            libc::EROFS | libc::EPERM | libc::EACCES if op.is_write() => Sense::WRITE_PROTECTED,
            libc::ESHUTDOWN => Sense::NOT_READY,
            // The gate has let it through, the storage has become smaller since.
            libc::ENOSPC | libc::EINVAL => Sense::LBA_OUT_OF_RANGE,
            libc::EIO if op.is_write() => Sense::WRITE_ERROR,
            libc::EIO => Sense::UNRECOVERED_READ_ERROR,
            _ => Sense::INTERNAL_TARGET_FAILURE,
        }
    }

    /// Writes the sense data; gives its length. Allocates nothing.
    pub fn encode(&self, descriptor: bool, out: &mut [u8; SENSE_BYTES]) -> usize {
        out.fill(0);
        match descriptor {
            true => self.encode_descriptors(out),
            false => self.encode_fixed(out),
        }
    }

    /// Fixed format (SPC-4 4.5.3), 18 bytes. An INFORMATION that does not fit is left out, as VALID says.
    fn encode_fixed(&self, out: &mut [u8; SENSE_BYTES]) -> usize {
        out[0] = 0x70 | u8::from(self.deferred);
        if let Some(Ok(information)) = self.information.map(u32::try_from) {
            out[0] |= 0x80;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[2] = self.key;
        out[7] = 10;
        out[12] = self.asc;
        out[13] = self.ascq;
        if let Some(specific) = self.specific {
            out[15..18].copy_from_slice(&specific.bytes());
        }
        18
    }

    /// Descriptor format (SPC-4 4.5.2): a header and a descriptor for what there is.
    fn encode_descriptors(&self, out: &mut [u8; SENSE_BYTES]) -> usize {
        out[..4].copy_from_slice(&[0x72 | u8::from(self.deferred), self.key, self.asc, self.ascq]);
        let mut len = 8;
        if let Some(information) = self.information {
            // Type 00h, ADDITIONAL LENGTH 0Ah, VALID.
            out[len..len + 3].copy_from_slice(&[0x00, 0x0a, 0x80]);
            out[len + 4..len + 12].copy_from_slice(&information.to_be_bytes());
            len += 12;
        }
        if let Some(specific) = self.specific {
            // Type 02h, ADDITIONAL LENGTH 06h.
            out[len..len + 2].copy_from_slice(&[0x02, 0x06]);
            out[len + 4..len + 7].copy_from_slice(&specific.bytes());
            len += 8;
        }
        out[7] = (len - 8) as u8;
        len
    }
}

impl Specific {
    /// The three bytes, SKSV set.
    fn bytes(self) -> [u8; 3] {
        match self {
            Specific::Field { in_cdb, byte, bit } => {
                let [high, low] = byte.to_be_bytes();
                let cdb = if in_cdb { 0x40 } else { 0 };
                let bit = bit.map_or(0, |bit| 0x08 | bit & 7);
                [0x80 | cdb | bit, high, low]
            }
            Specific::Progress(progress) => {
                let [high, low] = progress.to_be_bytes();
                [0x80, high, low]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(sense: Sense) -> Vec<u8> {
        let mut out = [0xff; SENSE_BYTES];
        let len = sense.encode(false, &mut out);
        out[..len].to_vec()
    }

    fn descriptors(sense: Sense) -> Vec<u8> {
        let mut out = [0xff; SENSE_BYTES];
        let len = sense.encode(true, &mut out);
        out[..len].to_vec()
    }

    #[test]
    fn fixed_format() {
        let plain = [0x70, 0, 0x05, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
        assert_eq!(fixed(Sense::INVALID_OPCODE), plain);
        // SKSV, C/D (CDB), BPV with bit 7, field pointer 1.
        let field = [0x70, 0, 0x05, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0x24, 0, 0, 0xcf, 0, 1];
        assert_eq!(fixed(Sense::INVALID_FIELD_IN_CDB.at_bit(1, 7)), field);
        let parameter = [0x70, 0, 0x05, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0x26, 0, 0, 0x80, 0x01, 0x02];
        assert_eq!(fixed(Sense::INVALID_FIELD_IN_PARAMETER_LIST.at_parameter(0x0102)), parameter);
        let miscompare = [0xf0, 0, 0x0e, 0, 0, 0x02, 0x01, 0x0a, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0];
        assert_eq!(fixed(Sense::MISCOMPARE_DURING_VERIFY.with_information(0x201)), miscompare);
    }

    #[test]
    fn what_does_not_fit_the_fixed_format_is_not_valid() {
        let bytes = fixed(Sense::MISCOMPARE_DURING_VERIFY.with_information(1 << 32));
        assert_eq!((bytes[0], &bytes[3..7]), (0x70, &[0, 0, 0, 0][..]));
    }

    #[test]
    fn descriptor_format() {
        assert_eq!(descriptors(Sense::INVALID_OPCODE), [0x72, 0x05, 0x20, 0, 0, 0, 0, 0]);
        let both = Sense::INVALID_FIELD_IN_CDB.at_byte(10).with_information(0x0102_0304_0506_0708);
        assert_eq!(
            descriptors(both),
            [
                0x72, 0x05, 0x24, 0, 0, 0, 0, 20, // header
                0x00, 0x0a, 0x80, 0, 1, 2, 3, 4, 5, 6, 7, 8, // information
                0x02, 0x06, 0, 0, 0xc0, 0, 10, 0, // sense key specific: SKSV, C/D
            ]
        );
        let progress = Sense::new(key::NOT_READY, 0x04, 0x1b).at(Specific::Progress(0x8001));
        assert_eq!(descriptors(progress)[8..], [0x02, 0x06, 0, 0, 0x80, 0x80, 0x01, 0]);
    }

    #[test]
    fn of_an_earlier_command() {
        let lost = Sense::WRITE_ERROR.deferred();
        assert_eq!((fixed(lost)[0], descriptors(lost)[0]), (0x71, 0x73));
        assert_eq!(fixed(lost.with_information(7))[0], 0xf1);
    }

    #[test]
    fn errors_of_the_storage() {
        assert_eq!(Sense::of_errno(Op::Read, libc::EIO), Sense::UNRECOVERED_READ_ERROR);
        assert_eq!(Sense::of_errno(Op::Write, libc::EIO), Sense::WRITE_ERROR);
        assert_eq!(Sense::of_errno(Op::Flush, libc::EIO), Sense::WRITE_ERROR);
        assert_eq!(Sense::of_errno(Op::Flush, libc::ENOSPC), Sense::WRITE_ERROR);
        assert_eq!(Sense::of_errno(Op::WriteZeroes, libc::ENOSPC), Sense::SPACE_ALLOCATION_FAILED);
        assert_eq!(Sense::of_errno(Op::Read, libc::EINVAL), Sense::LBA_OUT_OF_RANGE);
        assert_eq!(Sense::of_errno(Op::Write, libc::EROFS), Sense::WRITE_PROTECTED);
        assert_eq!(Sense::of_errno(Op::Read, libc::ENODEV), Sense::INTERNAL_TARGET_FAILURE);
    }
}
