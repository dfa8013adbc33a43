//! What can go wrong with a file, and what that means for the volume from then on.

use std::io;

use crate::block::command::{Errno, Op};
use crate::block::health::HealthCell;

/// A failed request, before it is narrowed to an errno.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation itself failed.
    Os(Errno),
    /// A read failed at this byte of the file, having read what it was to read before that.
    Read(Errno, u64),
    /// Making it stable failed. The kernel may have dropped what it could not write,
    /// acknowledged data among it, and says so once only.
    Sync(Errno),
    /// Not to be done: it says nothing about the storage.
    Refused(Errno),
    /// Bytes that the volume does not have were asked for; the gate that let it through is being
    /// replaced. The errno is what the gate itself would have answered.
    Beyond(Errno),
    /// The file is shorter than the volume.
    Shrunk { have: u64, want: u64 },
    /// What was written and made stable reads back differently.
    Differs,
    /// The file has no name any more: what is written to it ends with the process.
    Deleted,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Os(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl Fault {
    /// The failure of a read that came as far as `at`, bytes of the file.
    pub fn of_read(error: &io::Error, at: u64) -> Self {
        Fault::Read(error.raw_os_error().unwrap_or(libc::EIO), at)
    }

    /// The failure of a write that was to be stable. No space: nothing was stored of it, and what was
    /// acknowledged before is for the next FLUSH to tell (its descriptor has a memory of its own).
    pub fn of_stable_write(error: &io::Error) -> Self {
        match error.raw_os_error().unwrap_or(libc::EIO) {
            errno @ (libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EINVAL | libc::EROFS) => Fault::Os(errno),
            errno => Fault::Sync(errno),
        }
    }

    /// A request for bytes that the volume does not have.
    pub fn beyond(op: Op) -> Self {
        Fault::Beyond(if op.is_write() { libc::ENOSPC } else { libc::EINVAL })
    }

    /// The errno that the front end is told.
    fn errno(&self) -> Errno {
        match self {
            Fault::Os(errno) | Fault::Read(errno, _) | Fault::Refused(errno) | Fault::Beyond(errno) => *errno,
            Fault::Differs => libc::EILSEQ,
            Fault::Sync(_) | Fault::Shrunk { .. } | Fault::Deleted => libc::EIO,
        }
    }

    /// Note in the volume's health what this says about it; returns the errno to answer.
    /// `during` names what was going on.
    pub fn settle(self, during: &str, health: &HealthCell) -> Errno {
        self.note(during, health);
        self.errno()
    }

    /// The same for who does not answer yet.
    pub fn note(&self, during: &str, health: &HealthCell) {
        match self {
            Fault::Refused(_) | Fault::Beyond(_) => {}
            // Not a failure of the storage: what it does not do, or the machine cannot at the moment.
            Fault::Os(errno) | Fault::Read(errno, _)
                if matches!(*errno, libc::EOPNOTSUPP | libc::ENOMEM | libc::ECANCELED) => {}
            Fault::Os(errno) | Fault::Read(errno, _) => health.degrade(|| format!("{during}: {}", describe(*errno))),
            Fault::Sync(errno) => health.refuse_writes(|| {
                format!("{during}: not stable: {}; writes are refused until it is reopened", describe(*errno))
            }),
            Fault::Shrunk { have, want } => {
                health.degrade(|| format!("{during}: the file has {have} bytes, the volume needs {want}"));
            }
            Fault::Differs => health.degrade(|| format!("{during}: what was written reads back differently")),
            Fault::Deleted => health.degrade(|| format!("{during}: the file has been deleted")),
        }
    }
}

fn describe(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
