//! What the device thread is asked.

use tokio::sync::oneshot;

use super::{OpenedModel, device_job::DeviceJob};
use crate::{jobs::Failure, run::FinishedResult};

/// A message to the device thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Bring a model onto the device.
    Load { model: OpenedModel, span: tracing::Span, reply: oneshot::Sender<Result<(), Failure>> },
    /// Do the engine's part of a job.
    Run {
        job: Box<DeviceJob>,
        span: tracing::Span,
        reply: oneshot::Sender<Result<FinishedResult, Failure>>,
    },
    /// Look at the direct calls.
    Wake,
    /// End.
    Stop,
}
