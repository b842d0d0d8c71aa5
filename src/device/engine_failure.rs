//! What the engine's and the disk's errors mean for a job or a call: the only such table.

use crate::{
    artifacts::ArtifactError,
    engine::{EngineError, StateError},
    jobs::{Failure, FailureReason as Reason},
    report::ReportError,
    run::RunError,
    spec::{Field, FileError, SpecError},
};

/// What an error of the engine means.
///
/// Every variant stands here on purpose: a new one shall not fall through to a reason by chance.
pub fn engine_failure(error: &EngineError) -> Failure {
    let of = |reason| Failure::new(reason, error.to_string());
    match error {
        EngineError::Spec(error) => spec_failure(error),
        EngineError::File(error) => file_failure(error),
        EngineError::NoDevice { asked, .. } => of(Reason::DeviceFault).with("device", asked),
        EngineError::UnsupportedComputeType { asked } => {
            of(Reason::DeviceFault).with("computeType", asked)
        }
        EngineError::MissingWeights { component, looked_for, .. } => {
            of(Reason::DamagedModel).with("component", component).with("lookedFor", looked_for)
        }
        EngineError::Config { file, .. } | EngineError::DamagedWeights { file, .. } => {
            of(Reason::DamagedModel).with("file", file)
        }
        EngineError::MissingTensor { file, name, expected } => of(Reason::DamagedModel)
            .with("file", file)
            .with("tensor", name)
            .with("expected", &format!("{expected:?}")),
        EngineError::SurplusTensor { file, name, found, count } => of(Reason::DamagedModel)
            .with("file", file)
            .with("tensor", name)
            .with("found", &format!("{found:?}"))
            .with("count", count),
        EngineError::MisshapenTensor { file, name, expected, found } => of(Reason::DamagedModel)
            .with("file", file)
            .with("tensor", name)
            .with("expected", &format!("{expected:?}"))
            .with("found", &format!("{found:?}")),
        EngineError::NonFiniteWeight { file, name, element, value } => of(Reason::DamagedModel)
            .with("file", file)
            .with("tensor", name)
            .with("element", element)
            .with("value", value),
        EngineError::NonFiniteOutput { location, computed, value } => of(Reason::DamagedModel)
            .with("file", location)
            .with("computed", computed)
            .with("value", value),
        EngineError::UnsupportedDtype { file, name, dtype } => {
            of(Reason::DamagedModel).with("file", file).with("tensor", name).with("dtype", dtype)
        }
        EngineError::PromptTooLong { tokens, limit } => {
            of(Reason::InvalidSpec).with("tokens", tokens).with("limit", limit)
        }
        EngineError::Cancelled => of(Reason::Cancelled),
        EngineError::Paused => of(Reason::Draining),
        EngineError::State(error) => state_failure(error),
        EngineError::MissingGradient { name, update } => {
            of(Reason::EngineFault).with("tensor", name).with("update", update)
        }
        EngineError::ZeroGradient { name, update } => {
            of(Reason::InvalidSpec).with("tensor", name).with("update", update)
        }
        EngineError::NotFinite { what, value, update } => {
            of(Reason::NotFinite).with("what", what).with("value", value).with("update", update)
        }
        EngineError::NoOp { measure, value, limit } => {
            of(Reason::NoOp).with("measure", measure).with("value", value).with("limit", limit)
        }
        EngineError::WreckedModel { value, limit } => {
            of(Reason::WreckedModel).with("value", value).with("limit", limit)
        }
        EngineError::MemoryLimit { need, limit, .. } => {
            of(Reason::OutOfMemory).with("need", need).with("limit", limit)
        }
        EngineError::EmptyScope { scope } => {
            let message = "matches no tensor of the U-Net; name another one";
            of(Reason::InvalidSpec).with("scope", scope).violated(Field::Scope, message)
        }
        EngineError::NoJudge { .. } => of(Reason::NoJudge),
        EngineError::NoEncoder => {
            of(Reason::InvalidSpec).violated(Field::InitImage, error.to_string())
        }
        EngineError::Tensor(error) => tensor_failure(error),
    }
}

/// What others hold in the memory that something is to fit into.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeldBeside {
    /// Jobs under way.
    pub(super) jobs: usize,
    /// Bytes that they hold, models included.
    pub(super) by_jobs: u64,
    /// Bytes that calls hold.
    pub(super) by_calls: u64,
}

/// What does not fit beside what is held.
pub(super) fn out_of_memory(what: &str, need: u64, limit: u64, held: HeldBeside) -> Failure {
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let (others, bytes) = match held {
        HeldBeside { by_jobs: 0, by_calls: 0, .. } => ("", 0),
        HeldBeside { by_jobs: 0, by_calls, .. } => ("the calls under way, which hold", by_calls),
        HeldBeside { jobs: 1, by_jobs, .. } => ("the job under way, which holds", by_jobs),
        HeldBeside { by_jobs, .. } => ("the jobs under way, which hold", by_jobs),
    };
    let (remedy, beside) = if others.is_empty() {
        ("ask for less, or raise device.memory_limit_bytes", String::new())
    } else {
        (
            "wait until that has ended, ask for less, or raise device.memory_limit_bytes",
            format!(" beside {others} {} MiB", mebibytes(bytes)),
        )
    };
    let message = format!(
        "{what} needs {} MiB of memory{beside}; the server may take {} MiB: {remedy}",
        mebibytes(need),
        mebibytes(limit)
    );
    Failure::new(Reason::OutOfMemory, message)
        .with("need", &need)
        .with("limit", &limit)
        .with("heldByJob", &held.by_jobs)
}

/// Whether the device ran out of memory or refused for another reason.
///
/// candle has no error of its own for want of memory, so that the driver's words must do.
fn tensor_failure(error: &candle_core::Error) -> Failure {
    const OUT_OF_MEMORY: [&str; 4] =
        ["out of memory", "out_of_memory", "outofmemory", "alloc_failed"];
    let said = format!("{error} {error:?}").to_lowercase();
    if OUT_OF_MEMORY.iter().any(|words| said.contains(words)) {
        return Failure::new(
            Reason::OutOfMemory,
            "the device ran out of memory; lower the batch, the size of the pictures or the scope",
        );
    }
    let of_device = ["cuda", "cublas", "cudnn"].iter().any(|words| said.contains(words));
    let reason = if of_device { Reason::DeviceFault } else { Reason::EngineFault };
    Failure::new(reason, format!("tensor operation failed: {}", first_line(&error.to_string())))
}

/// A backtrace is for the log.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A request that breaks rules which only the model knows.
pub fn spec_failure(error: &SpecError) -> Failure {
    let violations = error.violations.clone();
    Failure { violations, ..Failure::new(Reason::InvalidSpec, error.to_string()) }
}

fn file_failure(error: &FileError) -> Failure {
    match error {
        FileError::Missing { name, .. } | FileError::Unreadable { name, .. } => {
            Failure::new(Reason::DamagedModel, error.to_string()).with("file", name)
        }
    }
}

fn state_failure(error: &StateError) -> Failure {
    let (StateError::Unwritable { file, .. }
    | StateError::Unreadable { file, .. }
    | StateError::Damaged { file, .. }) = error;
    // Saved state is no part of the request: another try, perhaps on another disk, may do.
    Failure::new(Reason::DiskFull, error.to_string()).with("file", file)
}

/// What went wrong with a result's files.
pub fn artifact_failure(error: &ArtifactError) -> Failure {
    let of = |reason| Failure::new(reason, error.to_string());
    match error {
        ArtifactError::File(error) => file_failure(error),
        ArtifactError::UnknownBuiltin { .. }
        | ArtifactError::UnsupportedScheme { .. }
        | ArtifactError::BadUrl { .. }
        | ArtifactError::NotAModel { .. } => of(Reason::ModelNotFound),
        ArtifactError::Unreadable { .. } => of(Reason::DamagedModel),
        ArtifactError::DiskFull { .. }
        | ArtifactError::TooLittleRoom { .. }
        | ArtifactError::Unwritable { .. } => of(Reason::DiskFull),
        // Ours to prevent: the worker names its own folders.
        _ => of(Reason::EngineFault),
    }
}

/// What a run's error means for its job.
pub fn run_failure(error: RunError) -> Failure {
    match error {
        RunError::Engine(error) => engine_failure(&error),
        RunError::Artifact(error) => artifact_failure(&error),
        RunError::Report(error) => report_failure(&error),
        RunError::Unlisted(error) => disk_failure("the result folder", &error),
        RunError::NoJudge { ref base_model } => {
            Failure::new(Reason::NoJudge, error.to_string()).with("baseModel", base_model)
        }
        RunError::NotAdmitted(failure) => failure,
    }
}

/// What went wrong with plots and reports: always ours.
pub fn report_failure(error: &ReportError) -> Failure {
    Failure::new(Reason::EngineFault, error.to_string())
}

/// What a failed file operation on the worker's own disk means.
pub fn disk_failure(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Reason::DiskFull, format!("cannot write {what} on the worker's disk: {error}"))
        .with("file", &what)
}

/// A panic of the engine: its words are for the log alone, since they may quote anything.
pub(super) fn panic_failure() -> Failure {
    Failure::new(
        Reason::EngineFault,
        "the engine failed in a way that it should not; this is a fault of Keystep, see its log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_memory_is_told_from_other_faults() {
        let oom = candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY)".to_owned());
        assert_eq!(engine_failure(&oom.into()).reason, Reason::OutOfMemory);
        let device = candle_core::Error::Msg("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned());
        assert_eq!(engine_failure(&device.into()).reason, Reason::DeviceFault);
        let shape = candle_core::Error::Msg("shape mismatch".to_owned());
        assert_eq!(engine_failure(&shape.into()).reason, Reason::EngineFault);
    }

    #[test]
    fn every_variable_of_the_message_is_in_the_metadata() {
        let failure = engine_failure(&EngineError::PromptTooLong { tokens: 90, limit: 77 });
        assert_eq!(failure.reason, Reason::InvalidSpec);
        assert_eq!(failure.metadata["tokens"], "90");
        assert_eq!(failure.metadata["limit"], "77");
        let failure = engine_failure(&EngineError::Spec(SpecError::one(Field::Seed, "is odd")));
        assert_eq!(failure.violations[0].to_string(), "seed: is odd");
    }
}
