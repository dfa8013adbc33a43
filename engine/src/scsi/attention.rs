//! Unit attentions: a word of bits per nexus and LUN, set by Python, reported one at a time.

use super::row::AttentionRow;
use super::sense::{key, Sense};
use super::table::ATTENTIONS;

const SOFT_THRESHOLD: (u8, u8) = (0x38, 0x07);
/// Which threshold it is says INFORMATION: the one whose descriptor begins at this byte of the Logical Block
/// Provisioning mode page (SBC-3 4.7.3.7), which is the only one.
const THRESHOLD_DESCRIPTOR: u64 = 16;

/// The attention of a word that is reported first, if any: its bit's mask, and its sense.
pub fn first(word: u64) -> Option<(u64, Sense)> {
    let row: &AttentionRow = ATTENTIONS.iter().find(|row| word & mask(row) != 0)?;
    Some((mask(row), sense(row)))
}

/// Is it one of those that go before a RESERVATION CONFLICT (SAM-5 5.3.3)? Whoever has not heard of a reset
/// takes for his own what is there no more.
pub fn is_of_reset(sense: Sense) -> bool {
    sense.asc == 0x29
}

/// REPORTED LUNS DATA HAS CHANGED: what a nexus that is told its LUNs knows by that.
pub fn reported_luns() -> u64 {
    ATTENTIONS.iter().find(|row| (row.asc, row.ascq) == (0x3f, 0x0e)).map_or(0, mask)
}

/// THIN PROVISIONING SOFT THRESHOLD REACHED, which comes before a pool is full: its bit's mask, and its sense.
pub fn soft_threshold() -> Option<(u64, Sense)> {
    let row = ATTENTIONS.iter().find(|row| (row.asc, row.ascq) == SOFT_THRESHOLD)?;
    Some((mask(row), sense(row)))
}

fn mask(row: &AttentionRow) -> u64 {
    1 << row.bit
}

fn sense(row: &AttentionRow) -> Sense {
    let sense = Sense::new(key::UNIT_ATTENTION, row.asc, row.ascq);
    match (row.asc, row.ascq) {
        SOFT_THRESHOLD => sense.with_information(THRESHOLD_DESCRIPTOR),
        _ => sense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_goes_first() {
        assert!(ATTENTIONS.is_sorted_by(|a, b| a.bit < b.bit));
        assert_eq!(first(0), None);
        // POWER ON, RESET, OR BUS DEVICE RESET before CAPACITY DATA HAS CHANGED.
        assert_eq!(first(1 << 12 | 1), Some((1, Sense::new(0x6, 0x29, 0x00))));
        assert_eq!(first(1 << 12), Some((1 << 12, Sense::new(0x6, 0x2a, 0x09))));
    }

    #[test]
    fn a_threshold_is_told_with_the_place_of_its_descriptor() {
        let (bit, sense) = soft_threshold().unwrap();
        assert_eq!(sense, Sense::new(0x6, 0x38, 0x07).with_information(16));
        assert_eq!(first(bit), Some((bit, sense)));
    }

    #[test]
    fn a_bit_without_a_row_is_nothing() {
        assert_eq!(first(1 << 63), None);
    }
}
