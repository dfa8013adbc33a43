//! TLS over a non-blocking socket, with memory in between: large sends, few system calls.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::RawFd;

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, Ssl, SslStream};

use super::net;
use super::tls_config::{Identity, TlsConfig};

/// The longest plaintext of a record.
const RECORD: usize = 16 << 10;
/// Ciphertext that is made before the socket is asked to take it.
const SEND_BYTES: usize = 256 << 10;
/// What a spare buffer may hold: ciphertext of so much plaintext, one record more, and what records add.
const SPARE_BYTES: usize = SEND_BYTES + 2 * RECORD;
/// Ciphertext that is received at once.
const RECV_BYTES: usize = 64 << 10;
/// Ciphertext that each byte of plaintext pays for: records that are small have more around them than in them.
const PAYS_FOR: usize = 32;
/// Ciphertext that nothing pays for, above which a connection is ended. What comes with no plaintext at all, as updates
/// of keys, costs a shard more than all else that a peer may send; no client needs more than a few.
const UNPAID_BYTES: usize = 64 << 10;

thread_local! {
    /// Buffers that connections of this shard use for the time of a call, so that idle ones hold none.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take_spare(vec: &mut Vec<u8>) {
    if vec.capacity() == 0 {
        *vec = SPARE.with_borrow_mut(|spare| spare.pop()).unwrap_or_default();
    }
}

fn give_spare(vec: &mut Vec<u8>) {
    let mut vec = std::mem::take(vec);
    vec.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < 4 && vec.capacity() <= SPARE_BYTES {
            spare.push(vec);
        }
    });
}

/// What OpenSSL takes for the network.
#[derive(Default)]
struct Memory {
    input: Vec<u8>,
    input_at: usize,
    output: Vec<u8>,
    output_at: usize,
}

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let waiting = &self.input[self.input_at..];
        if waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = waiting.len().min(buf.len());
        buf[..count].copy_from_slice(&waiting[..count]);
        self.input_at += count;
        Ok(count)
    }
}

impl Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        take_spare(&mut self.output);
        if self.output.capacity() < self.output.len() + buf.len() && self.output.len() > RECORD {
            // Once, and not by doubling.
            self.output.reserve_exact(SPARE_BYTES.saturating_sub(self.output.len()).max(buf.len()));
        }
        self.output.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn unsent(&self) -> usize {
        self.output.len() - self.output_at
    }

    /// Sends ciphertext until none is left. `WouldBlock`: the socket took nothing; what is
    /// taken in part is `Ok` as well, and `unsent` tells.
    fn flush_to(&mut self, fd: RawFd) -> io::Result<()> {
        let mut progress = false;
        while self.unsent() > 0 {
            match net::send(fd, &self.output[self.output_at..]) {
                Ok(count) => {
                    progress = true;
                    self.output_at += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && progress => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output_at = 0;
        give_spare(&mut self.output);
        Ok(())
    }

    /// Receives ciphertext, all earlier one being used up. 0: the peer has closed.
    fn fill_from(&mut self, fd: RawFd) -> io::Result<usize> {
        debug_assert_eq!(self.input_at, self.input.len());
        take_spare(&mut self.input);
        self.input_at = 0;
        self.input.resize(RECV_BYTES, 0);
        let result = net::recv(fd, &mut self.input, &mut []);
        self.input.truncate(*result.as_ref().unwrap_or(&0));
        if self.input.is_empty() {
            give_spare(&mut self.input);
        }
        result
    }
}

/// The TLS layer of one connection.
pub struct TlsStream {
    ssl: SslStream<Memory>,
    eof: bool,
    /// Ciphertext of the last [`TlsStream::recv`], bytes.
    received: usize,
    /// Ciphertext that plaintext has not paid for, bytes.
    unpaid: usize,
}

fn failure(stack: &ErrorStack) -> io::Error {
    let reason = stack.errors().first().and_then(|error| error.reason()).unwrap_or("TLS failure");
    io::Error::other(format!("TLS: {reason}"))
}

fn ssl_failure(error: &openssl::ssl::Error) -> io::Error {
    match error.ssl_error() {
        Some(stack) => failure(stack),
        None => io::Error::other("TLS: broken off"),
    }
}

impl TlsStream {
    /// A server's side, before its handshake.
    pub fn new(config: &TlsConfig) -> io::Result<Self> {
        let ssl = Ssl::new(config.context()).map_err(|stack| failure(&stack))?;
        let ssl = SslStream::new(ssl, Memory::default()).map_err(|stack| failure(&stack))?;
        Ok(Self { ssl, eof: false, received: 0, unpaid: 0 })
    }

    /// Takes the handshake as far as it goes; true: it is done. After true there may be unsent bytes.
    pub fn handshake(&mut self, fd: RawFd) -> io::Result<bool> {
        loop {
            let step = self.ssl.accept();
            // Alerts too must leave; a full socket can only be an abuse here.
            if self.has_unsent() {
                let flushed = self.ssl.get_mut().flush_to(fd);
                if step.is_ok() {
                    flushed?;
                }
            }
            match step {
                Ok(()) => return Ok(true),
                Err(error) if error.code() == ErrorCode::WANT_READ => {
                    if self.ssl.get_mut().fill_from(fd)? == 0 {
                        return Err(io::Error::other("closed during the TLS handshake"));
                    }
                }
                Err(error) => return Err(ssl_failure(&error)),
            }
        }
    }

    /// Who the peer is, once the handshake is done.
    pub fn identity(&self) -> Identity {
        Identity::of(self.ssl.ssl())
    }

    /// The protocol's version, as OpenSSL names it.
    pub fn version(&self) -> &'static str {
        self.ssl.ssl().version_str()
    }

    /// Receives plaintext into one or two places; 0: the peer has closed.
    pub fn recv(&mut self, fd: RawFd, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        let mut total = 0;
        self.received = 0;
        let bound = first.len() + second.len() + RECV_BYTES;
        for place in [first, second] {
            let mut filled = 0;
            while filled < place.len() {
                if self.received > bound && total + filled > 0 {
                    return Ok(total + filled);
                }
                match self.read_some(fd, &mut place[filled..]) {
                    Ok(0) if total + filled > 0 => return Ok(total + filled),
                    Ok(0) => return Ok(0),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && total + filled > 0 => {
                        return Ok(total + filled);
                    }
                    Err(error) => return Err(error),
                }
            }
            total += filled;
        }
        Ok(total)
    }

    fn read_some(&mut self, fd: RawFd, place: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.eof {
                return Ok(0);
            }
            match self.ssl.ssl_read(place) {
                Ok(count) => {
                    self.unpaid = self.unpaid.saturating_sub(count * PAYS_FOR);
                    return Ok(count);
                }
                Err(error) if error.code() == ErrorCode::WANT_READ => {
                    if self.unpaid > UNPAID_BYTES {
                        return Err(io::Error::other("TLS: hardly anything but messages of its own"));
                    }
                    let count = self.ssl.get_mut().fill_from(fd)?;
                    // Many clients close without a goodbye; NBD's own framing shows what is missing.
                    self.eof = count == 0;
                    self.received += count;
                    self.unpaid += count;
                }
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => self.eof = true,
                Err(error) => return Err(ssl_failure(&error)),
            }
        }
    }

    /// Ciphertext that the last [`TlsStream::recv`] has received, bytes.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Encrypts and sends; says how many plaintext bytes are taken. `WouldBlock`: earlier ones
    /// are still on their way.
    pub fn send<'a>(&mut self, fd: RawFd, slices: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        if self.has_unsent() {
            self.ssl.get_mut().flush_to(fd)?;
            if self.has_unsent() {
                return Ok(0);
            }
        }
        let mut taken = 0;
        let mut gather = Vec::new();
        take_spare(&mut gather);
        for slice in slices {
            if self.ssl.get_ref().unsent() >= SEND_BYTES {
                break;
            }
            // Whole records as long as there is room, at least one.
            let room = (SEND_BYTES - self.ssl.get_ref().unsent()).next_multiple_of(RECORD);
            let portion = &slice[..slice.len().min(room)];
            taken += portion.len();
            self.encrypt(portion, &mut gather)?;
            if portion.len() < slice.len() {
                break;
            }
        }
        self.write_record(&gather)?;
        give_spare(&mut gather);
        match self.ssl.get_mut().flush_to(fd) {
            // The plaintext is taken in any case; the next call waits for the rest.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Small pieces share a record, large ones need no copy.
    fn encrypt(&mut self, slice: &[u8], gather: &mut Vec<u8>) -> io::Result<()> {
        if gather.len() + slice.len() <= RECORD {
            gather.extend_from_slice(slice);
            return Ok(());
        }
        self.write_record(gather)?;
        gather.clear();
        let mut records = slice.chunks_exact(RECORD);
        for record in records.by_ref() {
            self.write_record(record)?;
        }
        gather.extend_from_slice(records.remainder());
        Ok(())
    }

    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        if record.is_empty() {
            return Ok(());
        }
        match self.ssl.ssl_write(record) {
            Ok(count) if count == record.len() => Ok(()),
            Ok(_) => Err(io::Error::other("TLS: a record was written in part")),
            Err(error) => Err(ssl_failure(&error)),
        }
    }

    /// Is ciphertext waiting for the socket?
    pub fn has_unsent(&self) -> bool {
        self.unsent() > 0
    }

    /// How much of it, bytes.
    pub fn unsent(&self) -> usize {
        self.ssl.get_ref().unsent()
    }

    /// Memory held for ciphertext of either direction, bytes.
    pub fn ciphertext_bytes(&self) -> usize {
        let memory = self.ssl.get_ref();
        memory.input.capacity() + memory.output.capacity()
    }

    /// Sends the closing alert, if the socket takes it.
    pub fn close_notify(&mut self, fd: RawFd) {
        let _ = self.ssl.shutdown();
        let _ = self.ssl.get_mut().flush_to(fd);
    }
}
