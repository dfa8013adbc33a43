//! CmdSN: the order in which a session's commands are delivered, and how many may come (RFC 7143 4.2.2.1).

use super::wire::sn_lt;

/// What becomes of a PDU that carries a CmdSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is the next one.
    Now,
    /// Others come before it, on the session's other connections.
    Early,
    /// Outside the window, or there already: silently ignored.
    Ignore,
}

/// A session's ExpCmdSN and MaxCmdSN.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    expected: u32,
    most: u32,
}

impl Window {
    /// Nothing is granted beyond the first command.
    pub fn new(expected: u32) -> Self {
        Self { expected, most: expected }
    }

    /// ExpCmdSN.
    pub fn expected(&self) -> u32 {
        self.expected
    }

    /// MaxCmdSN.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Is there no credit left?
    pub fn is_shut(&self) -> bool {
        sn_lt(self.most, self.expected)
    }

    /// Where a CmdSN stands.
    pub fn look(&self, cmd_sn: u32) -> Turn {
        if sn_lt(cmd_sn, self.expected) || sn_lt(self.most, cmd_sn) {
            return Turn::Ignore;
        }
        match cmd_sn == self.expected {
            true => Turn::Now,
            false => Turn::Early,
        }
    }

    /// The same; takes it if it is the next.
    pub fn take(&mut self, cmd_sn: u32) -> Turn {
        let turn = self.look(cmd_sn);
        if turn == Turn::Now {
            self.expected = self.expected.wrapping_add(1);
        }
        turn
    }

    /// Room for `credit` commands from the expected one on. What has been granted stays granted.
    pub fn grant(&mut self, credit: u32) {
        let most = self.expected.wrapping_add(credit).wrapping_sub(1);
        if sn_lt(self.most, most) {
            self.most = most;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_in_order() {
        let mut window = Window::new(0xffff_fffe);
        window.grant(4);
        assert_eq!(window.most(), 1);
        assert_eq!(window.take(0), Turn::Early);
        assert_eq!(window.take(0xffff_fffe), Turn::Now);
        assert_eq!(window.take(0xffff_fffe), Turn::Ignore, "there already");
        assert_eq!(window.take(2), Turn::Ignore, "beyond MaxCmdSN");
        assert_eq!(window.take(0xffff_ffff), Turn::Now);
        assert_eq!((window.take(0), window.take(1), window.take(2)), (Turn::Now, Turn::Now, Turn::Ignore));
    }

    #[test]
    fn a_grant_is_never_taken_back() {
        let mut window = Window::new(10);
        window.grant(8);
        window.grant(0);
        assert_eq!((window.expected(), window.most()), (10, 17));
        for sn in 10..18 {
            assert_eq!(window.take(sn), Turn::Now);
        }
        assert_eq!(window.take(18), Turn::Ignore, "closed: MaxCmdSN is ExpCmdSN - 1");
        window.grant(1);
        assert_eq!(window.take(18), Turn::Now);
    }
}
