//! The listener: TLS, layers, health, reflection.
//!
//! One call passes, from outside in: `acceptor` (slots for connections, TLS), `lifetime` (HTTP/2, and
//! how long a connection stays open), `layers` (request id, span, metrics, credentials, deadlines,
//! panics), and the service.

mod acceptor;
mod connection;
mod connection_slots;
mod error;
mod layers;
mod lifetime;
mod services;
mod settings;
mod tls;

use std::{net::SocketAddr, sync::Arc};

use futures::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use connection::Socket;
pub use error::{CertificateError, ServerError};
pub use layers::{CallObserver, RequestName};
pub use services::services;
pub use settings::{ServerSettings, TlsSettings};

use crate::auth::Authenticator;
use acceptor::Acceptor;
use layers::{Admission, LayerParts, LayeredServices, Methods};
use lifetime::EndSignals;
use services::{HealthBoard, with_reflection};
use tls::Certificates;

#[cfg(test)]
mod tests;

/// What a server is made of.
#[derive(Debug)]
pub struct ServerParts {
    /// The services, see [`services`].
    pub services: Routes,
    /// Identifies callers.
    pub authenticator: Arc<Authenticator>,
    /// Whether health checks answer "serving"; "not serving" once the sender is gone.
    pub ready: watch::Receiver<bool>,
    /// Observes every call that ends.
    pub observer: Arc<dyn CallObserver>,
}

/// A server whose port is open and which accepts no connection yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    core: Core,
}

impl Server {
    /// Reads the certificates and opens the port.
    pub async fn bind(settings: ServerSettings, parts: ServerParts) -> Result<Self, ServerError> {
        let listen = settings.listen;
        let refused = |source| ServerError::Listen { address: listen, source };
        let core = Core::new(settings, parts).await?;
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address, core })
    }

    /// The address that it listens on; the port is the real one where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Reads tokens and certificates again, for SIGHUP.
    pub fn reloader(&self) -> Reloader {
        self.core.reloader.clone()
    }

    /// Serves until `shutdown`: then it accepts no connection, and returns once the calls in flight
    /// have ended. `abort` cuts every connection and ends at once.
    pub async fn serve(
        self,
        shutdown: CancellationToken,
        abort: CancellationToken,
    ) -> Result<(), ServerError> {
        let sockets = stream::unfold(self.listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, address)| {
                // Small messages must not wait for large ones; a stream without it works, too.
                let _ = stream.set_nodelay(true);
                Socket::new(stream, Some(address))
            });
            Some((accepted, listener))
        });
        self.core.serve(sockets.boxed(), shutdown, abort).await
    }
}

/// Serves streams that something else has opened, such as pipes within the process, as
/// [`Server::serve`] does; ends when `sockets` does and all are closed.
pub async fn serve_sockets(
    settings: ServerSettings,
    parts: ServerParts,
    sockets: impl Stream<Item = Socket> + Send + 'static,
    shutdown: CancellationToken,
    abort: CancellationToken,
) -> Result<(), ServerError> {
    let core = Core::new(settings, parts).await?;
    core.serve(sockets.map(Ok).boxed(), shutdown, abort).await
}

/// Reads again what can change without a restart.
#[derive(Debug, Clone)]
pub struct Reloader {
    authenticator: Arc<Authenticator>,
    certificates: Option<Arc<Certificates>>,
}

impl Reloader {
    /// Reads tokens and certificates now. What cannot be used is logged, and the old stays.
    pub async fn reload(&self) {
        if let Err(error) = self.authenticator.reload().await {
            tracing::error!(%error, "the tokens read before still count");
        }
        if let Some(certificates) = &self.certificates
            && let Err(error) = certificates.reload().await
        {
            tracing::error!(%error, "the certificates read before are still used");
        }
    }
}

/// Everything but where connections come from.
#[derive(Debug)]
struct Core {
    settings: ServerSettings,
    routes: Routes,
    admission: Admission,
    observer: Arc<dyn CallObserver>,
    health: HealthBoard,
    methods: Arc<Methods>,
    reloader: Reloader,
}

impl Core {
    async fn new(settings: ServerSettings, parts: ServerParts) -> Result<Self, ServerError> {
        let certificates = match settings.tls.clone() {
            None => None,
            Some(files) => Some(Arc::new(Certificates::read(files).await?)),
        };
        let health = HealthBoard::not_serving(parts.ready).await;
        let mut routes = parts.services.add_service(health.service());
        if settings.reflection {
            routes = with_reflection(routes)?;
        }
        let authenticator = parts.authenticator;
        Ok(Self {
            routes,
            admission: Admission::new(Arc::clone(&authenticator)),
            observer: parts.observer,
            health,
            methods: Arc::new(Methods::read()?),
            reloader: Reloader { authenticator, certificates },
            settings,
        })
    }

    async fn serve(
        self,
        sockets: stream::BoxStream<'static, std::io::Result<Socket>>,
        shutdown: CancellationToken,
        abort: CancellationToken,
    ) -> Result<(), ServerError> {
        let settings = &self.settings;
        let services = LayeredServices(Arc::new(LayerParts {
            services: self.routes.prepare(),
            admission: self.admission,
            observer: self.observer,
            methods: self.methods,
            max_message_bytes: settings.max_message_bytes,
            draining: shutdown.clone(),
        }));
        let signals = EndSignals { shutdown: shutdown.clone(), abort: abort.clone() };
        let acceptor = Acceptor::new(settings, self.reloader.certificates.clone(), signals);

        // Health is asked until the last call ends, not only until the shutdown begins.
        let ended = CancellationToken::new();
        let every = settings.reload_every;
        let serve_calls = async {
            let _ended = ended.clone().drop_guard();
            tokio::select! {
                () = acceptor.serve(sockets, services) => {}
                () = abort.cancelled() => {}
            }
        };
        let follow_certificates = async {
            if let Some(certificates) = &self.reloader.certificates {
                certificates.follow(every, ended.clone()).await;
            }
        };
        tokio::join!(
            serve_calls,
            self.health.follow(shutdown, ended.clone()),
            self.reloader.authenticator.follow(every, ended.clone()),
            follow_certificates,
        );
        Ok(())
    }
}
