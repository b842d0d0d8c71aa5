//! How long a connection stays: HTTP/2 in it, and the reasons for it to go.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::{
    calls::Calls,
    connection::{Greeted, Peer},
    places::Usage,
    settings::ServerSettings,
};

/// How long a connection that was told to go may take for it while it is not in use.
const GRACE: Duration = Duration::from_secs(2);

/// What ends every connection.
#[derive(Debug, Clone)]
pub(super) struct StayParts {
    /// Each finishes its calls.
    pub(super) shutdown: CancellationToken,
    /// Each is cut.
    pub(super) abort: CancellationToken,
}

/// What holds for every connection.
#[derive(Debug, Clone)]
pub(super) struct Stay {
    transport: http2::Builder<TokioExecutor>,
    /// How long it may be without a call.
    idle: Duration,
    /// How long it may be there at all.
    age: Duration,
    parts: StayParts,
}

/// Why a connection is told to go.
enum Reason {
    /// The server goes away.
    Shutdown,
    /// Its place is needed, or it has been there for long enough.
    Leave,
}

impl Stay {
    pub(super) fn new(settings: &ServerSettings, parts: StayParts) -> Self {
        let mut transport = http2::Builder::new(TokioExecutor::new());
        transport
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.max_concurrent_streams)
            .keep_alive_interval(settings.keepalive)
            .keep_alive_timeout(settings.keepalive_timeout)
            .max_header_list_size(settings.max_header_bytes);
        let (idle, age) = (settings.max_connection_idle, settings.max_connection_age);
        Self { transport, idle, age, parts }
    }

    /// Serves the calls of one connection until it is closed.
    pub(super) async fn serve(self, stream: Greeted, peer: Arc<Peer>, calls: Calls) {
        let service = service_fn(|request: Request<Incoming>| {
            let (peer, calls) = (Arc::clone(&peer), calls.clone());
            async move { Ok::<_, Infallible>(calls.answer(&peer, request.map(Body::new)).await) }
        });
        let mut serving = pin!(self.transport.serve_connection(TokioIo::new(stream), service));
        let reason = tokio::select! {
            ended = &mut serving => return told(&peer, ended),
            () = self.parts.abort.cancelled() => return,
            reason = self.reason_to_go(&peer) => reason,
        };
        // GOAWAY: calls that are on their way are still served, and clients make new ones elsewhere.
        serving.as_mut().graceful_shutdown();
        let cut = async {
            match reason {
                // How long calls may take to end is for the shutdown to say.
                Reason::Shutdown => std::future::pending().await,
                Reason::Leave => unused(&peer.place.usage).await,
            }
        };
        tokio::select! {
            ended = &mut serving => told(&peer, ended),
            () = self.parts.abort.cancelled() => {}
            () = cut => tracing::debug!(peer = ?peer.address, "cut"),
        }
    }

    async fn reason_to_go(&self, peer: &Peer) -> Reason {
        let reason = tokio::select! {
            () = self.parts.shutdown.cancelled() => return Reason::Shutdown,
            () = peer.place.leave.cancelled() => "its place is needed",
            () = tokio::time::sleep(self.age) => "it has been open for long",
            () = self.idled(&peer.place.usage) => "it has been without a call for long",
        };
        tracing::debug!(peer = ?peer.address, reason, "told to go");
        Reason::Leave
    }

    /// Until there was no call for as long as there may be none.
    async fn idled(&self, usage: &Usage) {
        loop {
            let now = Instant::now();
            // A call that ends after now cannot make it due before this has passed.
            let since = usage.idle_since().unwrap_or(now);
            let due = since + self.idle;
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

/// Until a while has passed in which no known caller's call was under way at its end.
async fn unused(usage: &Usage) {
    loop {
        tokio::time::sleep(GRACE).await;
        if !usage.is_in_use() {
            return;
        }
    }
}

fn told(peer: &Peer, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(peer = ?peer.address, %error, "a connection broke");
    }
}
