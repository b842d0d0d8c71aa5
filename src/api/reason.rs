//! The reasons that stand in `ErrorInfo`: what each means and what to do.

use tonic::Code;

use crate::jobs::FailureReason;

/// Why a call or an operation failed, for machines. Stable: a name is never given another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Fields of the request break rules.
    InvalidRequest,
    /// The request's bytes are no message of its type.
    MalformedRequest,
    /// The request is longer than the server reads.
    RequestTooLong,
    /// As many connections are open as may be.
    ConnectionsFull,
    /// Nobody knows who calls.
    CallerUnknown,
    /// The caller may not do this.
    RoleMissing,
    /// The caller calls too often.
    RateLimited,
    /// There is no such operation, or none that the caller sees.
    OperationNotFound,
    /// There is no such model, or none that the caller sees.
    ModelNotFound,
    /// The request's id stands for another request.
    RequestIdReused,
    /// Too many jobs of everybody wait.
    QueueFull,
    /// Too many jobs of the caller wait.
    PrincipalQueueFull,
    /// Too much is stored for the caller.
    PrincipalStorageFull,
    /// A list costs more than a list may.
    QueryTooLong,
    /// Too many calls wait for the device.
    DeviceQueueFull,
    /// Only an operation that is done can be deleted.
    OperationNotDone,
    /// The standard knows this, this server does not.
    Unsupported,
    /// The server goes away.
    Draining,
    /// The database is away.
    StoreUnavailable,
    /// A fault of Keystep.
    Internal,
    /// See [`FailureReason::InvalidSpec`].
    InvalidSpec,
    /// See [`FailureReason::ModelChanged`].
    ModelChanged,
    /// See [`FailureReason::DamagedModel`].
    DamagedModel,
    /// See [`FailureReason::NoJudge`].
    NoJudge,
    /// See [`FailureReason::OutOfMemory`].
    OutOfMemory,
    /// See [`FailureReason::NotFinite`].
    NotFinite,
    /// See [`FailureReason::NoOp`].
    NoOp,
    /// See [`FailureReason::WreckedModel`].
    WreckedModel,
    /// See [`FailureReason::EngineFault`].
    EngineFault,
    /// See [`FailureReason::DeviceFault`].
    DeviceFault,
    /// See [`FailureReason::DeadlineExceeded`].
    DeadlineExceeded,
    /// See [`FailureReason::AttemptsExhausted`].
    AttemptsExhausted,
    /// See [`FailureReason::StorageDenied`].
    StorageDenied,
    /// See [`FailureReason::StorageUnavailable`].
    StorageUnavailable,
    /// See [`FailureReason::StorageCorrupted`].
    StorageCorrupted,
    /// See [`FailureReason::DiskFull`].
    DiskFull,
    /// See [`FailureReason::DestinationNotAllowed`].
    DestinationNotAllowed,
    /// See [`FailureReason::ResultNotKept`].
    ResultNotKept,
    /// See [`FailureReason::Cancelled`].
    Cancelled,
}

/// What stands of a reason in `docs/errors.md`.
struct Row {
    name: &'static str,
    code: Code,
    description: &'static str,
    remedy: &'static str,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 39] = [
        Self::InvalidRequest,
        Self::MalformedRequest,
        Self::RequestTooLong,
        Self::ConnectionsFull,
        Self::CallerUnknown,
        Self::RoleMissing,
        Self::RateLimited,
        Self::OperationNotFound,
        Self::ModelNotFound,
        Self::RequestIdReused,
        Self::QueueFull,
        Self::PrincipalQueueFull,
        Self::PrincipalStorageFull,
        Self::QueryTooLong,
        Self::DeviceQueueFull,
        Self::OperationNotDone,
        Self::Unsupported,
        Self::Draining,
        Self::StoreUnavailable,
        Self::Internal,
        Self::InvalidSpec,
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
    ];

    /// As it stands in `ErrorInfo.reason`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The gRPC code that goes with it.
    pub fn code(self) -> Code {
        self.row().code
    }

    /// What happened, in a sentence.
    pub fn description(self) -> &'static str {
        self.row().description
    }

    /// What to do about it, in a sentence.
    pub fn remedy(self) -> &'static str {
        self.row().remedy
    }

    #[expect(clippy::too_many_lines, reason = "a table, to be read from top to bottom")]
    fn row(self) -> Row {
        let row = |name, code, description, remedy| Row { name, code, description, remedy };
        match self {
            Self::InvalidRequest => row(
                "INVALID_REQUEST",
                Code::InvalidArgument,
                "Fields of the request break rules; `BadRequest` lists every one.",
                "Change the fields named.",
            ),
            Self::MalformedRequest => row(
                "MALFORMED_REQUEST",
                Code::InvalidArgument,
                "The request's bytes are no message of the method's type, more than one, or its \
                 `grpc-timeout` is none.",
                "Make client and server of the same proto files.",
            ),
            Self::RequestTooLong => row(
                "REQUEST_TOO_LONG",
                Code::ResourceExhausted,
                "The request's message has more bytes than the server reads.",
                "Send less; the metadata's `limit` is in bytes.",
            ),
            Self::ConnectionsFull => row(
                "CONNECTIONS_FULL",
                Code::ResourceExhausted,
                "As many connections are in use as may be, of all clients or of the caller's \
                 address.",
                "Make calls over fewer connections, or try again as `RetryInfo` says.",
            ),
            Self::CallerUnknown => row(
                "CALLER_UNKNOWN",
                Code::Unauthenticated,
                "The call carries no credentials that the server knows, or they ceased to be valid \
                 during the call.",
                "Send `authorization: Bearer TOKEN` with a token of this server.",
            ),
            Self::RoleMissing => row(
                "ROLE_MISSING",
                Code::PermissionDenied,
                "The caller is known and may not do this, or lost a role during the call.",
                "Ask the operator for the role named.",
            ),
            Self::RateLimited => row(
                "RATE_LIMITED",
                Code::ResourceExhausted,
                "The caller calls more often than it may, or calls from its address failed too \
                 often without valid credentials.",
                "Wait as long as `RetryInfo` says.",
            ),
            Self::OperationNotFound => row(
                "OPERATION_NOT_FOUND",
                Code::NotFound,
                "There is no such operation, it was forgotten, or it is another caller's.",
                "Check the name with ListOperations.",
            ),
            Self::ModelNotFound => row(
                "MODEL_NOT_FOUND",
                Code::NotFound,
                "There is no such model in the catalogue, or it is another caller's.",
                "Check the name with ListModels.",
            ),
            Self::RequestIdReused => row(
                "REQUEST_ID_REUSED",
                Code::AlreadyExists,
                "The request's id was used before, for another request.",
                "Make a new id, or send the first request again.",
            ),
            Self::QueueFull => row(
                "QUEUE_FULL",
                Code::ResourceExhausted,
                "As many jobs wait as the server lets wait.",
                "Try again later; cancel what is not needed.",
            ),
            Self::PrincipalQueueFull => row(
                "PRINCIPAL_QUEUE_FULL",
                Code::ResourceExhausted,
                "As many jobs of the caller wait as may.",
                "Wait for one of them, or cancel what is not needed.",
            ),
            Self::PrincipalStorageFull => row(
                "PRINCIPAL_STORAGE_FULL",
                Code::ResourceExhausted,
                "As much is stored for the caller, of jobs that are done too, as may.",
                "Delete operations that are done, or wait until they are forgotten.",
            ),
            Self::QueryTooLong => row(
                "QUERY_TOO_LONG",
                Code::InvalidArgument,
                "The list takes longer than a list may.",
                "Ask for less: fewer labels, one state, or a smaller page.",
            ),
            Self::DeviceQueueFull => row(
                "DEVICE_QUEUE_FULL",
                Code::ResourceExhausted,
                "As many calls of Generate and ScoreTimesteps wait for the device as may, in all or \
                 of this caller.",
                "Wait as long as `RetryInfo` says.",
            ),
            Self::OperationNotDone => row(
                "OPERATION_NOT_DONE",
                Code::FailedPrecondition,
                "Only an operation that is done can be deleted.",
                "Cancel it and wait, then delete it.",
            ),
            Self::Unsupported => row(
                "UNSUPPORTED",
                Code::Unimplemented,
                "The standard service knows this option, this server does not.",
                "Leave the option out.",
            ),
            Self::Draining => row(
                "DRAINING",
                Code::Unavailable,
                "The server is going away.",
                "Call again; stored jobs go on where they were.",
            ),
            Self::StoreUnavailable => row(
                "STORE_UNAVAILABLE",
                Code::Unavailable,
                "The database of jobs does not answer.",
                "Call again; if it lasts, the server's log says why.",
            ),
            Self::Internal => row(
                "INTERNAL",
                Code::Internal,
                "A fault of Keystep.",
                "Report it with the request's id; the server's log says more.",
            ),
            Self::InvalidSpec => row(
                "INVALID_SPEC",
                Code::InvalidArgument,
                "The request does not fit the model, such as a scope without tensors, two concepts \
                 with the same tokens, or a sentence of too many.",
                "Change what the message names.",
            ),
            Self::ModelChanged => row(
                "MODEL_CHANGED",
                Code::FailedPrecondition,
                "The model's files are not what they were when the job was accepted.",
                "Submit the job again.",
            ),
            Self::DamagedModel => row(
                "DAMAGED_MODEL",
                Code::DataLoss,
                "The model's files are damaged, do not match their digest, are of a kind that is \
                 not supported, or hold weights that compute no numbers.",
                "Bring the right files to where the model lies.",
            ),
            Self::NoJudge => row(
                "NO_JUDGE",
                Code::FailedPrecondition,
                "The model has no judge, or none that knows the concept.",
                "Leave the evaluation out, or add `clip/` or `judge/` to the model.",
            ),
            Self::OutOfMemory => row(
                "OUT_OF_MEMORY",
                Code::ResourceExhausted,
                "The device has too little memory, or the work needs more than the server may take, \
                 alone or beside the job under way.",
                "Ask for less: fewer pixels, a narrower scope; or wait for the job. The metadata's \
                 `need`, `limit` and `heldByJob`, in bytes, say how far off it is.",
            ),
            Self::NotFinite => row(
                "NOT_FINITE",
                Code::FailedPrecondition,
                "Loss or gradient became infinite or no number.",
                "Lower the learning rate.",
            ),
            Self::NoOp => row(
                "NO_OP",
                Code::FailedPrecondition,
                "The erasure changed nothing that matters.",
                "Give more updates, a higher rate or a wider scope.",
            ),
            Self::WreckedModel => row(
                "WRECKED_MODEL",
                Code::FailedPrecondition,
                "The erasure changed what it should not.",
                "Give fewer updates, a lower rate or a narrower scope.",
            ),
            Self::EngineFault => row(
                "ENGINE_FAULT",
                Code::Internal,
                "The engine failed in a way that it should not.",
                "Report it with the operation's name; the server's log says more.",
            ),
            Self::DeviceFault => row(
                "DEVICE_FAULT",
                Code::Internal,
                "The device or its driver failed.",
                "Submit again; if it lasts, the operator looks at the device.",
            ),
            Self::DeadlineExceeded => row(
                "DEADLINE_EXCEEDED",
                Code::DeadlineExceeded,
                "The job was not done by its deadline, or the call by that of its `grpc-timeout`.",
                "Submit the job again with a later one, or with a higher priority; give the call \
                 more time.",
            ),
            Self::AttemptsExhausted => row(
                "ATTEMPTS_EXHAUSTED",
                Code::Aborted,
                "Workers were lost in a row, none of which saved anything new of the job, as often as may be.",
                "Submit it again; if it lasts, the operator looks at the workers.",
            ),
            Self::StorageDenied => row(
                "STORAGE_DENIED",
                Code::FailedPrecondition,
                "Object storage refuses the server's credentials, or is not there.",
                "The operator gives the server access; then PublishResult where a result is kept, else \
                 submit again.",
            ),
            Self::StorageUnavailable => row(
                "STORAGE_UNAVAILABLE",
                Code::Unavailable,
                "Object storage cannot be reached or fails.",
                "Try again; PublishResult where an operation's `result_expire_time` is set.",
            ),
            Self::StorageCorrupted => row(
                "STORAGE_CORRUPTED",
                Code::DataLoss,
                "What was read back from object storage is not what was written.",
                "Submit again; if it lasts, the operator looks at the storage.",
            ),
            Self::DiskFull => row(
                "DISK_FULL",
                Code::ResourceExhausted,
                "The server's own disk, or the folder that results go to, is full or cannot be written.",
                "The operator makes room; then PublishResult where a result is kept, else submit again.",
            ),
            Self::DestinationNotAllowed => row(
                "DESTINATION_NOT_ALLOWED",
                Code::FailedPrecondition,
                "The operator does not allow results at the job's destination any more.",
                "Submit again with another destination, or ask the operator.",
            ),
            Self::ResultNotKept => row(
                "RESULT_NOT_KEPT",
                Code::FailedPrecondition,
                "The operation has no finished result that waits to be published, or its time is up.",
                "Submit again.",
            ),
            Self::Cancelled => row(
                "CANCELLED",
                Code::Cancelled,
                "A client asked for it, or went away.",
                "Nothing.",
            ),
        }
    }
}

impl From<FailureReason> for Reason {
    fn from(reason: FailureReason) -> Self {
        match reason {
            FailureReason::InvalidSpec => Self::InvalidSpec,
            FailureReason::ModelNotFound => Self::ModelNotFound,
            FailureReason::ModelChanged => Self::ModelChanged,
            FailureReason::DamagedModel => Self::DamagedModel,
            FailureReason::NoJudge => Self::NoJudge,
            FailureReason::OutOfMemory => Self::OutOfMemory,
            FailureReason::NotFinite => Self::NotFinite,
            FailureReason::NoOp => Self::NoOp,
            FailureReason::WreckedModel => Self::WreckedModel,
            FailureReason::EngineFault => Self::EngineFault,
            FailureReason::DeviceFault => Self::DeviceFault,
            FailureReason::DeadlineExceeded => Self::DeadlineExceeded,
            FailureReason::AttemptsExhausted => Self::AttemptsExhausted,
            FailureReason::StorageDenied => Self::StorageDenied,
            FailureReason::StorageUnavailable => Self::StorageUnavailable,
            FailureReason::StorageCorrupted => Self::StorageCorrupted,
            FailureReason::DiskFull => Self::DiskFull,
            FailureReason::DestinationNotAllowed => Self::DestinationNotAllowed,
            FailureReason::ResultNotKept => Self::ResultNotKept,
            FailureReason::Cancelled => Self::Cancelled,
            FailureReason::Draining => Self::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_stable_in_form_and_unique() {
        let mut seen = BTreeSet::new();
        for reason in Reason::ALL {
            let name = reason.name();
            assert!(seen.insert(name), "{name} stands twice");
            assert!(name.len() <= 63, "{name}");
            assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{name}");
            assert!(!name.ends_with('_'), "{name}");
            assert!(reason.description().ends_with('.') && reason.remedy().ends_with('.'));
        }
    }

    #[test]
    fn a_failure_keeps_its_name() {
        for failure in FailureReason::ALL {
            let stored = serde_json::to_value(failure).unwrap();
            assert_eq!(stored, Reason::from(failure).name());
        }
    }

    /// As the protocol spells it.
    fn code_name(code: Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.extend(letter.to_uppercase());
        }
        name
    }

    #[test]
    fn the_page_of_errors_has_every_reason() {
        let page = std::fs::read_to_string("docs/errors.md").unwrap();
        for reason in Reason::ALL {
            let code = code_name(reason.code());
            let row = format!(
                "| `{}` | `{code}` | {} | {} |",
                reason.name(),
                reason.description(),
                reason.remedy()
            );
            assert!(page.contains(&row), "docs/errors.md lacks the row\n{row}");
        }
        assert_eq!(page.matches("\n| `").count(), Reason::ALL.len(), "rows of no reason");
    }
}
