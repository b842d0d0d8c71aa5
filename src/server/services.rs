//! The services that are served: those of the API, health and reflection.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::{
    ServingStatus,
    pb::health_server::{self, HealthServer},
    server::{HealthReporter, HealthService},
};
use tonic_reflection::server::Builder;

use super::{error::ServerError, settings::ServerSettings};
use crate::{
    api::{ApiParts, OperationsApi, UnlearningApi},
    proto::{
        self,
        google::longrunning::operations_server::{self, OperationsServer},
        keystep::v1::unlearning_service_server::{self, UnlearningServiceServer},
    },
};

const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// The names whose health can be asked for; the empty one is the server as a whole.
const HEALTH_NAMES: [&str; 3] =
    ["", unlearning_service_server::SERVICE_NAME, operations_server::SERVICE_NAME];

/// The services of `api`, with the limits on their messages. Requests may come compressed, and the
/// limits hold for them once they are unpacked; answers are compressed for callers who take that.
pub fn services(settings: &ServerSettings, api: Arc<ApiParts>) -> Routes {
    let unlearning = UnlearningServiceServer::new(UnlearningApi::new(Arc::clone(&api)))
        .max_decoding_message_size(settings.max_message_bytes)
        .max_encoding_message_size(settings.max_response_bytes)
        .accept_compressed(GZIP)
        .send_compressed(GZIP);
    let operations = OperationsServer::new(OperationsApi::new(api))
        .max_decoding_message_size(settings.max_message_bytes)
        .max_encoding_message_size(settings.max_response_bytes)
        .accept_compressed(GZIP)
        .send_compressed(GZIP);
    Routes::new(unlearning).add_service(operations)
}

/// Adds reflection of the public services in both versions, because many installed clients speak the
/// older.
pub(super) fn with_reflection(routes: Routes) -> Result<Routes, ServerError> {
    let damaged =
        |error: tonic_reflection::server::Error| ServerError::Descriptors(error.to_string());
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false)
            .with_service_name(unlearning_service_server::SERVICE_NAME)
            .with_service_name(operations_server::SERVICE_NAME)
            .with_service_name(health_server::SERVICE_NAME)
    };
    let newer = builder().build_v1().map_err(damaged)?;
    let older = builder().build_v1alpha().map_err(damaged)?;
    Ok(routes
        .add_service(newer.accept_compressed(GZIP).send_compressed(GZIP))
        .add_service(older.accept_compressed(GZIP).send_compressed(GZIP)))
}

/// Answers health checks by whether the services can be used now.
#[derive(Debug)]
pub(super) struct HealthBoard {
    reporter: HealthReporter,
    ready: watch::Receiver<bool>,
}

impl HealthBoard {
    /// Answers "not serving" until [`HealthBoard::follow`] runs, even if it is ready.
    pub(super) async fn not_serving(ready: watch::Receiver<bool>) -> Self {
        let board = Self { reporter: HealthReporter::new(), ready };
        board.set(false).await;
        board
    }

    pub(super) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
            .accept_compressed(GZIP)
            .send_compressed(GZIP)
    }

    /// Answers by `ready`, and "not serving" from `shutdown` on, until `ended`.
    pub(super) async fn follow(&self, shutdown: CancellationToken, ended: CancellationToken) {
        let mut ready = self.ready.clone();
        let watching = async {
            loop {
                let serving = *ready.borrow_and_update();
                self.set(serving).await;
                if ready.changed().await.is_err() {
                    break;
                }
            }
            self.set(false).await;
            shutdown.cancelled().await;
        };
        tokio::select! {
            () = ended.cancelled() => return,
            () = shutdown.cancelled() => {}
            () = watching => {}
        }
        self.set(false).await;
    }

    async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in HEALTH_NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
