//! Additional header segments (RFC 7143 section 11.2.2).

use super::wire::padding;

/// AHSType 1: the CDB goes on behind its first 16 bytes (11.2.2.3).
const EXTENDED_CDB: u8 = 1;
/// AHSType 2: how much a bidirectional command expects to read (11.2.2.4).
const BIDIRECTIONAL_READ: u8 = 2;
/// AHSType has six bits.
const TYPE_MASK: u8 = 0x3f;

/// The longest CDB (SPC-4 4.2.2: 260 bytes).
pub const CDB_BYTES: usize = 260;

/// What the segments say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahs<'a> {
    /// The CDB's bytes after the sixteenth.
    pub cdb_rest: &'a [u8],
    /// Expected Bidirectional Read Data Length.
    pub read_bytes: Option<u32>,
}

/// Reads the segments of a SCSI Command, all of `bytes`. `None`: malformed, a type that is not
/// known, or one that comes twice. (Only SCSI Commands have any: 11.2.2.1.)
pub fn parse(bytes: &[u8]) -> Option<Ahs<'_>> {
    let mut found = Ahs::default();
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_first_chunk::<4>() {
        // AHSLength counts from the byte behind the type: the reserved one, then the content.
        let len = usize::from(u16::from_be_bytes([head[0], head[1]])).checked_sub(1)?;
        let content = behind.get(..len)?;
        match head[2] & TYPE_MASK {
            EXTENDED_CDB if found.cdb_rest.is_empty() && (1..=CDB_BYTES - 16).contains(&len) => {
                found.cdb_rest = content;
            }
            BIDIRECTIONAL_READ if found.read_bytes.is_none() => {
                found.read_bytes = Some(u32::from_be_bytes(content.try_into().ok()?));
            }
            _ => return None,
        }
        rest = behind.get(len + padding(len)..)?;
    }
    rest.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_types_are_read_in_any_order() {
        let cdb = [0, 5, 1, 0, 9, 8, 7, 6];
        let read = [0, 5, 2, 0, 0, 0, 2, 0];
        let both = [cdb, read].concat();
        let found = parse(&both).unwrap();
        assert_eq!(found, Ahs { cdb_rest: &[9, 8, 7, 6], read_bytes: Some(512) });
        assert_eq!(parse(&[read, cdb].concat()).unwrap().read_bytes, Some(512));
        assert_eq!(parse(&[]), Some(Ahs::default()));
    }

    #[test]
    fn content_is_padded_to_four_bytes() {
        let found = parse(&[0, 2, 1, 0, 0xaa, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 1]).unwrap();
        assert_eq!(found, Ahs { cdb_rest: &[0xaa], read_bytes: Some(1) });
    }

    #[test]
    fn what_breaks_the_rules_is_nothing() {
        let cases: [&[u8]; 8] = [
            &[0, 5, 3, 0, 0, 0, 0, 0],                         // type 3
            &[0, 0, 1, 0],                                     // not even the reserved byte
            &[0, 1, 1, 0],                                     // a CDB without a rest
            &[0, 9, 1, 0, 1, 2, 3, 4],                         // longer than all there is
            &[0, 4, 2, 0, 0, 0, 2, 0],                         // a length of three bytes
            &[0, 2, 1, 0, 0xaa, 0, 0],                         // padding that is missing
            &[0, 5, 2, 0, 0, 0, 0, 1, 0, 5, 2, 0, 0, 0, 0, 1], // twice
            &[0, 2],
        ];
        for case in cases {
            assert_eq!(parse(case), None, "{case:?}");
        }
        let mut long = vec![0, 246, 1, 0];
        long.resize(4 + 248, 7);
        assert_eq!(parse(&long), None, "a CDB of 261 bytes");
    }
}
