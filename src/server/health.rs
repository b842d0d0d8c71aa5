//! Whether the services can be used now.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::proto::{
    google::longrunning::operations_server, keystep::v1::unlearning_service_server,
};

/// The names that can be asked for; the empty one is the server as a whole.
const NAMES: [&str; 3] =
    ["", unlearning_service_server::SERVICE_NAME, operations_server::SERVICE_NAME];

/// What health checks are answered with.
#[derive(Debug)]
pub(super) struct HealthBoard {
    reporter: HealthReporter,
    ready: watch::Receiver<bool>,
}

impl HealthBoard {
    /// Says "not serving", even if it is ready, until it is followed.
    pub(super) async fn not_serving(ready: watch::Receiver<bool>) -> Self {
        let board = Self { reporter: HealthReporter::new(), ready };
        board.say(false).await;
        board
    }

    pub(super) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
    }

    /// Says what `ready` says, and "not serving" from `shutdown` on, until `ended`.
    pub(super) async fn follow(&self, shutdown: CancellationToken, ended: CancellationToken) {
        let mut ready = self.ready.clone();
        let watching = async {
            loop {
                let serving = *ready.borrow_and_update();
                self.say(serving).await;
                if ready.changed().await.is_err() {
                    break;
                }
            }
            self.say(false).await;
            shutdown.cancelled().await;
        };
        tokio::select! {
            () = ended.cancelled() => return,
            () = shutdown.cancelled() => {}
            () = watching => {}
        }
        self.say(false).await;
    }

    async fn say(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
