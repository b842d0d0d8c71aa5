//! The listener: TLS, layers, health, reflection.
//!
//! One call passes, from outside in: `door` (places for connections, TLS), `stay` (HTTP/2, and how
//! long a connection stays), `calls` (request id, span, metrics, credentials, deadlines, panics), and
//! the service.

mod acceptor;
mod authentication;
mod body;
mod call;
mod calls;
mod connection;
mod ending;
mod error;
mod health;
mod methods;
mod places;
mod protocol;
mod reflection;
mod request_body;
mod request_id;
mod services;
mod settings;
mod status;
mod stay;
mod tls;

use std::{net::SocketAddr, sync::Arc};

use futures::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use call::CallObserver;
pub use connection::Socket;
pub use error::{CertificateError, ServerError};
pub use request_id::RequestName;
pub use services::services;
pub use settings::{ServerSettings, TlsSettings};

use crate::auth::Authenticator;
use acceptor::Door;
use authentication::Admission;
use calls::{CallParts, Calls};
use health::HealthBoard;
use methods::Methods;
use stay::StayParts;
use tls::Certificates;

#[cfg(test)]
mod tests;

/// What the server serves and asks.
#[derive(Debug)]
pub struct ServerParts {
    /// The services, see [`services`].
    pub services: Routes,
    /// Who may call.
    pub authenticator: Arc<Authenticator>,
    /// Whether health says "serving"; not serving when its sender is gone.
    pub ready: watch::Receiver<bool>,
    /// Who is told of every call that ends.
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

    /// Where it listens; the port is the real one where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Something that reads tokens and certificates again, for SIGHUP.
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
/// [`Server::serve`] does; ends when there is none to come and all are closed.
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
            routes = reflection::add(routes)?;
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
        let calls = Calls(Arc::new(CallParts {
            services: self.routes.prepare(),
            admission: self.admission,
            observer: self.observer,
            methods: self.methods,
            max_message_bytes: settings.max_message_bytes,
            draining: shutdown.clone(),
        }));
        let stay = StayParts { shutdown: shutdown.clone(), abort: abort.clone() };
        let door = Door::new(settings, self.reloader.certificates.clone(), stay);

        // Ends with the calls, not with the first sign of shutdown: until then certificates matter
        // to nobody, but health is still asked.
        let ended = CancellationToken::new();
        let every = settings.reload_every;
        let serve_calls = async {
            let _ended = ended.clone().drop_guard();
            tokio::select! {
                () = door.serve(sockets, calls) => {}
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
