//! A connection's bytes, in the clear or under TLS: the same calls for both.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::net;
use super::tls::TlsStream;

/// A non-blocking stream socket with or without TLS.
pub struct Transport {
    fd: OwnedFd,
    tls: Option<Box<TlsStream>>,
}

impl Transport {
    /// A connection in the clear.
    pub fn plain(fd: OwnedFd) -> Self {
        Self { fd, tls: None }
    }

    /// The socket.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Puts TLS over it: from now on the peer's bytes are the handshake's.
    pub fn start_tls(&mut self, stream: TlsStream) {
        debug_assert!(self.tls.is_none());
        self.tls = Some(Box::new(stream));
    }

    /// The TLS layer, if there is one.
    pub fn tls(&self) -> Option<&TlsStream> {
        self.tls.as_deref()
    }

    /// Goes on with the TLS handshake; true when it is done.
    pub fn handshake(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            Some(tls) => tls.handshake(self.fd.as_raw_fd()),
            None => Ok(true),
        }
    }

    /// Receives into one or two places, in order; 0: the peer has closed.
    pub fn recv(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => net::recv(self.fd.as_raw_fd(), first, second),
            Some(tls) => tls.recv(self.fd.as_raw_fd(), first, second),
        }
    }

    /// Sends parts; says how many of their bytes are taken (under TLS some may still be on
    /// their way, see [`Transport::has_unsent`]).
    ///
    /// # Safety
    /// Every part must be readable for its length.
    pub unsafe fn send_parts(&mut self, parts: &mut [libc::iovec]) -> io::Result<usize> {
        match &mut self.tls {
            // SAFETY: as this function's caller has promised.
            None => unsafe { net::send_parts(self.fd.as_raw_fd(), parts) },
            Some(tls) => {
                let fd = self.fd.as_raw_fd();
                // SAFETY: as above; a vanished length would be no slice.
                let slices = parts
                    .iter()
                    .filter(|part| part.iov_len > 0)
                    .map(|part| unsafe { std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len) });
                tls.send(fd, slices)
            }
        }
    }

    /// Are there bytes, taken by `send_parts`, that the socket has not taken yet?
    pub fn has_unsent(&self) -> bool {
        self.unsent() > 0
    }

    /// Ciphertext that waits for the socket, bytes.
    pub fn unsent(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.unsent())
    }

    /// Memory that TLS holds for ciphertext, bytes.
    pub fn ciphertext_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.ciphertext_bytes())
    }

    /// Says goodbye: the end of TLS, then of our direction.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close_notify(self.fd.as_raw_fd());
        }
        net::shutdown(self.fd.as_raw_fd(), libc::SHUT_WR);
    }
}
