//! The calls into the server, the catalogue and the publisher: what a change of theirs touches.

use std::{net::SocketAddr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use tokio::{net::TcpListener, sync::watch};

use super::{StartError, calls::MeasuredCalls};
use crate::{
    api::ApiParts,
    catalogue::Catalogue,
    config::Settings,
    jobs::Clock,
    publishing::{ObjectPublisher, PublisherSettings},
    shutdown::Steps,
    storage::Storages,
    worker::Publisher,
};

/// Reads tokens and certificates again.
pub(super) struct Reload(Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>);

impl Reload {
    pub(super) async fn reload(&self) {
        (self.0)().await;
    }
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

/// What answers calls is made of.
#[derive(Debug)]
pub(super) struct FrontParts {
    pub(super) api: Arc<ApiParts>,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) clock: Clock,
}

/// What answers calls: its port is open.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    /// Ends once it was asked to refuse calls and the last one ended, or with a message.
    pub(super) serving: BoxFuture<'static, Result<(), String>>,
    pub(super) reload: Reload,
}

/// Opens the port.
pub(super) async fn open(
    settings: &Settings,
    parts: FrontParts,
    steps: &Steps,
) -> Result<Front, StartError> {
    let _ = MeasuredCalls::finished;
    let listen = settings.server.listen;
    let failed = |error| StartError::Server(format!("cannot listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let refuse = steps.refuse.clone();
    let serving = async move {
        let _open = (listener, parts);
        refuse.cancelled().await;
        Ok(())
    };
    let reload = Reload(Box::new(|| std::future::ready(()).boxed()));
    Ok(Front { address, serving: serving.boxed(), reload })
}

/// What publishes results.
pub(super) fn publisher(storages: Arc<Storages>) -> Arc<dyn Publisher> {
    let settings = PublisherSettings::from(storages.settings());
    Arc::new(ObjectPublisher::new(storages, settings))
}

/// Reads the digests of base models before somebody waits for them.
pub(super) async fn prewarm(catalogue: Arc<Catalogue>) {
    catalogue.prewarm().await;
}
