//! Reflection, of what clients may call and nothing else.

use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_reflection::server::Builder;

use super::error::ServerError;
use crate::proto::{
    self, google::longrunning::operations_server, keystep::v1::unlearning_service_server,
};

const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// Adds both versions: much of what is installed still speaks the older.
pub(super) fn add(routes: Routes) -> Result<Routes, ServerError> {
    let damaged =
        |error: tonic_reflection::server::Error| ServerError::Descriptors(error.to_string());
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false)
            .with_service_name(unlearning_service_server::SERVICE_NAME)
            .with_service_name(operations_server::SERVICE_NAME)
            .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
    };
    let newer = builder().build_v1().map_err(damaged)?;
    let older = builder().build_v1alpha().map_err(damaged)?;
    Ok(routes
        .add_service(newer.accept_compressed(GZIP).send_compressed(GZIP))
        .add_service(older.accept_compressed(GZIP).send_compressed(GZIP)))
}
