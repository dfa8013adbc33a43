//! May a command run? The order of the checks is that of SAM-5 5.3.3 and of the module's text.

use super::command::{decode, Answer, Media};
use super::gate::{PortId, ScsiGate};
use super::row::{self, Row};
use super::sense::Sense;
use crate::block::gate::{Gate, Nexus};

/// The row of a command that the unit knows.
pub fn known(scsi: &ScsiGate, cdb: &[u8]) -> Result<&'static Row, Answer> {
    row::known(cdb, scsi.needs_met).map_err(Answer::unknown)
}

/// What stands in the way of any command, whoever is to carry it out: reservations, the port's ALUA state,
/// NACA.
pub fn admit(gate: &Gate, scsi: &ScsiGate, row: &Row, cdb: &[u8], nexus: Nexus, port: PortId) -> Result<(), Answer> {
    if row.conflicts_in(gate.situation(nexus), cdb) {
        return Err(Answer::RESERVATION_CONFLICT);
    }
    if let Err(sense) = scsi.alua(port).check(row) {
        return Err(Answer::check(sense));
    }
    // SAM-5 5.3: NORMACA is 0, so NACA must be.
    let control = u16::from(row.cdb_length) - 1;
    match cdb[usize::from(control)] & 0x04 {
        0 => Ok(()),
        _ => Err(Answer::check(Sense::INVALID_FIELD_IN_CDB.at_bit(control, 2))),
    }
}

/// What a command that the engine executes asks of the medium; or why it may not. `read_only`: the nexus's
/// LUN map says so.
pub fn media(gate: &Gate, scsi: &ScsiGate, row: &Row, cdb: &[u8], read_only: bool) -> Result<Media, Answer> {
    if let Some(sense) = scsi.not_ready {
        return Err(Answer::check(sense));
    }
    let media = decode(row, cdb, scsi, gate.size).map_err(Answer::check)?;
    if row.writes {
        if gate.read_only || read_only {
            return Err(Answer::check(Sense::WRITE_PROTECTED));
        }
        if scsi.software_write_protect {
            return Err(Answer::check(Sense::SOFTWARE_WRITE_PROTECTED));
        }
    }
    Ok(media)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::gate::Situation;
    use crate::scsi::gate::{Alua, Port};
    use crate::scsi::row::find;
    use std::collections::HashMap;

    const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    /// Beyond the end, and a write.
    const WRITE_BEYOND: [u8; 10] = [0x2a, 0, 0xff, 0, 0, 0, 0, 0, 1, 0];

    fn gate() -> Gate {
        Gate {
            generation: 1,
            size: 1 << 20,
            read_only: false,
            access: HashMap::new(),
            default_access: Situation::Free,
            scsi: None,
        }
    }

    fn admitted(gate: &Gate, scsi: &ScsiGate, cdb: &[u8]) -> Result<(), Answer> {
        admit(gate, scsi, find(cdb).unwrap(), cdb, 7, 1)
    }

    fn mediated(gate: &Gate, scsi: &ScsiGate, cdb: &[u8], read_only: bool) -> Result<Media, Answer> {
        media(gate, scsi, find(cdb).unwrap(), cdb, read_only)
    }

    #[test]
    fn reservations_go_before_alua_and_that_before_fields() {
        let mut gate = gate();
        gate.access.insert(7, Situation::ExclusiveAccessOther);
        let mut scsi = ScsiGate::for_tests();
        let naca = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0x04];
        scsi.ports.insert(1, Port { alua: Alua::Standby, ..Port::default() });
        assert_eq!(admitted(&gate, &scsi, &naca), Err(Answer::RESERVATION_CONFLICT));
        gate.access.clear();
        assert_eq!(admitted(&gate, &scsi, &naca), Err(Answer::check(Sense::STANDBY)));
        scsi.ports.clear();
        assert_eq!(
            admitted(&gate, &scsi, &naca),
            Err(Answer::check(Sense::INVALID_FIELD_IN_CDB.at_bit(9, 2))),
            "SAM-5: NACA without NORMACA"
        );
        assert_eq!(admitted(&gate, &scsi, &READ), Ok(()));
    }

    #[test]
    fn a_unit_that_is_not_thin_does_not_know_unmap() {
        let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        assert!(known(&ScsiGate::for_tests(), &unmap).is_ok());
        let full = ScsiGate { needs_met: 0, ..ScsiGate::for_tests() };
        assert_eq!(known(&full, &unmap), Err(Answer::check(Sense::INVALID_OPCODE)));
        let block_erase = [0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(known(&full, &block_erase), Err(Answer::check(Sense::INVALID_FIELD_IN_CDB.at_bit(1, 4))));
    }

    #[test]
    fn write_exclusive_lets_others_read() {
        let gate = Gate { default_access: Situation::WriteExclusiveOther, ..gate() };
        assert_eq!(admitted(&gate, &ScsiGate::for_tests(), &READ), Ok(()));
        assert_eq!(admitted(&gate, &ScsiGate::for_tests(), &WRITE), Err(Answer::RESERVATION_CONFLICT));
    }

    #[test]
    fn readiness_goes_before_fields_and_those_before_protection() {
        let gate = Gate { read_only: true, ..gate() };
        let mut scsi = ScsiGate::for_tests();
        let sense = Sense::new(0x2, 0x04, 0x1b);
        scsi.not_ready = Some(sense);
        assert_eq!(mediated(&gate, &scsi, &WRITE_BEYOND, false), Err(Answer::check(sense)));
        scsi.not_ready = None;
        assert!(matches!(
            mediated(&gate, &scsi, &WRITE_BEYOND, false),
            Err(Answer { sense: Some(Sense { asc: 0x21, ascq: 0, .. }), .. })
        ));
        assert_eq!(mediated(&gate, &scsi, &WRITE, false), Err(Answer::check(Sense::WRITE_PROTECTED)));
        assert!(mediated(&gate, &scsi, &READ, true).is_ok());
    }

    #[test]
    fn three_kinds_of_write_protection() {
        let mut scsi = ScsiGate::for_tests();
        assert!(mediated(&gate(), &scsi, &WRITE, false).is_ok());
        assert_eq!(mediated(&gate(), &scsi, &WRITE, true), Err(Answer::check(Sense::WRITE_PROTECTED)));
        scsi.software_write_protect = true;
        assert_eq!(mediated(&gate(), &scsi, &WRITE, false), Err(Answer::check(Sense::SOFTWARE_WRITE_PROTECTED)));
    }
}
