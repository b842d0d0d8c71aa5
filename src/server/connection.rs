//! One connection, encrypted or not.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::connection_slots::ConnectionSlot;
use crate::auth::CertificateNames;

/// A stream of bytes in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A stream that a client has opened, before TLS.
pub struct Socket {
    pub(super) stream: Box<dyn Duplex>,
    pub(super) address: Option<SocketAddr>,
}

impl Socket {
    /// `address` is the client's, where there is one.
    pub fn new(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: Option<SocketAddr>,
    ) -> Self {
        Self { stream: Box::new(stream), address }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where it calls from; `None` within the process.
    pub(super) address: Option<SocketAddr>,
    /// The names in its certificate, which was verified.
    pub(super) names: Arc<CertificateNames>,
    /// The connection's slot.
    pub(super) slot: ConnectionSlot,
}

impl Peer {
    /// Where it calls from, without the port.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.address.as_ref().map(SocketAddr::ip)
    }
}

/// A stream whose client must send the HTTP/2 preface in time; the transport itself would wait for it
/// without end.
pub(super) struct Greeted {
    stream: Box<dyn Duplex>,
    greeting: Option<Greeting>,
}

/// The first bytes of HTTP/2, and when they must be here.
struct Greeting {
    bytes_missing: usize,
    late: Pin<Box<Sleep>>,
}

/// What an HTTP/2 client sends first, in bytes.
const PREFACE: usize = 24;

impl Greeted {
    pub(super) fn new(stream: Box<dyn Duplex>, within: Duration) -> Self {
        let late = Box::pin(tokio::time::sleep(within));
        Self { stream, greeting: Some(Greeting { bytes_missing: PREFACE, late }) }
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if let Some(greeting) = &mut self.greeting {
            greeting.bytes_missing = greeting.bytes_missing.saturating_sub(read);
            if greeting.bytes_missing == 0 {
                self.greeting = None;
            } else if polled.is_pending() && greeting.late.poll_unpin(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
