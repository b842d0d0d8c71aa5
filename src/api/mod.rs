//! The services: conversions, the table of errors, operations. No generated type passes this module.

mod authorization;
mod convert;
mod digests;
mod error;
mod names;
mod operations;
mod paging;
mod reason;
mod status;
mod status_builder;
mod streaming;
mod submitting;
#[cfg(test)]
mod tests;
mod trace_context;
mod unlearning;
mod violations;
mod watching;

pub use error::ApiError;
pub use operations::OperationsApi;
pub use reason::{CallReason, Reason};
pub(crate) use status_builder::StatusBuilder;
pub use trace_context::TraceContext;
pub use unlearning::UnlearningApi;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use self::error::ApiResult;
use crate::{
    catalogue::Catalogue,
    device::{CallLimits, InteractiveCalls},
    jobs::{Clock, Identifiers, Store},
    worker::Publisher,
};

/// What a method of a service answers.
pub(crate) type Answer<T> = Result<Response<T>, Status>;

/// What the services work with.
#[derive(Debug)]
pub struct ApiParts {
    /// Where the jobs are.
    pub store: Arc<Store>,
    /// The models.
    pub catalogue: Arc<Catalogue>,
    /// The way to the device.
    pub interactive_calls: InteractiveCalls,
    /// Where results will go: knows which destinations can be written to.
    pub publisher: Arc<dyn Publisher>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where names come from.
    pub identifiers: Identifiers,
    /// The limits.
    pub settings: ApiSettings,
    /// Once cancelled, new calls are refused and open streams end, with `UNAVAILABLE`.
    pub draining: CancellationToken,
}

/// What the services allow.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// URL prefixes that results may be published below; the first is the default.
    pub outputs: Vec<String>,
    /// Claims of a job that count.
    pub max_attempts: u32,
    /// Most bytes that are stored for one principal: its jobs and scores, done or not.
    pub stored_bytes_of_principal: u64,
    /// Jobs that may wait.
    pub queued_total: u64,
    /// Jobs of one principal that may wait.
    pub queued_of_principal: u64,
    /// Characters of a prompt.
    pub prompt_characters: usize,
    /// Pictures of one call of Generate.
    pub images_per_call: usize,
    /// Pixels of one picture.
    pub pixels_per_image: usize,
    /// What a call may take of the device.
    pub calls: CallLimits,
    /// Whether prompts and concepts may stand in logs.
    pub log_prompts: bool,
}
