//! `ApiError`: why a call is refused or fails, by meaning.

use std::time::Duration;

use crate::{
    auth::Role,
    device::InteractiveQueueFull,
    jobs::{Failure, StoreError},
    report::ReportError,
    spec::{FieldPath, Violation},
};

/// What the steps of a call come to.
pub(super) type ApiResult<T> = Result<T, ApiError>;

/// What ends a call; turned into a status in `status.rs` alone.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Fields of the request break rules; never empty.
    #[error("{}", summary(.0))]
    Invalid(Vec<Violation>),
    /// Nobody knows who calls.
    #[error("the caller is unknown; send authorization: Bearer TOKEN")]
    CallerUnknown,
    /// The caller may not do this.
    #[error("the caller lacks the role {}; ask the operator for it", needed.name())]
    RoleMissing {
        /// What it would take.
        needed: Role,
    },
    /// The caller calls too often.
    #[error("the caller calls too often; try again in {} s", .retry_after.as_secs().max(1))]
    RateLimited {
        /// When there is room again.
        retry_after: Duration,
    },
    /// There is no such operation, or none that the caller sees.
    #[error("there is no operation {name}; ListOperations names those there are")]
    OperationNotFound {
        /// As it was asked for.
        name: String,
    },
    /// There is no such model, or none that the caller sees.
    #[error("there is no model {name}; ListModels names those there are")]
    ModelNotFound {
        /// As it was asked for.
        name: String,
    },
    /// The standard knows this, this server does not.
    #[error("{what} is not supported; leave it out")]
    Unsupported {
        /// The option.
        what: &'static str,
    },
    /// The device's queue is full.
    #[error(transparent)]
    DeviceQueueFull(#[from] InteractiveQueueFull),
    /// The server goes away.
    #[error("the server is going away; call again")]
    Draining,
    /// The job store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A drawn picture could not be encoded: a fault of ours.
    #[error("a picture cannot be sent: {0}")]
    Picture(#[from] ReportError),
    /// A fault of ours.
    #[error("{0}")]
    Internal(&'static str),
}

impl ApiError {
    /// A single violation.
    pub fn invalid(field: impl Into<FieldPath>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation { field: field.into(), message: message.into() }])
    }
}

/// The first violation, and how many more there are: the details list them.
fn summary(violations: &[Violation]) -> String {
    let Some(first) = violations.first() else { return "the request is refused".to_owned() };
    match violations.len() {
        1 => first.to_string(),
        count => format!("{count} fields are wrong, the first is {first}"),
    }
}
