//! What lies before the device's threads: the loaded models, the rates they were seen to reach, and
//! the calls that wait.

use std::{
    any::Any,
    collections::BTreeMap,
    fs::File,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    CallLimits, DeviceEngine, DeviceSettings, EngineSource, InteractiveCalls, OpenedModel,
    PlanEstimate, ServingMark,
    account::{Account, Holder},
    engine_failure::engine_failure,
    turn::{JobFlags, Turn},
};
use crate::{
    engine::{EngineError, WorkMemory},
    jobs::{Clock, Failure, FailureReason},
    spec::UnlearnSpec,
};

/// Everything that the device's threads own; the locks are never waited for, since one of the two
/// threads alone has its turn.
#[derive(Debug)]
pub struct Slot<S: EngineSource> {
    source: Mutex<S>,
    account: Mutex<Account<S::Engine>>,
    /// U-Net evaluations a second while training, by the base model's digest.
    rates: Mutex<BTreeMap<String, f64>>,
    pub(super) direct: InteractiveCalls,
    pub(super) call_limits: CallLimits,
    pub(super) serving_mark: Option<ServingMark>,
    pub(super) turn: Turn,
    /// Whether the engine panicked since the state was built.
    failed: AtomicBool,
    /// Where the time comes from.
    pub clock: Clock,
}

/// Nothing that a lock guards here can be left half changed in a way that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: EngineSource> Slot<S> {
    pub(super) fn new(source: S, settings: &DeviceSettings, direct: InteractiveCalls) -> Self {
        Self {
            source: Mutex::new(source),
            account: Mutex::new(Account::new(settings.loaded_models)),
            rates: Mutex::default(),
            direct,
            call_limits: settings.call_limits,
            serving_mark: settings.serving_mark.clone(),
            turn: Turn::new(settings.clock.clone()),
            failed: AtomicBool::new(false),
            clock: settings.clock.clone(),
        }
    }

    /// The model, loaded now or before. Another thread's work is never waited for.
    pub fn engine(&self, model: &OpenedModel) -> Result<Arc<S::Engine>, Failure> {
        if let Some(engine) = self.find(&model.digest) {
            return Ok(engine);
        }
        let Some(edited) = &model.edited else {
            return self.load(model, &model.digest);
        };
        let base = match self.find(&edited.base_digest) {
            Some(base) => base,
            None => self.load(model, &edited.base_digest)?,
        };
        let unreadable = |source: io::Error| {
            let message = format!("the edited tensors of {} cannot be read: {source}", model.name);
            let reason = match source.kind() {
                // The cache was emptied since they were found there: who asks again has them fetched.
                io::ErrorKind::NotFound => FailureReason::StorageUnavailable,
                _ => FailureReason::DamagedModel,
            };
            Failure::new(reason, message).with("model", &model.name)
        };
        let file = File::open(&edited.path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        // What is stored in half precision is widened.
        lock(&self.account).make_room(model, length.saturating_mul(2), self.memory_limit())?;
        let engine = base
            .with_edited(&model.name, Box::new(file), length)
            .map_err(|error| engine_failure(&error))?;
        Ok(self.keep(&model.digest, Some(&edited.base_digest), engine))
    }

    /// Loads a model's own files, which are those of its base where it is an edited one.
    fn load(&self, model: &OpenedModel, digest: &str) -> Result<Arc<S::Engine>, Failure> {
        let files = model.files.as_ref();
        // Where the headers cannot be read, neither can the model, which then says why.
        let bytes = lock(&self.source).weight_bytes(files).unwrap_or(0);
        lock(&self.account).make_room(model, bytes, self.memory_limit())?;
        let load = || lock(&self.source).load(files).map_err(|error| engine_failure(&error));
        let engine = match load() {
            Err(failure)
                if failure.reason == FailureReason::OutOfMemory
                    && lock(&self.account).drop_idle() =>
            {
                load()
            }
            result => result,
        };
        let engine = engine?;
        for warning in engine.warnings() {
            tracing::warn!(warning, "the model's folder is odd");
        }
        Ok(self.keep(digest, None, engine))
    }

    fn find(&self, digest: &str) -> Option<Arc<S::Engine>> {
        lock(&self.account).find(digest)
    }

    fn keep(&self, digest: &str, base: Option<&str>, engine: S::Engine) -> Arc<S::Engine> {
        let bytes = engine.own_bytes();
        let engine = Arc::new(engine);
        lock(&self.account).keep(digest, base, engine.clone(), bytes);
        engine
    }

    fn memory_limit(&self) -> Option<u64> {
        lock(&self.source).memory_limit()
    }

    /// Admits a call by its memory, until it has ended.
    pub(super) fn admit_call(
        &self,
        model: &OpenedModel,
        memory: WorkMemory,
    ) -> Result<(), Failure> {
        lock(&self.account).admit(Holder::Call, [model], memory, self.memory_limit())
    }

    /// The call that was admitted has ended.
    pub(super) fn release_call(&self) {
        lock(&self.account).release(Holder::Call);
    }

    /// Admits a job by its memory, until the guard of [`Slot::work_on`] is dropped. A call that is in
    /// its way comes to its end first: calls are short beside jobs.
    pub fn admit_job(&self, models: &[&OpenedModel], memory: WorkMemory) -> Result<(), Failure> {
        let admit = || {
            let models = models.iter().copied();
            lock(&self.account).admit(Holder::Job, models, memory, self.memory_limit())
        };
        match admit() {
            Err(_) if self.turn.is_call_open() => {
                self.finish_call();
                admit()
            }
            admitted => admitted,
        }
    }

    /// What an erasure would take, with the time where this model's rate is known.
    pub(super) fn plan(
        &self,
        model: &OpenedModel,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, Failure> {
        let planned = lock(&self.source).plan(model.files.as_ref(), spec);
        let mut plan = planned.map_err(|error| engine_failure(&error))?;
        let digest =
            model.edited.as_ref().map_or(model.digest.as_str(), |edited| &edited.base_digest);
        plan.estimated_duration = lock(&self.rates)
            .get(digest)
            .and_then(|rate| Duration::try_from_secs_f64(plan.unet_evaluations as f64 / rate).ok());
        Ok(plan)
    }

    /// Notes how fast a model was seen to be.
    pub fn note_rate(&self, digest: &str, evaluations_a_second: f64) {
        if evaluations_a_second.is_finite() && evaluations_a_second > 0.0 {
            lock(&self.rates).insert(digest.to_owned(), evaluations_a_second);
        }
    }

    /// For the thread of jobs: lets the call that was left off come to its end.
    pub(super) fn finish_call(&self) {
        while self.turn.is_call_open() && self.turn.give() {}
    }

    /// Says whose job it is that calls give way to, until it is dropped.
    pub fn work_on(&self, flags: JobFlags) -> WorksOnJob<'_, S> {
        self.turn.set_job(Some(flags));
        WorksOnJob(self)
    }

    /// The thread of jobs is gone.
    pub(super) fn close(&self) {
        self.turn.stop();
    }

    /// Notes a panic: the models are dropped, a job under way keeps its own until its end.
    pub(super) fn note_panic(&self, payload: &(dyn Any + Send)) {
        let said = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(said, "the engine panicked");
        self.failed.store(true, Ordering::Relaxed);
        lock(&self.account).clear();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn start_anew(&self) {
        lock(&self.account).clear();
        self.failed.store(false, Ordering::Relaxed);
    }

    pub(super) fn check(&self) -> Result<(), Failure> {
        let checked: Result<(), EngineError> = lock(&self.source).check();
        checked.map_err(|error| engine_failure(&error))
    }
}

/// A job under way, to its end.
#[derive(Debug)]
pub struct WorksOnJob<'a, S: EngineSource>(&'a Slot<S>);

impl<S: EngineSource> Drop for WorksOnJob<'_, S> {
    fn drop(&mut self) {
        self.0.turn.set_job(None);
        lock(&self.0.account).release(Holder::Job);
    }
}
