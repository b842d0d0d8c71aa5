//! Serves HTTP/2 over a connection, and closes it where it is idle, old, or its slot is needed.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::{
    connection::{Greeted, Peer},
    connection_slots::Usage,
    layers::LayeredServices,
    settings::ServerSettings,
};

/// How long a connection that is to close may stay open while it is not in use.
const GRACE: Duration = Duration::from_secs(2);

/// The signals that end every connection.
#[derive(Debug, Clone)]
pub(super) struct EndSignals {
    /// Each connection finishes its calls.
    pub(super) shutdown: CancellationToken,
    /// Each connection is cut.
    pub(super) abort: CancellationToken,
}

/// How connections are served, and for how long.
#[derive(Debug, Clone)]
pub(super) struct Lifetime {
    transport: http2::Builder<TokioExecutor>,
    /// How long a connection may be without a call.
    idle: Duration,
    /// How long a connection takes new calls.
    age: Duration,
    signals: EndSignals,
}

/// Why a connection is to close.
enum Reason {
    /// The server shuts down.
    Shutdown,
    /// Its slot is needed, or it is idle or old.
    Leave,
}

impl Lifetime {
    pub(super) fn new(settings: &ServerSettings, signals: EndSignals) -> Self {
        let mut transport = http2::Builder::new(TokioExecutor::new());
        transport
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.max_concurrent_streams)
            .keep_alive_interval(settings.keepalive)
            .keep_alive_timeout(settings.keepalive_timeout)
            .max_header_list_size(settings.max_header_bytes);
        let (idle, age) = (settings.max_connection_idle, settings.max_connection_age);
        Self { transport, idle, age, signals }
    }

    /// Serves the calls of one connection until it is closed.
    pub(super) async fn serve(self, stream: Greeted, peer: Arc<Peer>, services: LayeredServices) {
        let service = service_fn(|request: Request<Incoming>| {
            let (peer, services) = (Arc::clone(&peer), services.clone());
            async move { Ok::<_, Infallible>(services.answer(&peer, request.map(Body::new)).await) }
        });
        let mut serving = pin!(self.transport.serve_connection(TokioIo::new(stream), service));
        let reason = tokio::select! {
            ended = &mut serving => return log_break(&peer, ended),
            () = self.signals.abort.cancelled() => return,
            reason = self.reason_to_close(&peer) => reason,
        };
        // GOAWAY: calls that are on their way are still served, and clients make new ones elsewhere.
        serving.as_mut().graceful_shutdown();
        let cut = async {
            match reason {
                // The shutdown itself limits how long calls may take to end.
                Reason::Shutdown => std::future::pending().await,
                Reason::Leave => unused(&peer.slot.usage).await,
            }
        };
        tokio::select! {
            ended = &mut serving => log_break(&peer, ended),
            () = self.signals.abort.cancelled() => {}
            () = cut => tracing::debug!(peer = ?peer.address, "cut"),
        }
    }

    async fn reason_to_close(&self, peer: &Peer) -> Reason {
        let reason = tokio::select! {
            () = self.signals.shutdown.cancelled() => return Reason::Shutdown,
            () = peer.slot.leave.cancelled() => "its slot is needed",
            () = tokio::time::sleep(self.age) => "it has been open for long",
            () = self.idled(&peer.slot.usage) => "it has been without a call for long",
        };
        tracing::debug!(peer = ?peer.address, reason, "asked to close");
        Reason::Leave
    }

    /// Waits until the connection has been idle for as long as it may be.
    async fn idled(&self, usage: &Usage) {
        loop {
            let now = Instant::now();
            // A call that ends later cannot make the connection due sooner.
            let since = usage.idle_since().unwrap_or(now);
            let due = since + self.idle;
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

/// Waits, in periods of [`GRACE`], until one ends with no call of a known caller under way.
async fn unused(usage: &Usage) {
    loop {
        tokio::time::sleep(GRACE).await;
        if !usage.is_in_use() {
            return;
        }
    }
}

fn log_break(peer: &Peer, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(peer = ?peer.address, %error, "a connection broke");
    }
}
