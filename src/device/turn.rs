//! Whose turn it is to use a slot. The thread of jobs and the thread of calls take turns and never
//! compute at the same time: a call pauses for a job, and a job for a call.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    engine::{CancelFlag, EngineError, PauseFlag},
    jobs::{Clock, Monotonic},
};

/// How long a call keeps the device before a job may do its next unit of work.
const SLICE: Duration = Duration::from_secs(2);

/// The flags that ask a job to stop.
#[derive(Debug, Clone)]
pub struct JobFlags {
    /// Ends the job.
    pub cancel: CancelFlag,
    /// Lets the job save where it stands, and ends it.
    pub pause: PauseFlag,
}

/// Passes between a slot's two threads. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Turn(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    clock: Clock,
}

#[derive(Debug)]
struct State {
    holder: Side,
    /// Whether a call was begun that has not ended.
    is_call_open: bool,
    /// When the calls got their turn.
    since: Monotonic,
    /// Of the job that waits for its turn.
    job: Option<JobFlags>,
    is_stopped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Jobs,
    Calls,
}

impl JobFlags {
    /// Why the job is to stop, where it is.
    fn reason(&self) -> Option<EngineError> {
        if self.cancel.is_cancelled() {
            Some(EngineError::Cancelled)
        } else if self.pause.is_paused() {
            Some(EngineError::Paused)
        } else {
            None
        }
    }
}

impl Turn {
    pub(super) fn new(clock: Clock) -> Self {
        let state = State {
            holder: Side::Jobs,
            is_call_open: false,
            since: Monotonic::default(),
            job: None,
            is_stopped: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), clock }))
    }

    /// For the jobs: lets calls have a slice, and waits until it is over. Says whether the thread of
    /// calls still runs.
    pub(super) fn give(&self) -> bool {
        let mut state = self.state();
        if state.is_stopped {
            return false;
        }
        state.holder = Side::Calls;
        state.since = self.0.clock.monotonic();
        self.0.changed.notify_all();
        drop(self.wait(state, |state| state.holder == Side::Jobs || state.is_stopped));
        true
    }

    /// For the jobs: whether a call was left off in the midst.
    pub(super) fn is_call_open(&self) -> bool {
        self.state().is_call_open
    }

    /// For the jobs: whose job it is that calls give way to.
    pub(super) fn set_job(&self, job: Option<JobFlags>) {
        self.state().job = job;
    }

    /// For the jobs: why the job is to stop, where it is.
    pub(super) fn job_is_to_stop(&self) -> Option<EngineError> {
        self.state().job.as_ref().and_then(JobFlags::reason)
    }

    /// For the calls: waits for the turn; says whether it came, rather than the end.
    pub(super) fn take(&self) -> bool {
        let state =
            self.wait(self.state(), |state| state.holder == Side::Calls || state.is_stopped);
        !state.is_stopped
    }

    /// For the calls: a call was begun, or ended.
    pub(super) fn set_call_open(&self, is_open: bool) {
        self.state().is_call_open = is_open;
    }

    /// For the calls: hands the turn back.
    pub(super) fn hand_back(&self) {
        self.state().holder = Side::Jobs;
        self.0.changed.notify_all();
    }

    /// For a call between two units of its work: where its slice is over, or the job is to stop, the
    /// job goes on first. Says whether the call may go on then.
    pub(super) fn rest(&self) -> bool {
        let now = self.0.clock.monotonic();
        let is_over = {
            let state = self.state();
            let is_job_to_stop = state.job.as_ref().and_then(JobFlags::reason).is_some();
            is_job_to_stop || now.since(state.since) >= SLICE
        };
        if !is_over {
            return true;
        }
        self.hand_back();
        self.take()
    }

    /// Ends the waiting of both threads; neither has a turn any more.
    pub(super) fn stop(&self) {
        self.state().is_stopped = true;
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change of it can be left half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        is_met: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.0.changed.wait_while(state, |state| !is_met(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}
