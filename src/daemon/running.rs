//! A daemon that runs, and how it shuts down.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::data_folder::DataFolder;
use crate::{
    jobs::Store,
    server::Reloader,
    shutdown::{self, Departure, Limits, Steps, Tenants},
    worker::{Device, Worker},
};

/// A signal to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonSignal {
    /// Shut down; a second one ends at once.
    Terminate,
    /// Read tokens and certificates again.
    Reload,
}

/// A daemon that runs. Dropping it leaves its tasks to the runtime: let it [`Daemon::run`] or
/// [`Daemon::stop`].
#[derive(Debug)]
pub struct Daemon {
    pub(super) address: SocketAddr,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) steps: Steps,
    pub(super) limits: Limits,
    pub(super) reloader: Reloader,
    /// Notified to have the outputs probed again.
    pub(super) probe_now: Arc<Notify>,
    pub(super) parts: RunningParts,
}

/// The parts that a shutdown waits for.
#[derive(Debug)]
pub(super) struct RunningParts {
    pub(super) store: Arc<Store>,
    pub(super) device: Device,
    pub(super) worker: Worker,
    pub(super) tracker: TaskTracker,
    /// Cancelled once the server has ended, for whatever reason.
    pub(super) served: CancellationToken,
    /// Why it ended, where it should not have.
    pub(super) server_failure: Arc<Mutex<Option<String>>>,
    /// Cancelled to end the tasks that only observe.
    pub(super) closing: CancellationToken,
    /// Locked until everything has ended.
    pub(super) _data_folder: DataFolder,
}

impl Daemon {
    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether health says serving, now and as it changes.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// The jobs.
    pub fn store(&self) -> Arc<Store> {
        self.parts.store.clone()
    }

    /// Cancelled once the shutdown begins.
    pub fn draining(&self) -> CancellationToken {
        self.steps.draining.clone()
    }

    /// Runs until a signal or until its server fails, and then shuts down in order.
    pub async fn run(self, signals: impl Stream<Item = DaemonSignal> + Unpin) -> Departure {
        // After the last signal there is nothing to wait for but the server.
        let mut signals = signals.chain(stream::pending());
        loop {
            let signal = tokio::select! {
                biased;
                signal = signals.next() => signal,
                () = self.parts.served.cancelled() => Some(DaemonSignal::Terminate),
            };
            match signal {
                Some(DaemonSignal::Reload) => {
                    tracing::info!("tokens and certificates are read again");
                    self.reloader.reload().await;
                    self.probe_now.notify_one();
                }
                Some(DaemonSignal::Terminate) | None => break,
            }
        }
        let again = signals.filter(|signal| std::future::ready(*signal == DaemonSignal::Terminate));
        let departure = shutdown::run(again, self.limits, &self.steps, &self.parts).await;
        match self.parts.failure() {
            Some(message) => {
                tracing::error!(message, "the server had failed");
                Departure::Failed
            }
            None => departure,
        }
    }

    /// Shuts down in order, now.
    pub async fn stop(self) -> Departure {
        self.run(stream::iter([DaemonSignal::Terminate])).await
    }
}

impl RunningParts {
    fn failure(&self) -> Option<String> {
        self.server_failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Tenants for RunningParts {
    fn calls_ended(&self) -> BoxFuture<'_, ()> {
        self.served.cancelled().boxed()
    }

    fn jobs_ended(&self) -> BoxFuture<'_, ()> {
        self.worker.stopped().boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            self.closing.cancel();
            self.device.stop().await;
            self.tracker.close();
            self.tracker.wait().await;
            self.store.close().await;
        }
        .boxed()
    }
}
