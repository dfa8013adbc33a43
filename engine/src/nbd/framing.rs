//! Framing of the handshake: client flags, then options. What they mean is Python's to say.

/// "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Bytes of an option's header: magic, option, length.
const OPTION_HEAD: usize = 16;

/// What the peer said.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The 32 bits of client flags.
    Flags(u32),
    /// An option with its data; `oversize` ones come without.
    Option { option: u32, data: Vec<u8>, oversize: bool },
}

/// Why the peer cannot be followed any further.
pub type Violation = &'static str;

#[derive(Debug)]
enum State {
    Flags,
    Option,
    Skip { option: u32, left: usize },
}

/// Collects handshake messages out of bytes that come in any portions.
#[derive(Debug)]
pub struct Framer {
    state: State,
    option_bytes: usize,
    skip_bytes: usize,
}

impl Framer {
    /// Expects client flags first. Options above `option_bytes` are skipped, those above
    /// `skip_bytes` are a violation.
    pub fn new(option_bytes: usize, skip_bytes: usize) -> Self {
        Self { state: State::Flags, option_bytes, skip_bytes }
    }

    /// Takes bytes off the front of `input`; says how many, and the frame if one is complete.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), Violation> {
        match &mut self.state {
            State::Flags => {
                let Some(flags) = input.first_chunk() else { return Ok((0, None)) };
                self.state = State::Option;
                Ok((4, Some(Frame::Flags(u32::from_be_bytes(*flags)))))
            }
            State::Option => self.option(input),
            State::Skip { option, left } => {
                let taken = input.len().min(*left);
                *left -= taken;
                if *left > 0 {
                    return Ok((taken, None));
                }
                let frame = Frame::Option { option: *option, data: Vec::new(), oversize: true };
                self.state = State::Option;
                Ok((taken, Some(frame)))
            }
        }
    }

    fn option(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), Violation> {
        // The magic is looked at as soon as it is there: garbage need not be waited out.
        let Some((magic, rest)) = input.split_first_chunk::<8>() else { return Ok((0, None)) };
        if u64::from_be_bytes(*magic) != OPTION_MAGIC {
            return Err("option without its magic number");
        }
        let Some((option, rest)) = rest.split_first_chunk::<4>() else { return Ok((0, None)) };
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok((0, None)) };
        let option = u32::from_be_bytes(*option);
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.skip_bytes {
            return Err("option longer than any that is skipped");
        }
        if length > self.option_bytes {
            self.state = State::Skip { option, left: length };
            return Ok((OPTION_HEAD, None));
        }
        let Some(data) = rest.get(..length) else { return Ok((0, None)) };
        let frame = Frame::Option { option, data: data.to_vec(), oversize: false };
        Ok((OPTION_HEAD + length, Some(frame)))
    }

    /// Most bytes that an unfinished frame leaves in the caller's hands.
    pub fn pending_bytes(&self) -> usize {
        OPTION_HEAD + self.option_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(option: u32, data: &[u8]) -> Vec<u8> {
        let mut out = b"IHAVEOPT".to_vec();
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        out
    }

    /// Feeds `bytes` in portions of `step`, as a connection would.
    fn frames(bytes: &[u8], step: usize) -> Result<Vec<Frame>, Violation> {
        let mut framer = Framer::new(100, 1000);
        let (mut input, mut out) = (Vec::new(), Vec::new());
        for portion in bytes.chunks(step) {
            input.extend_from_slice(portion);
            loop {
                let (taken, frame) = framer.next(&input)?;
                input.drain(..taken);
                assert!(input.len() <= framer.pending_bytes() + step);
                out.extend(frame);
                if taken == 0 {
                    break;
                }
            }
        }
        Ok(out)
    }

    #[test]
    fn frames_come_out_the_same_however_the_bytes_arrive() {
        let mut bytes = vec![0, 0, 0, 3];
        bytes.extend(option(7, b"export"));
        bytes.extend(option(3, &[0; 500]));
        bytes.extend(option(2, b""));
        let expected = [
            Frame::Flags(3),
            Frame::Option { option: 7, data: b"export".to_vec(), oversize: false },
            Frame::Option { option: 3, data: vec![], oversize: true },
            Frame::Option { option: 2, data: vec![], oversize: false },
        ];
        for step in [1, 2, 3, 7, 16, 64, 10_000] {
            assert_eq!(frames(&bytes, step).unwrap(), expected, "portions of {step}");
        }
    }

    #[test]
    fn garbage_and_giants_are_violations() {
        assert!(frames(b"\0\0\0\x01GET / HTTP/1.1", 4).is_err());
        assert!(frames(&[&[0; 4][..], &option(1, &[0; 1001])[..20]].concat(), 5).is_err());
    }
}
