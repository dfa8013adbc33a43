//! What the tests of the block layer and the backstores share: a small random source whose seed is printed.

use std::time::{SystemTime, UNIX_EPOCH};

/// xorshift64*: good enough to shuffle test cases, and the same on every machine.
pub struct Rng(u64);

impl Rng {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform enough in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.bits() >> 11) % bound
    }
}

/// The seed of this run: `BLOCKGATE_SEED`, or a new one. Printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var("BLOCKGATE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64));
    println!("BLOCKGATE_SEED={seed}");
    seed
}
