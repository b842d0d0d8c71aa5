//! The reasons that stand in `ErrorInfo`: what each means and what to do.

use tonic::Code;

use crate::jobs::FailureReason;

/// Why a call or an operation failed, for machines. Stable: a name is never given another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The call was refused, or failed before any work.
    Call(CallReason),
    /// The work of a job or a call failed, or will.
    Job(FailureReason),
}

impl From<CallReason> for Reason {
    fn from(reason: CallReason) -> Self {
        Self::Call(reason)
    }
}

impl From<FailureReason> for Reason {
    fn from(reason: FailureReason) -> Self {
        Self::Job(reason)
    }
}

/// Why a call failed where no work did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[cfg_attr(test, derive(strum::VariantArray))]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum CallReason {
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
    /// The database is away.
    StoreUnavailable,
    /// A fault of Keystep.
    Internal,
}

impl Reason {
    /// As it stands in `ErrorInfo.reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call(reason) => reason.into(),
            Self::Job(reason) => reason.name(),
        }
    }

    /// The gRPC code that goes with it.
    pub fn code(self) -> Code {
        self.row().0
    }

    /// What happened, in a sentence.
    pub fn description(self) -> &'static str {
        self.row().1
    }

    /// What to do about it, in a sentence.
    pub fn remedy(self) -> &'static str {
        self.row().2
    }

    /// Code, description and remedy: what stands of a reason in `docs/errors.md`.
    #[expect(clippy::too_many_lines, reason = "a table, to be read from top to bottom")]
    fn row(self) -> (Code, &'static str, &'static str) {
        use CallReason as Call;
        use FailureReason as Job;
        match self {
            Self::Call(Call::InvalidRequest) => (
                Code::InvalidArgument,
                "Fields of the request break rules; `BadRequest` lists every one.",
                "Change the fields named.",
            ),
            Self::Call(Call::MalformedRequest) => (
                Code::InvalidArgument,
                "The request's bytes are no message of the method's type, more than one, or its \
                 `grpc-timeout` is none.",
                "Make client and server of the same proto files.",
            ),
            Self::Call(Call::RequestTooLong) => (
                Code::ResourceExhausted,
                "The request's message has more bytes than the server reads.",
                "Send less; the metadata's `limit` is in bytes.",
            ),
            Self::Call(Call::ConnectionsFull) => (
                Code::ResourceExhausted,
                "As many connections are in use as may be, of all clients or of the caller's \
                 address.",
                "Make calls over fewer connections, or try again as `RetryInfo` says.",
            ),
            Self::Call(Call::CallerUnknown) => (
                Code::Unauthenticated,
                "The call carries no credentials that the server knows, or they ceased to be valid \
                 during the call.",
                "Send `authorization: Bearer TOKEN` with a token of this server.",
            ),
            Self::Call(Call::RoleMissing) => (
                Code::PermissionDenied,
                "The caller is known and may not do this, or lost a role during the call.",
                "Ask the operator for the role named.",
            ),
            Self::Call(Call::RateLimited) => (
                Code::ResourceExhausted,
                "The caller calls more often than it may, or calls from its address failed too \
                 often without valid credentials.",
                "Wait as long as `RetryInfo` says.",
            ),
            Self::Call(Call::OperationNotFound) => (
                Code::NotFound,
                "There is no such operation, it was forgotten, or it is another caller's.",
                "Check the name with ListOperations.",
            ),
            Self::Job(Job::ModelNotFound) => (
                Code::NotFound,
                "There is no such model in the catalogue, or it is another caller's.",
                "Check the name with ListModels.",
            ),
            Self::Call(Call::RequestIdReused) => (
                Code::AlreadyExists,
                "The request's id was used before, for another request.",
                "Make a new id, or send the first request again.",
            ),
            Self::Call(Call::QueueFull) => (
                Code::ResourceExhausted,
                "As many jobs wait as the server lets wait.",
                "Try again later; cancel what is not needed.",
            ),
            Self::Call(Call::PrincipalQueueFull) => (
                Code::ResourceExhausted,
                "As many jobs of the caller wait as may.",
                "Wait for one of them, or cancel what is not needed.",
            ),
            Self::Call(Call::PrincipalStorageFull) => (
                Code::ResourceExhausted,
                "As much is stored for the caller, of jobs that are done too, as may.",
                "Delete operations that are done, or wait until they are forgotten.",
            ),
            Self::Call(Call::QueryTooLong) => (
                Code::InvalidArgument,
                "The list takes longer than a list may.",
                "Ask for less: fewer labels, one state, or a smaller page.",
            ),
            Self::Call(Call::DeviceQueueFull) => (
                Code::ResourceExhausted,
                "As many calls of Generate and ScoreTimesteps wait for the device as may, in all or \
                 of this caller.",
                "Wait as long as `RetryInfo` says.",
            ),
            Self::Call(Call::OperationNotDone) => (
                Code::FailedPrecondition,
                "Only an operation that is done can be deleted.",
                "Cancel it and wait, then delete it.",
            ),
            Self::Call(Call::Unsupported) => (
                Code::Unimplemented,
                "The standard service knows this option, this server does not.",
                "Leave the option out.",
            ),
            Self::Job(Job::Draining) => (
                Code::Unavailable,
                "The server is going away.",
                "Call again; stored jobs go on where they were.",
            ),
            Self::Call(Call::StoreUnavailable) => (
                Code::Unavailable,
                "The database of jobs does not answer.",
                "Call again; if it lasts, the server's log says why.",
            ),
            Self::Call(Call::Internal) => (
                Code::Internal,
                "A fault of Keystep.",
                "Report it with the request's id; the server's log says more.",
            ),
            Self::Job(Job::InvalidSpec) => (
                Code::InvalidArgument,
                "The request does not fit the model, such as a scope without tensors, two concepts \
                 with the same tokens, or a sentence of too many.",
                "Change what the message names.",
            ),
            Self::Job(Job::ModelChanged) => (
                Code::FailedPrecondition,
                "The model's files are not what they were when the job was accepted.",
                "Submit the job again.",
            ),
            Self::Job(Job::DamagedModel) => (
                Code::DataLoss,
                "The model's files are damaged, do not match their digest, are of a kind that is \
                 not supported, or hold weights that compute no numbers.",
                "Bring the right files to where the model lies.",
            ),
            Self::Job(Job::NoJudge) => (
                Code::FailedPrecondition,
                "The model has no judge, or none that knows the concept.",
                "Leave the evaluation out, or add `clip/` or `judge/` to the model.",
            ),
            Self::Job(Job::OutOfMemory) => (
                Code::ResourceExhausted,
                "The device has too little memory, or the work needs more than the server may take, \
                 alone or beside the job under way.",
                "Ask for less: fewer pixels, a narrower scope; or wait for the job. The metadata's \
                 `need`, `limit` and `heldByJob`, in bytes, say how far off it is.",
            ),
            Self::Job(Job::NotFinite) => (
                Code::FailedPrecondition,
                "Loss or gradient became infinite or no number.",
                "Lower the learning rate.",
            ),
            Self::Job(Job::NoOp) => (
                Code::FailedPrecondition,
                "The erasure changed nothing that matters.",
                "Give more updates, a higher rate or a wider scope.",
            ),
            Self::Job(Job::WreckedModel) => (
                Code::FailedPrecondition,
                "The erasure changed what it should not.",
                "Give fewer updates, a lower rate or a narrower scope.",
            ),
            Self::Job(Job::EngineFault) => (
                Code::Internal,
                "The engine failed in a way that it should not.",
                "Report it with the operation's name; the server's log says more.",
            ),
            Self::Job(Job::DeviceFault) => (
                Code::Internal,
                "The device or its driver failed.",
                "Submit again; if it lasts, the operator looks at the device.",
            ),
            Self::Job(Job::DeadlineExceeded) => (
                Code::DeadlineExceeded,
                "The job was not done by its deadline, or the call by that of its `grpc-timeout`.",
                "Submit the job again with a later one, or with a higher priority; give the call \
                 more time.",
            ),
            Self::Job(Job::AttemptsExhausted) => (
                Code::Aborted,
                "Workers were lost in a row, none of which saved anything new of the job, as often as may be.",
                "Submit it again; if it lasts, the operator looks at the workers.",
            ),
            Self::Job(Job::StorageDenied) => (
                Code::FailedPrecondition,
                "Object storage refuses the server's credentials, or is not there.",
                "The operator gives the server access; then PublishResult where a result is kept, else \
                 submit again.",
            ),
            Self::Job(Job::StorageUnavailable) => (
                Code::Unavailable,
                "Object storage cannot be reached or fails.",
                "Try again; PublishResult where an operation's `result_expire_time` is set.",
            ),
            Self::Job(Job::StorageCorrupted) => (
                Code::DataLoss,
                "What was read back from object storage is not what was written.",
                "Submit again; if it lasts, the operator looks at the storage.",
            ),
            Self::Job(Job::DiskFull) => (
                Code::ResourceExhausted,
                "The server's own disk, or the folder that results go to, is full or cannot be written.",
                "The operator makes room; then PublishResult where a result is kept, else submit again.",
            ),
            Self::Job(Job::DestinationNotAllowed) => (
                Code::FailedPrecondition,
                "The operator does not allow results at the job's destination any more.",
                "Submit again with another destination, or ask the operator.",
            ),
            Self::Job(Job::ResultNotKept) => (
                Code::FailedPrecondition,
                "The operation has no finished result that waits to be published, or its time is up.",
                "Submit again.",
            ),
            Self::Job(Job::Cancelled) => {
                (Code::Cancelled, "A client asked for it, or went away.", "Nothing.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strum::VariantArray;

    use super::*;

    fn all() -> impl Iterator<Item = Reason> {
        let of_calls = CallReason::VARIANTS.iter().map(|reason| Reason::Call(*reason));
        of_calls.chain(FailureReason::ALL.iter().map(|reason| Reason::Job(*reason)))
    }

    #[test]
    fn names_are_stable_in_form_and_unique() {
        let mut seen = BTreeSet::new();
        for reason in all() {
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
        for &failure in FailureReason::ALL {
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
        for reason in all() {
            let code = code_name(reason.code());
            let row = format!(
                "| `{}` | `{code}` | {} | {} |",
                reason.name(),
                reason.description(),
                reason.remedy()
            );
            assert!(page.contains(&row), "docs/errors.md lacks the row\n{row}");
        }
        assert_eq!(page.matches("\n| `").count(), all().count(), "rows of no reason");
    }
}
