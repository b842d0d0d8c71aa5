//! A slot: what its thread of jobs and its thread of calls work with. Only one of the two computes
//! at a time.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    CallLimits, DeviceSettings, EngineSource, InteractiveCalls, JobFlags, OpenedModel, ServingMark,
    account::{Blocker, Occupant, Refusal},
    engine_failure::engine_failure,
    health::SlotIndex,
    memory::DeviceMemory,
    turn::Turn,
};
use crate::{
    engine::WorkMemory,
    jobs::{Clock, Failure, FailureReason},
};

/// How often a job that waits for memory looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A place where one job is worked on, with a call beside it.
pub struct Slot<S: EngineSource> {
    pub(super) index: SlotIndex,
    pub(super) memory: Arc<DeviceMemory<S>>,
    pub(super) calls: InteractiveCalls,
    pub(super) call_limits: CallLimits,
    pub(super) serving_mark: Option<ServingMark>,
    pub(super) turn: Turn,
    /// Whether the engine panicked, or its device failed, since the state was built.
    failed: AtomicBool,
    /// Where the time comes from.
    pub clock: Clock,
}

impl<S: EngineSource> fmt::Debug for Slot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("index", &self.index).finish_non_exhaustive()
    }
}

impl<S: EngineSource> Slot<S> {
    pub(super) fn new(
        index: SlotIndex,
        memory: Arc<DeviceMemory<S>>,
        settings: &DeviceSettings,
        calls: InteractiveCalls,
    ) -> Self {
        Self {
            index,
            memory,
            calls,
            call_limits: settings.call_limits,
            serving_mark: settings.serving_mark.clone(),
            turn: Turn::new(settings.clock.clone()),
            failed: AtomicBool::new(false),
            clock: settings.clock.clone(),
        }
    }

    /// For a job: the model, loaded now or before. Waits where there is no room for it yet. A job asks
    /// for all its models before [`Slot::admit_job`].
    pub fn engine(&self, model: &OpenedModel) -> Result<Arc<S::Engine>, Failure> {
        self.wait_for_room(|| {
            self.memory.start(self.index)?;
            self.memory.engine(Occupant::Job(self.index), model)
        })
    }

    /// Admits a job by its memory, until it ends. Waits where it fits once jobs of other slots or
    /// calls have ended; fails where it would not fit alone.
    pub fn admit_job(&self, models: &[&OpenedModel], memory: WorkMemory) -> Result<(), Failure> {
        let occupant = Occupant::Job(self.index);
        self.wait_for_room(|| self.memory.admit(occupant, models.iter().copied(), memory))
    }

    /// Tries again whenever something is released, until it succeeds, fails for good, or the job is
    /// to stop. Calls have the slot meanwhile.
    fn wait_for_room<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, Refusal>,
    ) -> Result<T, Failure> {
        let mut calls_held_back = None;
        loop {
            let seen = self.memory.releases();
            let blocker = match attempt() {
                Ok(granted) => return Ok(granted),
                Err(Refusal::Final(failure)) => return Err(failure),
                Err(Refusal::NoRoomBeside { blocker, .. }) => blocker,
            };
            if let Some(error) = self.turn.job_is_to_stop() {
                return Err(engine_failure(&error));
            }
            // Calls that begin one after another would keep the job waiting for ever.
            if blocker == Blocker::Jobs {
                calls_held_back = None;
            } else if calls_held_back.is_none() {
                calls_held_back = Some(CallsHeldBack::new(self));
            }
            if !self.give_way() {
                self.memory.wait_for_release(seen, LOOK_EVERY);
            }
        }
    }

    /// Notes how fast a model was seen to be.
    pub fn note_rate(&self, digest: &str, evaluations_a_second: f64) {
        self.memory.note_rate(digest, evaluations_a_second);
    }

    /// For the thread of jobs: lets the call that was left off come to its end.
    pub(super) fn finish_call(&self) {
        while self.turn.is_call_open() && self.turn.give() {}
    }

    /// Says which flags stop the job that calls give way to; what the job holds is released when the
    /// guard is dropped.
    pub(super) fn begin_job(&self, flags: JobFlags) -> JobOnSlot<'_, S> {
        self.turn.set_job(Some(flags));
        JobOnSlot(self)
    }

    /// The thread of jobs is gone.
    pub(super) fn close(&self) {
        self.turn.stop();
        self.calls.slot_ends(self.index);
    }

    /// Notes a panic: models that no other slot works with are dropped, a job under way keeps its own
    /// until its end.
    pub(super) fn note_panic(&self, payload: &(dyn Any + Send)) {
        let said = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(said, slot = self.index.0, "the engine panicked");
        self.failed.store(true, Ordering::Relaxed);
        self.memory.drop_all_of(self.index);
    }

    /// Notes why a job or a call ended: a device that failed is looked at before the next job comes
    /// to it, or it would fail one job after another while other slots work.
    pub(super) fn note_failure(&self, failure: &Failure) {
        if failure.reason == FailureReason::DeviceFault {
            tracing::error!(message = failure.message, slot = self.index.0, "the device failed");
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn start_anew(&self) {
        self.memory.drop_all_of(self.index);
        self.failed.store(false, Ordering::Relaxed);
    }
}

/// Lets no call begin in the slot's memory, until it is dropped.
struct CallsHeldBack<'a, S: EngineSource>(&'a Slot<S>);

impl<'a, S: EngineSource> CallsHeldBack<'a, S> {
    fn new(slot: &'a Slot<S>) -> Self {
        slot.memory.hold_calls_back();
        Self(slot)
    }
}

impl<S: EngineSource> Drop for CallsHeldBack<'_, S> {
    fn drop(&mut self) {
        self.0.memory.resume_calls();
        self.0.calls.wake();
    }
}

/// A job under way, to its end.
pub(super) struct JobOnSlot<'a, S: EngineSource>(&'a Slot<S>);

impl<S: EngineSource> Drop for JobOnSlot<'_, S> {
    fn drop(&mut self) {
        self.0.turn.set_job(None);
        self.0.memory.release(Occupant::Job(self.0.index));
    }
}
