//! Why work failed, by meaning for the client.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::Timestamp;
use crate::spec::{FieldPath, Violation};

/// What stopped a job or a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(from = "StoredFailure", into = "StoredFailure")]
#[error("{message}")]
pub struct Failure {
    /// What it means.
    pub reason: FailureReason,
    /// The value, the limit and the remedy, for a developer; no prompt and no secret.
    pub message: String,
    /// Every variable of the message, by lowerCamelCase name.
    pub metadata: BTreeMap<String, String>,
    /// Every field of the spec that is wrong.
    pub violations: Vec<Violation>,
    /// Where a job's result is finished and not published: until when it is kept, so that it can be
    /// published again.
    pub result_kept_until: Option<Timestamp>,
}

impl Failure {
    /// A failure without variables.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            result_kept_until: None,
        }
    }

    /// With one more variable of the message.
    #[must_use]
    pub fn with(mut self, name: &str, value: &impl ToString) -> Self {
        self.metadata.insert(name.to_owned(), value.to_string());
        self
    }

    /// With one more field that is wrong.
    #[must_use]
    pub fn violated(mut self, field: impl Into<FieldPath>, message: impl Into<String>) -> Self {
        self.violations.push(Violation { field: field.into(), message: message.into() });
        self
    }
}

/// A failure as it is stored: violations stand among the metadata, by [`VIOLATION`] and their field.
#[derive(Serialize, Deserialize)]
struct StoredFailure {
    reason: FailureReason,
    message: String,
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result_kept_until: Option<Timestamp>,
}

const VIOLATION: &str = "field:";

impl From<Failure> for StoredFailure {
    fn from(failure: Failure) -> Self {
        let Failure { reason, message, mut metadata, violations, result_kept_until } = failure;
        let stored = |Violation { field, message }| (format!("{VIOLATION}{field}"), message);
        metadata.extend(violations.into_iter().map(stored));
        Self { reason, message, metadata, result_kept_until }
    }
}

impl From<StoredFailure> for Failure {
    fn from(stored: StoredFailure) -> Self {
        let StoredFailure { reason, message, metadata, result_kept_until } = stored;
        let mut failure = Self { result_kept_until, ..Self::new(reason, message) };
        for (name, value) in metadata {
            // Before the prefix, a violation was stored by its path alone; none was of one word.
            let alone = || Some(name.as_str()).filter(|name| name.contains(['.', '[']));
            let path = name.strip_prefix(VIOLATION).or_else(alone);
            match path.and_then(FieldPath::parse) {
                Some(field) => failure = failure.violated(field, value),
                // A variable, or a field that this version has no more.
                None => failure = failure.with(&name, &value),
            }
        }
        failure
    }
}

/// The reasons, each mapped to one gRPC code in `api`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[derive(strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
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
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name, as it is stored and as clients read it.
    pub fn name(self) -> &'static str {
        self.into()
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Field;

    #[test]
    fn violations_are_stored_among_the_metadata() {
        let failure = Failure::new(FailureReason::InvalidSpec, "does not fit")
            .with("scope", &"all")
            .violated(Field::ConceptsText.at(1), "is too long")
            .violated(Field::Scope, "matches no tensor");
        let stored = serde_json::to_value(&failure).unwrap();
        let wanted = serde_json::json!({
            "reason": "INVALID_SPEC",
            "message": "does not fit",
            "metadata": {
                "field:concepts[1].text": "is too long",
                "field:scope": "matches no tensor",
                "scope": "all",
            },
        });
        assert_eq!(stored, wanted);
        assert_eq!(serde_json::from_value::<Failure>(stored).unwrap(), failure);
    }
}
