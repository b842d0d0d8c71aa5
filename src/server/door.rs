//! Letting connections in: the limit, TLS, and when to stop.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, Duplex, Peer, Socket},
    settings::ServerSettings,
    tls::Certificates,
};
use crate::auth::certificate_names;

/// How long to wait when the system has no more files to give.
const PAUSE: Duration = Duration::from_millis(100);

/// What every connection passes.
#[derive(Debug, Clone)]
pub(super) struct Door {
    certificates: Option<Arc<Certificates>>,
    places: Arc<Semaphore>,
    handshake_timeout: Duration,
    abort: CancellationToken,
}

impl Door {
    pub(super) fn new(
        settings: &ServerSettings,
        certificates: Option<Arc<Certificates>>,
        abort: CancellationToken,
    ) -> Self {
        let places = settings.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            certificates,
            places: Arc::new(Semaphore::new(places)),
            handshake_timeout: settings.handshake_timeout,
            abort,
        }
    }

    /// The connections of those who were let in, until `shutdown`, when the port closes.
    pub(super) fn open(
        self,
        sockets: BoxStream<'static, io::Result<Socket>>,
        shutdown: CancellationToken,
    ) -> impl Stream<Item = Result<Connection, Infallible>> {
        let (let_in, connections) = mpsc::channel(16);
        tokio::spawn(self.watch(sockets, let_in, shutdown));
        ReceiverStream::new(connections).map(Ok)
    }

    async fn watch(
        self,
        mut sockets: BoxStream<'static, io::Result<Socket>>,
        let_in: mpsc::Sender<Connection>,
        shutdown: CancellationToken,
    ) {
        // Dropped at the end, and with them the handshakes that are not done.
        let mut handshakes = JoinSet::new();
        loop {
            let socket = tokio::select! {
                () = shutdown.cancelled() => return,
                () = let_in.closed() => return,
                Some(_) = handshakes.join_next() => continue,
                socket = sockets.next() => socket,
            };
            match socket {
                None => break,
                Some(Ok(socket)) => {
                    let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                        tracing::warn!(peer = ?socket.address, "closed: too many connections");
                        continue;
                    };
                    handshakes.spawn(self.clone().admit(socket, place, let_in.clone()));
                }
                Some(Err(error)) => {
                    // Mostly too many open files. The port stays, or nobody could ever call again.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        while handshakes.join_next().await.is_some() {}
    }

    async fn admit(
        self,
        socket: Socket,
        place: OwnedSemaphorePermit,
        let_in: mpsc::Sender<Connection>,
    ) {
        let Socket { stream, address } = socket;
        let (stream, names) = match &self.certificates {
            None => (stream, Vec::new()),
            Some(certificates) => {
                let handshake = encrypt(certificates, stream);
                match tokio::time::timeout(self.handshake_timeout, handshake).await {
                    Ok(Ok(encrypted)) => encrypted,
                    Ok(Err(error)) => {
                        tracing::debug!(peer = ?address, %error, "closed: no TLS");
                        return;
                    }
                    Err(_) => {
                        tracing::debug!(peer = ?address, "closed: TLS took too long");
                        return;
                    }
                }
            }
        };
        let peer = Peer { address, names: names.into() };
        let connection = Connection::new((stream, peer), self.handshake_timeout, self.abort, place);
        // Nobody listens any more when the server is ending.
        let _ = let_in.send(connection).await;
    }
}

async fn encrypt(
    certificates: &Certificates,
    stream: Box<dyn Duplex>,
) -> io::Result<(Box<dyn Duplex>, Vec<String>)> {
    let stream = TlsAcceptor::from(certificates.current()).accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let names = shown.map(|certificate| certificate_names(certificate)).unwrap_or_default();
    Ok((Box::new(stream), names))
}
