//! Accepts connections: a slot for each, TLS, and when to stop.

use std::{io, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{Duplex, Greeted, Peer, Socket},
    connection_slots::{ConnectionSlot, ConnectionSlots},
    layers::LayeredServices,
    lifetime::{EndSignals, Lifetime},
    settings::ServerSettings,
    tls::Certificates,
};
use crate::auth::CertificateNames;

/// How long to wait when the process has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and serves each until it is closed.
#[derive(Debug, Clone)]
pub(super) struct Acceptor {
    certificates: Option<Arc<Certificates>>,
    slots: Arc<ConnectionSlots>,
    handshake_timeout: Duration,
    lifetime: Lifetime,
    shutdown: CancellationToken,
}

impl Acceptor {
    pub(super) fn new(
        settings: &ServerSettings,
        certificates: Option<Arc<Certificates>>,
        signals: EndSignals,
    ) -> Self {
        Self {
            certificates,
            slots: Arc::new(ConnectionSlots::new(settings)),
            handshake_timeout: settings.handshake_timeout,
            shutdown: signals.shutdown.clone(),
            lifetime: Lifetime::new(settings, signals),
        }
    }

    /// Accepts until shutdown, when the port closes; returns once every connection is closed.
    pub(super) async fn serve(
        self,
        sockets: BoxStream<'static, io::Result<Socket>>,
        services: LayeredServices,
    ) {
        let connections = TaskTracker::new();
        self.accept(sockets, &services, &connections).await;
        connections.close();
        connections.wait().await;
    }

    async fn accept(
        &self,
        mut sockets: BoxStream<'static, io::Result<Socket>>,
        services: &LayeredServices,
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
                    let slot = self.slots.take(socket.address);
                    connections.spawn(self.clone().serve_one(socket, slot, services.clone()));
                }
                Some(Err(error)) => {
                    // Mostly too many open files. The port stays open, or no client could call again.
                    tracing::warn!(%error, "could not accept a connection");
                    self.slots.free_one();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn serve_one(self, socket: Socket, slot: ConnectionSlot, services: LayeredServices) {
        let Socket { stream, address } = socket;
        let encrypted = tokio::select! {
            encrypted = self.encrypted(stream) => encrypted,
            () = self.shutdown.cancelled() => return,
            () = slot.leave.cancelled() => return,
        };
        match encrypted {
            Err(error) => tracing::debug!(peer = ?address, %error, "closed: no TLS"),
            Ok((stream, names)) => {
                let stream = Greeted::new(stream, self.handshake_timeout);
                let peer = Peer { address, names: Arc::new(names), slot };
                self.lifetime.serve(stream, Arc::new(peer), services).await;
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
