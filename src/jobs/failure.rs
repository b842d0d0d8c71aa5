//! Why work failed, by meaning for the client.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// What precedes a field's name in a failure's metadata, where the value says what is wrong with it.
pub const VIOLATION: &str = "field:";

/// What stopped a job or a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What it means.
    pub reason: FailureReason,
    /// The value, the limit and the remedy, for a developer; no prompt and no secret.
    pub message: String,
    /// Every variable of the message, by lowerCamelCase name, and after [`VIOLATION`] every field of
    /// the spec that is wrong.
    pub metadata: BTreeMap<String, String>,
    /// Where a job's result is finished and not published: until when it is kept, so that it can be
    /// published again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_kept_until: Option<Timestamp>,
}

impl Failure {
    /// A failure without variables.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), metadata: BTreeMap::new(), result_kept_until: None }
    }

    /// With one more variable of the message.
    #[must_use]
    pub fn with(mut self, name: &str, value: &impl ToString) -> Self {
        self.metadata.insert(name.to_owned(), value.to_string());
        self
    }
}

/// The reasons, each mapped to one gRPC code in `api`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureReason {
    /// The spec does not fit the model, such as a scope without tensors or too long a prompt.
    InvalidSpec,
    /// The model is not in the catalogue any more.
    ModelNotFound,
    /// The model's files are not what they were when the job was accepted.
    ModelChanged,
    /// The model's files are damaged or of an unsupported kind.
    DamagedModel,
    /// The model has no judge, or none that knows the concept.
    NoJudge,
    /// The device has too little memory.
    OutOfMemory,
    /// Loss or gradient is not a number.
    NotFinite,
    /// The erasure changed nothing that matters.
    NoOp,
    /// The erasure changed what it should not.
    WreckedModel,
    /// A fault of the engine, a panic among them.
    EngineFault,
    /// The device or its driver failed.
    DeviceFault,
    /// The job's deadline passed.
    DeadlineExceeded,
    /// Workers were lost in a row, none of which saved anything new, as often as may be.
    AttemptsExhausted,
    /// Object storage refused our credentials.
    StorageDenied,
    /// Object storage cannot be reached or fails.
    StorageUnavailable,
    /// What was read back is not what was written.
    StorageCorrupted,
    /// The local disk is full.
    DiskFull,
    /// The operator does not allow results at the job's destination any more.
    DestinationNotAllowed,
    /// There is no finished result that could be published.
    ResultNotKept,
    /// The caller went away or asked to stop.
    Cancelled,
    /// The server is going away.
    Draining,
}

impl FailureReason {
    /// Every reason.
    pub const ALL: [Self; 21] = [
        Self::InvalidSpec,
        Self::ModelNotFound,
        Self::ModelChanged,
        Self::DamagedModel,
        Self::NoJudge,
        Self::OutOfMemory,
        Self::NotFinite,
        Self::NoOp,
        Self::WreckedModel,
        Self::EngineFault,
        Self::DeviceFault,
        Self::DeadlineExceeded,
        Self::AttemptsExhausted,
        Self::StorageDenied,
        Self::StorageUnavailable,
        Self::StorageCorrupted,
        Self::DiskFull,
        Self::DestinationNotAllowed,
        Self::ResultNotKept,
        Self::Cancelled,
        Self::Draining,
    ];

    /// Most attempts at a job that fails so, where `limit` may be made in all. A fault of the engine
    /// may have been chance once; what comes twice is the job's own.
    pub fn most_attempts(self, limit: u32) -> u32 {
        match self {
            Self::EngineFault => limit.min(2),
            reason if reason.is_healed_by_retry() => limit,
            _ => 1,
        }
    }

    /// Whether it is the output that fails, for now or until its operator has seen to it: a finished
    /// result waits for that.
    pub fn is_outage_of_output(self) -> bool {
        matches!(self, Self::StorageDenied | Self::StorageUnavailable | Self::DiskFull)
    }

    /// Whether the same job may succeed when it is tried again.
    pub fn is_healed_by_retry(self) -> bool {
        matches!(
            self,
            Self::EngineFault
                | Self::DeviceFault
                | Self::StorageUnavailable
                | Self::StorageCorrupted
                | Self::DiskFull
        )
    }
}
