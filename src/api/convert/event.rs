//! Converts the events of a job's log into wire messages.

use super::time;
use crate::{
    api::status::failure_status,
    jobs::{EventBody, JobEvent, JobProgress, StateName},
    outcome::{Phase, Progress},
    proto::keystep::v1::{
        JobEvent as WireEvent, JobState as WireState, Progress as WireProgress, StateChanged,
        Warning, WorkPhase as WirePhase, job_event::Event,
    },
};

/// One entry of a log.
pub(in crate::api) fn event(event: JobEvent) -> WireEvent {
    let JobEvent { sequence, recorded_at, body } = event;
    let body = match body {
        EventBody::StateChanged { state: entered, attempt, failure } => {
            // A job that goes back into the queue has failed, and is not failed.
            let failure = failure.filter(|_| entered == StateName::Failed);
            Event::StateChanged(StateChanged {
                state: state(entered).into(),
                attempt,
                error: failure.as_ref().map(failure_status),
            })
        }
        EventBody::Progress(made) => Event::Progress(progress(made)),
        EventBody::Warning { reason, message } => Event::Warning(Warning { reason, message }),
    };
    WireEvent { sequence: sequence.0, record_time: Some(time(recorded_at)), event: Some(body) }
}

pub(super) fn state(state: StateName) -> WireState {
    match state {
        StateName::Queued => WireState::Queued,
        StateName::Preparing => WireState::Preparing,
        StateName::Running => WireState::Running,
        StateName::Publishing => WireState::Publishing,
        StateName::Succeeded => WireState::Succeeded,
        StateName::Failed => WireState::Failed,
        StateName::Cancelled => WireState::Cancelled,
    }
}

pub(super) fn progress(progress: JobProgress) -> WireProgress {
    let JobProgress {
        phase,
        done,
        total,
        updates_done,
        updates_total,
        key_step,
        loss,
        gradient_norm,
    } = progress;
    WireProgress {
        iterations_done: updates_done,
        iterations_total: updates_total,
        key_step,
        loss,
        phase: WirePhase::from(phase).into(),
        units_done: done,
        units_total: total,
        gradient_norm,
    }
}

impl From<Phase> for WirePhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Score => Self::Score,
            Phase::SwitchCurve => Self::SwitchCurve,
            Phase::Walk => Self::Walk,
            Phase::Train => Self::Train,
            Phase::Draw => Self::Draw,
            Phase::Judge => Self::Judge,
            Phase::Attack => Self::Attack,
            Phase::Upload => Self::Upload,
        }
    }
}

/// How far a call that is bound to its caller is.
pub(in crate::api) fn progress_of_call(made: &Progress) -> WireProgress {
    let mut so_far = JobProgress::default();
    so_far.advance(made);
    progress(so_far)
}
