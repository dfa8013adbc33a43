//! A session's logical units: what each stands for, its unit attentions, its task set.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::order::TaskSet;
use super::params::LunMap;
use super::session::Session;
use crate::block::command::Errno;
use crate::scsi::attention;
use crate::scsi::canned::Canned;
use crate::shard::context::{Attachment, Ctx};
use crate::shard::tasks::TaskHandle;

/// One logical unit of one session: an I_T_L nexus.
pub struct Lun {
    /// The 8-byte LUN field.
    pub number: u64,
    pub attachment: Rc<Attachment>,
    /// The LUN map says so.
    pub read_only: Cell<bool>,
    /// Unit attentions that are to be reported; bits as in the opcode table.
    pub attentions: Cell<u64>,
    /// The last flush that was answered before it ended, see `deferred.rs`; stale: it has ended.
    pub flush: Cell<Option<TaskHandle>>,
    /// How one of those has failed, and is to be reported; 0: none.
    pub deferred: Cell<Errno>,
    pub tasks: RefCell<TaskSet>,
    /// Capacity of the buffers that its commands have in the volume, or back from there and not sent.
    pub lent: Cell<usize>,
}

impl Lun {
    /// The handle of its volume.
    pub fn volume(&self) -> u64 {
        self.attachment.entry.volume.id()
    }

    /// Takes a unit attention, to report it. False: it is not pending.
    pub fn take(&self, bit: u64) -> bool {
        let pending = self.attentions.get();
        self.attentions.set(pending & !bit);
        pending & bit != 0
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Luns {
    /// Sorted by LUN.
    all: Vec<Rc<Lun>>,
    pub report_luns: Canned,
}

impl Luns {
    /// The unit of a LUN field.
    pub fn get(&self, number: u64) -> Option<&Rc<Lun>> {
        let at = self.all.partition_point(|lun| lun.number < number);
        self.all.get(at).filter(|lun| lun.number == number)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<Lun>> {
        self.all.iter()
    }

    /// Is there more than one?
    pub fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// The initiator has been told its LUNs: it needs no attention for that any more, at any of them (SPC-4
    /// 6.33, SAM-5 5.14).
    pub fn are_reported(&self) {
        for lun in self.iter() {
            lun.attentions.set(lun.attentions.get() & !attention::reported_luns());
        }
    }

    /// Puts a map in force. A LUN that stays, with the same volume, keeps its attentions, its deferred error and its tasks.
    /// One whose volume has no gate (it is being closed) is not there.
    pub fn replace(&mut self, ctx: &mut Ctx, map: LunMap, target: &str) {
        let mut all = Vec::with_capacity(map.luns.len());
        for mapped in map.luns {
            let label = format!("{target}/{}", shown(mapped.lun));
            let Some(attachment) = ctx.attach(&mapped.volume, label) else { continue };
            let known = self.get(mapped.lun).filter(|lun| lun.volume() == mapped.volume.id());
            all.push(match known {
                // Its commands hold on to it: those that have been judged meet what is new here.
                Some(lun) => {
                    lun.read_only.set(mapped.read_only);
                    lun.clone()
                }
                None => Rc::new(Lun {
                    number: mapped.lun,
                    attachment,
                    read_only: Cell::new(mapped.read_only),
                    attentions: Cell::new(mapped.attentions),
                    flush: Cell::default(),
                    deferred: Cell::default(),
                    tasks: RefCell::default(),
                    lent: Cell::new(0),
                }),
            });
        }
        *self = Self { all, report_luns: map.report_luns };
    }
}

impl Session {
    /// Another LUN map is in force.
    pub fn set_luns(&mut self, ctx: &mut Ctx, map: LunMap) {
        let target = std::mem::take(&mut self.target);
        self.luns.replace(ctx, map, &target);
        self.target = target;
    }

    /// Sets unit attentions, for one LUN or for all. Commands that are enabled already have passed them.
    pub fn attend(&mut self, lun: Option<u64>, attentions: u64) {
        for unit in self.luns.iter().filter(|unit| lun.is_none_or(|lun| unit.number == lun)) {
            unit.attentions.set(unit.attentions.get() | attentions);
        }
    }
}

/// A LUN as people write it: the number of a peripheral or flat space LUN (SAM-5 4.7.5), else all of it.
fn shown(number: u64) -> String {
    let first = number >> 48;
    match (number & 0xffff_ffff_ffff, first >> 14) {
        (0, 0) if first < 256 => first.to_string(),
        (0, 1) => (first & 0x3fff).to_string(),
        _ => format!("{number:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luns_are_shown_as_numbers_where_they_are_some() {
        assert_eq!(shown(0), "0");
        assert_eq!(shown(0x0001 << 48), "1");
        assert_eq!(shown(0x4123 << 48), "291", "flat space");
        assert_eq!(shown(0x8001 << 48), "0x8001000000000000");
        assert_eq!(shown(1), "0x1");
    }
}
