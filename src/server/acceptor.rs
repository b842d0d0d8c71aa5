//! Letting connections in: their places, TLS, and when to stop.

use std::{io, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    calls::Calls,
    connection::{Duplex, Greeted, Peer, Socket},
    places::{Place, Places},
    settings::ServerSettings,
    stay::{Stay, StayParts},
    tls::Certificates,
};
use crate::auth::CertificateNames;

/// How long to wait when the system has no more files to give.
const PAUSE: Duration = Duration::from_millis(100);

/// What every connection passes.
#[derive(Debug, Clone)]
pub(super) struct Door {
    certificates: Option<Arc<Certificates>>,
    places: Arc<Places>,
    handshake_timeout: Duration,
    stay: Stay,
    shutdown: CancellationToken,
}

impl Door {
    pub(super) fn new(
        settings: &ServerSettings,
        certificates: Option<Arc<Certificates>>,
        stay: StayParts,
    ) -> Self {
        Self {
            certificates,
            places: Arc::new(Places::new(settings)),
            handshake_timeout: settings.handshake_timeout,
            shutdown: stay.shutdown.clone(),
            stay: Stay::new(settings, stay),
        }
    }

    /// Lets in until shutdown, when the port closes; returns once every connection is closed.
    pub(super) async fn serve(self, sockets: BoxStream<'static, io::Result<Socket>>, calls: Calls) {
        let connections = TaskTracker::new();
        self.watch(sockets, &calls, &connections).await;
        connections.close();
        connections.wait().await;
    }

    async fn watch(
        &self,
        mut sockets: BoxStream<'static, io::Result<Socket>>,
        calls: &Calls,
        connections: &TaskTracker,
    ) {
        loop {
            let socket = tokio::select! {
                () = self.shutdown.cancelled() => return,
                socket = sockets.next() => socket,
            };
            match socket {
                None => return,
                Some(Ok(socket)) => {
                    let place = self.places.take(socket.address);
                    connections.spawn(self.clone().admit(socket, place, calls.clone()));
                }
                Some(Err(error)) => {
                    // Mostly too many open files. The port stays, or nobody could ever call again.
                    tracing::warn!(%error, "could not accept a connection");
                    self.places.relieve();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn admit(self, socket: Socket, place: Place, calls: Calls) {
        let Socket { stream, address } = socket;
        let encrypted = tokio::select! {
            encrypted = self.encrypted(stream) => encrypted,
            () = self.shutdown.cancelled() => return,
            () = place.leave.cancelled() => return,
        };
        match encrypted {
            Err(error) => tracing::debug!(peer = ?address, %error, "closed: no TLS"),
            Ok((stream, names)) => {
                let stream = Greeted::new(stream, self.handshake_timeout);
                let peer = Peer { address, names: Arc::new(names), place };
                self.stay.serve(stream, Arc::new(peer), calls).await;
            }
        }
    }

    async fn encrypted(
        &self,
        stream: Box<dyn Duplex>,
    ) -> io::Result<(Box<dyn Duplex>, CertificateNames)> {
        let Some(certificates) = &self.certificates else {
            return Ok((stream, CertificateNames::default()));
        };
        let handshake = TlsAcceptor::from(certificates.current()).accept(stream);
        let stream =
            tokio::time::timeout(self.handshake_timeout, handshake).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")
            })??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = shown.map(|certificate| CertificateNames::read(certificate));
        Ok((Box::new(stream), names.unwrap_or_default()))
    }
}
