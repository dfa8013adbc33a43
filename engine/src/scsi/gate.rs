//! A gate's part for SCSI: what the engine answers and refuses by itself for one logical unit.

use std::collections::HashMap;
use std::sync::Arc;

use super::canned::Canned;
use super::row::{self, Row};
use super::sense::Sense;
use super::table::THIN;

/// Names a SCSI target port, as Python numbers them; > 0.
pub type PortId = u64;

/// ALUA states of a port (SPC-4 5.15.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alua {
    #[default]
    ActiveOptimized,
    ActiveNonoptimized,
    Standby,
    Unavailable,
    Offline,
    Transitioning,
}

impl Alua {
    /// By the name that the seam uses.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "active_optimized" => Alua::ActiveOptimized,
            "active_nonoptimized" => Alua::ActiveNonoptimized,
            "standby" => Alua::Standby,
            "unavailable" => Alua::Unavailable,
            "offline" => Alua::Offline,
            "transitioning" => Alua::Transitioning,
            _ => return None,
        })
    }

    /// May the command be served in this state? If not, the sense that says why.
    pub fn check(self, row: &Row) -> Result<(), Sense> {
        let (served, sense) = match self {
            Alua::ActiveOptimized | Alua::ActiveNonoptimized => return Ok(()),
            Alua::Standby => (row::STANDBY, Sense::STANDBY),
            Alua::Unavailable => (row::UNAVAILABLE, Sense::UNAVAILABLE),
            // A port that is off line and asked all the same is one that is unavailable.
            Alua::Offline => (row::UNAVAILABLE, Sense::OFFLINE),
            Alua::Transitioning => (row::TRANSITIONING, Sense::TRANSITIONING),
        };
        match row.alua & served != 0 {
            true => Ok(()),
            false => Err(sense),
        }
    }
}

/// Bounds that the Block Limits page announces. 0: none, except where it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLimits {
    /// MAXIMUM TRANSFER LENGTH.
    pub transfer_blocks: u32,
    /// MAXIMUM COMPARE AND WRITE LENGTH. 0: the command is not known.
    pub compare_and_write_blocks: u8,
    /// MAXIMUM WRITE SAME LENGTH.
    pub write_same_blocks: u64,
    /// WSNZ: a WRITE SAME of 0 blocks does not mean "to the end".
    pub write_same_nonzero: bool,
    /// MAXIMUM UNMAP LBA COUNT.
    pub unmap_blocks: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
    pub unmap_descriptors: u32,
}

/// What is particular to one target port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    pub alua: Alua,
    pub canned: Canned,
}

/// See the module's text. Immutable, like the [`Gate`](crate::block::gate::Gate) that it is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiGate {
    /// Logical block length, bytes; a power of two.
    pub block_size: u32,
    /// D_SENSE: sense data is in descriptor format.
    pub descriptor_sense: bool,
    /// SWP: as if the medium were write protected.
    pub software_write_protect: bool,
    /// Media commands are answered with this.
    pub not_ready: Option<Sense>,
    /// TAS: tasks that another nexus's command aborts end with TASK ABORTED.
    pub tas: bool,
    /// QERR: 0, 1 or 3.
    pub qerr: u8,
    pub limits: BlockLimits,
    /// What the unit has of that which commands need: bits of [`NEEDS`](super::table::NEEDS).
    pub needs_met: u8,
    /// Ready answers for every port.
    pub canned: Canned,
    pub ports: HashMap<PortId, Port>,
}

impl ScsiGate {
    /// The ready answer to a command that came by `port`; [`allocation`](super::canned::allocation) says
    /// how much of it is sent.
    pub fn ready(&self, row: &Row, cdb: &[u8], port: PortId) -> Option<&Arc<[u8]>> {
        let own = self.ports.get(&port).and_then(|port| port.canned.get(row, cdb));
        own.or_else(|| self.canned.get(row, cdb))
    }

    /// Logical blocks can be given back: UNMAP and WRITE SAME with UNMAP are known.
    pub fn is_thin(&self) -> bool {
        self.needs_met & THIN != 0
    }

    /// A port's state; one that the gate does not name is active/optimized.
    pub fn alua(&self, port: PortId) -> Alua {
        self.ports.get(&port).map_or(Alua::ActiveOptimized, |port| port.alua)
    }
}

#[cfg(test)]
impl ScsiGate {
    /// Blocks of 512 bytes, thin, no limits but those that there have to be.
    pub fn for_tests() -> Self {
        ScsiGate {
            block_size: 512,
            descriptor_sense: false,
            software_write_protect: false,
            not_ready: None,
            tas: false,
            qerr: 0,
            limits: BlockLimits { compare_and_write_blocks: 255, unmap_descriptors: 256, ..BlockLimits::default() },
            needs_met: THIN,
            canned: Canned::new(),
            ports: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::row::find;

    #[test]
    fn a_ports_own_answer_goes_before_everybodys() {
        let inquiry = [0x12, 0, 0, 0, 36, 0];
        let row = find(&inquiry).unwrap();
        let mut gate = ScsiGate::for_tests();
        assert!(gate.ready(row, &inquiry, 1).is_none());
        assert!(gate.canned.insert(&[0x12, 0, 0, 0, 0, 0], b"all"));
        let mut port = Port::default();
        assert!(port.canned.insert(&[0x12, 0, 0, 0, 0, 0], b"own"));
        gate.ports.insert(2, port);
        assert_eq!(gate.ready(row, &inquiry, 1).unwrap()[..], *b"all");
        assert_eq!(gate.ready(row, &inquiry, 2).unwrap()[..], *b"own");
    }

    #[test]
    fn states_and_their_sense() {
        let read = find(&[0x28; 10]).unwrap();
        let inquiry = find(&[0x12; 6]).unwrap();
        for (name, ascq) in [("transitioning", 0x0a), ("standby", 0x0b), ("unavailable", 0x0c), ("offline", 0x12)] {
            let state = Alua::of_name(name).unwrap();
            assert_eq!(state.check(read), Err(Sense::new(0x2, 0x04, ascq)), "{name}");
            assert_eq!(state.check(inquiry), Ok(()), "{name}");
        }
        for name in ["active_optimized", "active_nonoptimized"] {
            assert_eq!(Alua::of_name(name).unwrap().check(read), Ok(()));
        }
        assert_eq!(Alua::of_name("logical_block_dependent"), None);
    }
}
