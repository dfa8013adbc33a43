//! A command's Data-Out: what has come of it, what may come, and what is to be asked for. No I/O.
//!
//! Data comes in order (DataPDUInOrder and DataSequenceInOrder are Yes): immediate data, unsolicited
//! Data-Out up to FirstBurstLength, and then what R2Ts ask for, in the order of the R2Ts. So one number,
//! how much has come, says where the next byte belongs (RFC 7143 sections 4.2.5.2, 11.7, 11.8).

/// Most R2Ts of one command that are unanswered at a time, whatever MaxOutstandingR2T allows.
pub const MAX_R2T: usize = 4;

/// What is wrong with data that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Data that nobody asked for (11.4.7.2: ABORTED COMMAND, 0Ch/0Ch).
    Unexpected,
    /// More or less than was to come (0Ch/0Dh).
    Amount,
    /// A DataSN or an offset that does not follow (treated as a lost PDU: 47h/05h).
    Sequence,
}

/// The terms that were negotiated.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub first_burst: u32,
    pub max_burst: u32,
    pub max_outstanding_r2t: usize,
    pub initial_r2t: bool,
    pub immediate_data: bool,
}

/// An R2T's part of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Burst {
    pub sn: u32,
    pub offset: u32,
    pub len: u32,
}

/// See the module's text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inflow {
    /// Bytes that have come, their place being up to here.
    received: u32,
    /// Bytes of a PDU whose data is coming.
    coming: u32,
    /// Up to here data has come unsolicited, or was asked for.
    asked: u32,
    /// Unsolicited Data-Out is still to come, up to this offset; 0: none is.
    unsolicited_end: u32,
    data_sn: u32,
    r2t_sn: u32,
    bursts: [Burst; MAX_R2T],
    open: usize,
}

impl Inflow {
    /// Of a command that expects to send `expected` bytes, brings `immediate` of them itself, and whose F
    /// bit says whether unsolicited Data-Out follows.
    pub fn new(terms: &Terms, expected: u32, immediate: u32, last: bool) -> Result<Self, Fault> {
        let first = terms.first_burst.min(expected);
        let more = !last && immediate < first;
        if immediate > 0 && !terms.immediate_data || more && terms.initial_r2t {
            return Err(Fault::Unexpected);
        }
        if immediate > first {
            return Err(Fault::Amount);
        }
        let unsolicited_end = if more { first } else { 0 };
        Ok(Self { coming: immediate, asked: immediate, unsolicited_end, ..Self::default() })
    }

    /// Bytes that have come.
    pub fn received(&self) -> u32 {
        self.received
    }

    /// Is there data on its way: unsolicited, or asked for?
    pub fn is_open(&self) -> bool {
        self.coming > 0 || self.unsolicited_end > 0 || self.open > 0
    }

    /// Does the initiator owe data that was asked for, or that it has announced?
    pub fn is_due(&self) -> bool {
        self.unsolicited_end > 0 || self.open > 0
    }

    /// May unsolicited Data-Out come?
    pub fn is_unsolicited(&self) -> bool {
        self.unsolicited_end > 0
    }

    /// R2Ts that are not answered in full.
    pub fn open_r2ts(&self) -> usize {
        self.open
    }

    /// A Data-Out header is there. `r2t`: the R2TSN that its TTT stands for, `None`: unsolicited.
    pub fn data_out(&mut self, r2t: Option<u32>, data_sn: u32, offset: u32, len: u32, last: bool) -> Result<(), Fault> {
        debug_assert_eq!(self.coming, 0, "one PDU at a time");
        let end = match r2t {
            None if self.unsolicited_end == 0 => return Err(Fault::Unexpected),
            None => self.unsolicited_end,
            Some(sn) => match self.bursts[..self.open].first() {
                Some(burst) if burst.sn == sn => burst.offset + burst.len,
                _ => return Err(Fault::Unexpected),
            },
        };
        if data_sn != self.data_sn || offset != self.received {
            return Err(Fault::Sequence);
        }
        let reaches = offset.checked_add(len).ok_or(Fault::Amount)?;
        // An unsolicited sequence may be shorter than it could be; what was asked for comes in full.
        if reaches > end || r2t.is_some() && last != (reaches == end) || !last && reaches == end {
            return Err(Fault::Amount);
        }
        self.data_sn += 1;
        self.coming = len;
        if last {
            self.data_sn = 0;
            if r2t.is_none() {
                self.unsolicited_end = 0;
                self.asked = reaches;
            } else {
                self.open -= 1;
                self.bursts.copy_within(1.., 0);
            }
        }
        Ok(())
    }

    /// A sequence that went wrong: the rest of it is thrown away, `last` says whether this was the rest.
    pub fn spoil(&mut self, r2t: Option<u32>, last: bool) {
        self.coming = 0;
        match r2t {
            None if last => self.unsolicited_end = 0,
            Some(sn) if last => {
                // What was asked for before it will not come any more.
                while self.open > 0 {
                    let burst = self.bursts[0];
                    self.open -= 1;
                    self.bursts.copy_within(1.., 0);
                    if burst.sn == sn {
                        break;
                    }
                }
            }
            _ => {}
        }
    }

    /// The data of the last PDU is there; gives its bytes.
    pub fn arrived(&mut self) -> u32 {
        let came = std::mem::take(&mut self.coming);
        self.received += came;
        came
    }

    /// Counts an R2T in for what is to be asked for next: as much as may be, up to `end`.
    pub fn ask(&mut self, terms: &Terms, end: u32) -> Option<Burst> {
        let most = terms.max_outstanding_r2t.clamp(1, MAX_R2T);
        if self.unsolicited_end > 0 || self.open >= most || self.asked >= end {
            return None;
        }
        let len = (end - self.asked).min(terms.max_burst);
        let burst = Burst { sn: self.r2t_sn, offset: self.asked, len };
        self.bursts[self.open] = burst;
        self.open += 1;
        self.r2t_sn += 1;
        self.asked += len;
        Some(burst)
    }

    /// R2Ts that have been sent.
    pub fn r2t_count(&self) -> u32 {
        self.r2t_sn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms =
        Terms { first_burst: 4096, max_burst: 8192, max_outstanding_r2t: 2, initial_r2t: false, immediate_data: true };

    #[test]
    fn immediate_then_unsolicited_then_asked_for() {
        let mut flow = Inflow::new(&TERMS, 20_000, 1000, false).unwrap();
        flow.arrived();
        assert_eq!(flow.ask(&TERMS, 20_000), None, "not before the unsolicited data is there");
        flow.data_out(None, 0, 1000, 1000, false).unwrap();
        flow.arrived();
        flow.data_out(None, 1, 2000, 2096, true).unwrap();
        flow.arrived();
        assert!(!flow.is_open());
        let first = flow.ask(&TERMS, 20_000).unwrap();
        assert_eq!(first, Burst { sn: 0, offset: 4096, len: 8192 });
        let second = flow.ask(&TERMS, 20_000).unwrap();
        assert_eq!(second, Burst { sn: 1, offset: 12_288, len: 20_000 - 12_288 });
        assert_eq!(flow.ask(&TERMS, 20_000), None);
        assert_eq!(flow.data_out(Some(1), 0, 4096, 10, false), Err(Fault::Unexpected), "in their order");
        flow.data_out(Some(0), 0, 4096, 8000, false).unwrap();
        flow.arrived();
        flow.data_out(Some(0), 1, 12_096, 192, true).unwrap();
        flow.arrived();
        flow.data_out(Some(1), 0, 12_288, second.len, true).unwrap();
        flow.arrived();
        assert_eq!((flow.received(), flow.is_open(), flow.ask(&TERMS, 20_000)), (20_000, false, None));
    }

    #[test]
    fn unsolicited_data_may_end_early() {
        let mut flow = Inflow::new(&TERMS, 10_000, 0, false).unwrap();
        flow.data_out(None, 0, 0, 512, true).unwrap();
        flow.arrived();
        assert_eq!(flow.ask(&TERMS, 10_000).unwrap().offset, 512);
        let full = Inflow::new(&TERMS, 4096, 4096, false).unwrap();
        assert!(!full.is_unsolicited(), "nothing is left to come");
    }

    #[test]
    fn what_was_not_agreed_is_refused() {
        let terms = Terms { immediate_data: false, ..TERMS };
        assert_eq!(Inflow::new(&terms, 512, 1, true).unwrap_err(), Fault::Unexpected);
        let terms = Terms { initial_r2t: true, ..TERMS };
        assert_eq!(Inflow::new(&terms, 512, 0, false).unwrap_err(), Fault::Unexpected);
        assert!(Inflow::new(&terms, 512, 512, true).is_ok());
        assert_eq!(Inflow::new(&TERMS, 512, 513, true).unwrap_err(), Fault::Amount);
        assert_eq!(Inflow::new(&TERMS, 9000, 4097, true).unwrap_err(), Fault::Amount);
    }

    #[test]
    fn gaps_and_wrong_lengths_are_seen() {
        let start = |terms| {
            let mut flow = Inflow::new(terms, 8192, 0, true).unwrap();
            flow.ask(terms, 8192).unwrap();
            flow
        };
        assert_eq!(start(&TERMS).data_out(Some(0), 1, 0, 512, false), Err(Fault::Sequence));
        assert_eq!(start(&TERMS).data_out(Some(0), 0, 512, 512, false), Err(Fault::Sequence));
        assert_eq!(start(&TERMS).data_out(Some(0), 0, 0, 512, true), Err(Fault::Amount));
        assert_eq!(start(&TERMS).data_out(Some(0), 0, 0, 8192, false), Err(Fault::Amount));
        assert_eq!(start(&TERMS).data_out(Some(0), 0, 0, u32::MAX, true), Err(Fault::Amount));
        assert_eq!(start(&TERMS).data_out(None, 0, 0, 1, true), Err(Fault::Unexpected));
        let mut flow = start(&TERMS);
        flow.spoil(Some(0), false);
        assert!(flow.is_open());
        flow.spoil(Some(0), true);
        assert!(!flow.is_open());
    }
}
