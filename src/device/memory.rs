//! A memory that slots share: the source of engines, the models that it loaded, and the account of
//! all that is held. The slots of a CPU share one; each CUDA device has its own.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    EngineSource, OpenedModel, PlanEstimate,
    account::{Account, LoadedModel, Occupant, Refusal},
    engine_failure::engine_failure,
    health::SlotIndex,
};
use crate::{
    engine::WorkMemory,
    jobs::{Failure, FailureReason},
    run::DeviceEngine,
    spec::{ModelFiles, UnlearnSpec},
};

/// See the module.
#[derive(Debug)]
pub(super) struct DeviceMemory<S: EngineSource> {
    /// Held while a model is loaded, so that slots do not load the same one twice.
    source: Mutex<S>,
    account: Mutex<Account<S::Engine>>,
    released: Condvar,
    /// Jobs that fit as soon as calls have ended; no call begins before they are admitted.
    jobs_behind_calls: AtomicUsize,
    /// U-Net evaluations a second while training, by the base model's digest.
    rates: Mutex<BTreeMap<String, f64>>,
}

/// Nothing that a lock guards here can be left half changed in a way that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

impl<S: EngineSource> DeviceMemory<S> {
    pub(super) fn new(source: S, max_loaded: usize) -> Self {
        Self {
            source: Mutex::new(source),
            account: Mutex::new(Account::new(max_loaded)),
            released: Condvar::new(),
            jobs_behind_calls: AtomicUsize::new(0),
            rates: Mutex::default(),
        }
    }

    /// Whether the device works; learns how much memory there is on it.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let mut source = lock(&self.source);
        source.check().map_err(|error| engine_failure(&error))?;
        lock(&self.account).set_limit(source.memory_limit());
        Ok(())
    }

    /// The model, loaded now or before; it stays in memory until the occupant ends. A model that
    /// another slot loads is waited for.
    pub(super) fn engine(
        &self,
        occupant: Occupant,
        model: &OpenedModel,
    ) -> Result<Arc<S::Engine>, Refusal> {
        let find = |digest: &str| lock(&self.account).find(occupant, digest);
        if let Some(engine) = find(&model.digest) {
            return Ok(engine);
        }
        let mut source = lock(&self.source);
        // Another slot may have loaded it meanwhile.
        if let Some(engine) = find(&model.digest) {
            return Ok(engine);
        }
        let Some(edited) = &model.edited else {
            return self.load(&mut source, occupant, model, &model.digest);
        };
        let base = match find(&edited.base_digest) {
            Some(base) => base,
            None => self.load(&mut source, occupant, model, &edited.base_digest)?,
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
        let bytes = length.saturating_mul(2);
        let base_digest = Some(edited.base_digest.as_str());
        self.keep(occupant, model, (&model.digest, base_digest, bytes), || {
            base.with_edited(&model.name, Box::new(file), length)
                .map_err(|error| engine_failure(&error))
        })
    }

    /// Loads a model's own files, which are those of its base where it is an edited one.
    fn load(
        &self,
        source: &mut S,
        occupant: Occupant,
        model: &OpenedModel,
        digest: &str,
    ) -> Result<Arc<S::Engine>, Refusal> {
        let files = model.files.as_ref();
        // Where the headers cannot be read, neither can the model, which then says why.
        let bytes = source.weight_bytes(files).unwrap_or(0);
        self.keep(occupant, model, (digest, None, bytes), || {
            let engine = match load(source, files) {
                Err(failure)
                    if failure.reason == FailureReason::OutOfMemory
                        && lock(&self.account).drop_idle() =>
                {
                    load(source, files)?
                }
                loaded => loaded?,
            };
            for warning in engine.warnings() {
                tracing::warn!(warning, "the model's folder is odd");
            }
            Ok(engine)
        })
    }

    /// Makes room for a model of so many bytes, loads it and keeps it under its digest, and under
    /// that of its base where it shares the base's tensors.
    fn keep(
        &self,
        occupant: Occupant,
        model: &OpenedModel,
        (digest, base, bytes): (&str, Option<&str>, u64),
        load: impl FnOnce() -> Result<S::Engine, Failure>,
    ) -> Result<Arc<S::Engine>, Refusal> {
        lock(&self.account).make_room(occupant, model, bytes)?;
        // However loading ends, the room is given back or taken by the model.
        let mut loading = Loading { memory: self, occupant, loaded: None };
        let engine = Arc::new(load()?);
        loading.loaded = Some(LoadedModel {
            digest: digest.to_owned(),
            base: base.map(str::to_owned),
            engine: engine.clone(),
            bytes: engine.own_bytes(),
        });
        Ok(engine)
    }

    /// Lets a slot's job load its models, unless another slot's does.
    pub(super) fn start(&self, slot: SlotIndex) -> Result<(), Refusal> {
        lock(&self.account).start(slot)
    }

    /// Admits an occupant by its memory, until it is released.
    pub(super) fn admit<'a>(
        &self,
        occupant: Occupant,
        models: impl IntoIterator<Item = &'a OpenedModel>,
        memory: WorkMemory,
    ) -> Result<(), Refusal> {
        let admitted = lock(&self.account).admit(occupant, models, memory);
        // The next job may load its models.
        self.released.notify_all();
        admitted
    }

    /// An occupant has ended.
    pub(super) fn release(&self, occupant: Occupant) {
        lock(&self.account).release(occupant);
        self.released.notify_all();
    }

    /// Drops every model that no other slot works with.
    pub(super) fn drop_all_of(&self, slot: SlotIndex) {
        lock(&self.account).drop_all_of(slot);
        self.released.notify_all();
    }

    /// Grows whenever there may be more room than before.
    pub(super) fn releases(&self) -> u64 {
        lock(&self.account).releases()
    }

    /// Waits until there may be more room than when [`DeviceMemory::releases`] was `seen`, and no
    /// longer than `at_most`.
    pub(super) fn wait_for_release(&self, seen: u64, at_most: Duration) {
        let unchanged = |account: &mut Account<S::Engine>| account.releases() == seen;
        let account = lock(&self.account);
        drop(self.released.wait_timeout_while(account, at_most, unchanged));
    }

    /// A job fits as soon as the calls under way have ended: no further call begins before
    /// [`DeviceMemory::resume_calls`].
    pub(super) fn hold_calls_back(&self) {
        self.jobs_behind_calls.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes one [`DeviceMemory::hold_calls_back`] back.
    pub(super) fn resume_calls(&self) {
        self.jobs_behind_calls.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether calls may begin.
    pub(super) fn takes_calls(&self) -> bool {
        self.jobs_behind_calls.load(Ordering::SeqCst) == 0
    }

    /// The source, unless another slot loads a model from it just now.
    pub(super) fn free_source(&self) -> Option<MutexGuard<'_, S>> {
        match self.source.try_lock() {
            Ok(source) => Some(source),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// What an erasure would take, with the time where this model's rate is known.
    pub(super) fn plan(
        &self,
        source: &mut S,
        model: &OpenedModel,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, Failure> {
        let planned = source.plan(model.files.as_ref(), spec);
        let mut plan = planned.map_err(|error| engine_failure(&error))?;
        let digest =
            model.edited.as_ref().map_or(model.digest.as_str(), |edited| &edited.base_digest);
        plan.estimated_duration = lock(&self.rates)
            .get(digest)
            .and_then(|rate| Duration::try_from_secs_f64(plan.unet_evaluations as f64 / rate).ok());
        Ok(plan)
    }

    /// Notes how fast a model was seen to be.
    pub(super) fn note_rate(&self, digest: &str, evaluations_a_second: f64) {
        if evaluations_a_second.is_finite() && evaluations_a_second > 0.0 {
            lock(&self.rates).insert(digest.to_owned(), evaluations_a_second);
        }
    }
}

fn load<S: EngineSource>(source: &mut S, files: &dyn ModelFiles) -> Result<S::Engine, Failure> {
    source.load(files).map_err(|error| engine_failure(&error))
}

/// A model for which there is room, until it is there or loading has failed.
struct Loading<'a, S: EngineSource> {
    memory: &'a DeviceMemory<S>,
    occupant: Occupant,
    loaded: Option<LoadedModel<S::Engine>>,
}

impl<S: EngineSource> Drop for Loading<'_, S> {
    fn drop(&mut self) {
        lock(&self.memory.account).finish_loading(self.occupant, self.loaded.take());
        self.memory.released.notify_all();
    }
}
