//! SCSI that knows no transport: which command a CDB is, whether it may run, what it asks of the medium,
//! and the sense when it may not. No I/O, no state, no allocation but for an UNMAP's list.
//!
//! A front end takes a command of a mapped LUN through these steps, in this order (SAM-5 5.3.3):
//!
//! 1. [`check::known`]: its row of the opcode table, if this unit knows the command.
//! 2. The nexus's unit attentions, as `row.attention` says ([`attention`]); where a reservation is in conflict,
//!    those of resets alone. Without a row it ends here, with [`Answer::unknown`](command::Answer::unknown).
//! 3. [`check::admit`]: reservations, ALUA state of the port, NACA. What is handed up to Python has passed it too.
//! 4. By `row.action`: a ready answer ([`canned`]), Python, or
//! 5. [`check::media`]: readiness, every field of the CDB, write protection. It gives a [`Media`](command::Media),
//!    which says how many bytes go which way, and of which block [`Op`](crate::block::command::Op) the work
//!    is done.
//! 6. 3 and 5 once more when the request is given to the back end: the gate may be another one by then.
//!
//! How a `Media` becomes requests to the volume:
//!
//! | action | op | buffer |
//! |---|---|---|
//! | read, write | `Read`, `Write` | pieces of at most `PIECE_BYTES` |
//! | orwrite | `OrWrite` | the same, with a [`Claim`](crate::block::command::Claim) if there are several |
//! | write_verify | `WriteVerify` | the same |
//! | verify | `Verify` | BYTCHK 00b: none, one request. 01b: pieces, as for a write. 11b: one block, one request |
//! | write_same | `WriteSame` or (zeroes) `WriteZeroes` | one block or none; one request |
//! | compare_and_write | `CompareAndWrite` | one buffer: what is expected, then what is written |
//! | unmap | `Unmap` | none; `Request::spans` out of the parameter list by [`command::unmap_spans`]; one request |
//! | sync, prefetch | `Flush`, `Cache` | none |
//! | lba_status | `BlockStatus` | none; `Request::extents` into bytes by [`command::put_lba_status`] |

pub mod attention;
pub mod canned;
pub mod check;
pub mod command;
pub mod gate;
pub mod row;
pub mod sense;
pub mod table;
