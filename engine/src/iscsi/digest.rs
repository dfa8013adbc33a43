//! Header and data digests: CRC32C (RFC 7143 section 13.1), by the CPU's instruction where it has one.

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 4;

/// A digest over bytes that come, or lie, in portions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u32);

impl Digest {
    /// Over all of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::default().and(bytes)
    }

    /// With `bytes` behind what it covers already.
    #[must_use]
    pub fn and(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// As it stands on the wire: the least significant byte first (appendix B.4).
    pub fn bytes(self) -> [u8; DIGEST_BYTES] {
        self.0.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, the same in RFC 7143, appendix A.4.
    #[test]
    fn the_examples_of_the_standard() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        #[rustfmt::skip]
        let command: [u8; 48] = [
            0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18,
            0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        ];
        assert_eq!(Digest::of(&[0; 32]).bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(Digest::of(&[0xff; 32]).bytes(), [0x43, 0xab, 0xa8, 0x62]);
        assert_eq!(Digest::of(&rising).bytes(), [0x4e, 0x79, 0xdd, 0x46]);
        assert_eq!(Digest::of(&falling).bytes(), [0x5c, 0xdb, 0x3f, 0x11]);
        assert_eq!(Digest::of(&command).bytes(), [0x56, 0x3a, 0x96, 0xd9]);
    }

    #[test]
    fn portions_make_no_difference() {
        let bytes: Vec<u8> = (0..1000).map(|at| (at * 7) as u8).collect();
        for cut in [0, 1, 3, 4, 500, 999, 1000] {
            assert_eq!(Digest::of(&bytes[..cut]).and(&bytes[cut..]), Digest::of(&bytes));
        }
    }
}
