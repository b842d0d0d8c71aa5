//! Which services there are.

use std::sync::Arc;

use tonic::{codec::CompressionEncoding, service::Routes};

use super::settings::ServerSettings;
use crate::{
    api::{ApiParts, OperationsApi, UnlearningApi},
    proto::{
        google::longrunning::operations_server::OperationsServer,
        keystep::v1::unlearning_service_server::UnlearningServiceServer,
    },
};

/// The services of `api`, with the limits on their messages. Requests may come compressed, and the
/// limits hold for them once they are unpacked; answers are compressed for callers who take that.
pub fn services(settings: &ServerSettings, api: Arc<ApiParts>) -> Routes {
    let unlearning = UnlearningServiceServer::new(UnlearningApi::new(Arc::clone(&api)))
        .max_decoding_message_size(settings.max_message_bytes)
        .max_encoding_message_size(settings.max_response_bytes)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let operations = OperationsServer::new(OperationsApi::new(api))
        .max_decoding_message_size(settings.max_message_bytes)
        .max_encoding_message_size(settings.max_response_bytes)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Routes::new(unlearning).add_service(operations)
}
