//! Ready answers: bytes that Python made beforehand for CDBs that come often, so that path checkers and
//! login storms do not depend on it.

use std::collections::HashMap;
use std::sync::Arc;

use super::row::Row;

/// The longest CDB that has ready answers, bytes. (iSCSI's longer ones come with an AHS, and are rare.)
const KEY_BYTES: usize = 16;

/// A CDB without its ALLOCATION LENGTH: `cdb[..cdb_length]` with those bytes zeroed. The opcode says
/// how long it is, so that the zeroes behind it tell nothing.
type Key = [u8; KEY_BYTES];

/// Answers by CDB key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canned(HashMap<Key, Arc<[u8]>>);

impl Canned {
    /// No answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `answer` for the CDB whose key is `key`; false: it is longer than any that has answers.
    #[must_use]
    pub fn insert(&mut self, key: &[u8], answer: &[u8]) -> bool {
        let mut padded = [0; KEY_BYTES];
        let Some(head) = padded.get_mut(..key.len()) else { return false };
        head.copy_from_slice(key);
        self.0.insert(padded, answer.into());
        true
    }

    /// The whole answer to a command, if there is one; [`allocation`] says how much of it is sent.
    pub fn get(&self, row: &Row, cdb: &[u8]) -> Option<&Arc<[u8]>> {
        self.0.get(&key_of(row, cdb)?)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key_of(row: &Row, cdb: &[u8]) -> Option<Key> {
    let mut key = [0; KEY_BYTES];
    let len = usize::from(row.cdb_length);
    key.get_mut(..len)?.copy_from_slice(cdb.get(..len)?);
    if let Some(field) = row.allocation {
        let start = usize::from(field.offset);
        key[start..start + usize::from(field.len)].fill(0);
    }
    Some(key)
}

/// The most bytes of an answer that the CDB allows (SPC-4 4.2.5.6: the rest is cut off, and that is no error).
pub fn allocation(row: &Row, cdb: &[u8]) -> usize {
    row.allocation.map_or(usize::MAX, |field| usize::try_from(field.of(cdb)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::row::find;

    #[test]
    fn the_allocation_length_is_no_part_of_the_key() {
        let mut canned = Canned::new();
        // INQUIRY, EVPD, page 83h.
        assert!(canned.insert(&[0x12, 0x01, 0x83, 0, 0, 0], b"page 83"));
        let cdb = [0x12, 0x01, 0x83, 0x01, 0x02, 0, 0xee, 0xee];
        let row = find(&cdb).unwrap();
        assert_eq!(canned.get(row, &cdb).unwrap()[..], *b"page 83");
        assert_eq!(allocation(row, &cdb), 0x0102);
        assert!(canned.get(row, &[0x12, 0x01, 0x80, 0, 0, 0]).is_none());
        assert!(canned.get(row, &[0x12, 0x01, 0x83, 0, 0, 0x04]).is_none(), "the control byte is");
    }

    #[test]
    fn a_command_without_an_allocation_length_has_no_bound() {
        let cdb = [0; 6];
        let row = find(&cdb).unwrap();
        assert_eq!(allocation(row, &cdb), usize::MAX);
        let mut canned = Canned::new();
        assert!(canned.insert(&cdb, b""));
        assert_eq!(canned.get(row, &cdb).unwrap().len(), 0);
        assert!(!canned.insert(&[0x7f; 32], b""), "no room for a key as long as that");
        assert_eq!(canned.len(), 1);
    }
}
