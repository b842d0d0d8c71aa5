//! What lies before the device thread: the loaded models, the rates they were seen to reach, and the
//! calls that wait.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

use super::{
    DeviceEngine, DeviceSettings, DirectCalls, EngineSource, OpenedModel,
    direct_queue::ReadyCall,
    failure::{engine_failure, panic_failure},
    serving::serve,
};
use crate::{
    engine::EngineError,
    jobs::{Clock, Failure, FailureReason},
    spec::{ModelFiles, UnlearnSpec},
};

/// Everything that the device thread owns.
pub(super) struct Desk<S: EngineSource> {
    source: RefCell<S>,
    /// By digest, the one used last at the end.
    loaded: RefCell<Vec<(String, Rc<S::Engine>)>>,
    most_loaded: usize,
    /// U-Net evaluations a second while training, by the base model's digest.
    rates: RefCell<BTreeMap<String, f64>>,
    direct: DirectCalls,
    /// Whether a direct call is being served: no call is served within another.
    serving: Cell<bool>,
    /// Whether the engine panicked since the state was built.
    failed: Cell<bool>,
    pub(super) clock: Clock,
}

impl<S: EngineSource> Desk<S> {
    pub(super) fn new(source: S, settings: &DeviceSettings, direct: DirectCalls) -> Self {
        Self {
            source: RefCell::new(source),
            loaded: RefCell::default(),
            most_loaded: settings.loaded_models.max(1),
            rates: RefCell::default(),
            direct,
            serving: Cell::new(false),
            failed: Cell::new(false),
            clock: settings.clock.clone(),
        }
    }

    /// The model, loaded now or before. Another thread's work is never waited for.
    pub(super) fn engine(&self, model: &OpenedModel) -> Result<Rc<S::Engine>, Failure> {
        if let Some(engine) = self.find(&model.digest) {
            return Ok(engine);
        }
        let Some(edited) = &model.edited else {
            return self.keep(&model.digest, || self.load(model.files.as_ref()));
        };
        let base = match self.find(&edited.base_digest) {
            Some(base) => base,
            None => self.keep(&edited.base_digest, || self.load(model.files.as_ref()))?,
        };
        let unreadable = |source: std::io::Error| {
            let message = format!("the edited tensors of {} cannot be read: {source}", model.name);
            Failure::new(FailureReason::DamagedModel, message).with("model", &model.name)
        };
        let file = File::open(&edited.path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        self.keep(&model.digest, || {
            base.with_edited(&model.name, Box::new(file), length)
                .map_err(|error| engine_failure(&error))
        })
    }

    fn load(&self, files: &dyn ModelFiles) -> Result<S::Engine, Failure> {
        let load = || self.source.borrow_mut().load(files).map_err(|error| engine_failure(&error));
        match load() {
            Err(failure) if failure.reason == FailureReason::OutOfMemory && self.make_room(0) => {
                load()
            }
            result => result,
        }
    }

    fn find(&self, digest: &str) -> Option<Rc<S::Engine>> {
        let mut loaded = self.loaded.borrow_mut();
        let index = loaded.iter().position(|(known, _)| known == digest)?;
        let entry = loaded.remove(index);
        let engine = entry.1.clone();
        loaded.push(entry);
        Some(engine)
    }

    fn keep(
        &self,
        digest: &str,
        load: impl FnOnce() -> Result<S::Engine, Failure>,
    ) -> Result<Rc<S::Engine>, Failure> {
        // Before the new one comes, so that both need not fit.
        self.make_room(self.most_loaded - 1);
        let engine = Rc::new(load()?);
        self.loaded.borrow_mut().push((digest.to_owned(), engine.clone()));
        Ok(engine)
    }

    /// Drops the models used longest ago; says whether any went.
    fn make_room(&self, most: usize) -> bool {
        let mut loaded = self.loaded.borrow_mut();
        let surplus = loaded.len().saturating_sub(most);
        loaded.drain(..surplus);
        surplus > 0
    }

    /// What an erasure would take, with the time where this model's rate is known.
    pub(super) fn plan(
        &self,
        model: &OpenedModel,
        spec: &UnlearnSpec,
    ) -> Result<super::PlanEstimate, Failure> {
        let planned = self.source.borrow_mut().plan(model.files.as_ref(), spec);
        let mut plan = planned.map_err(|error| engine_failure(&error))?;
        let digest =
            model.edited.as_ref().map_or(model.digest.as_str(), |edited| &edited.base_digest);
        plan.estimated_duration =
            self.rates.borrow().get(digest).and_then(|rate| {
                Duration::try_from_secs_f64(plan.unet_evaluations as f64 / rate).ok()
            });
        Ok(plan)
    }

    /// Notes how fast a model was seen to be.
    pub(super) fn note_rate(&self, digest: &str, evaluations_a_second: f64) {
        if evaluations_a_second.is_finite() && evaluations_a_second > 0.0 {
            self.rates.borrow_mut().insert(digest.to_owned(), evaluations_a_second);
        }
    }

    /// Serves the direct call whose turn it is; says whether there was one. Called between two units
    /// of a job as well: one call each, so that neither starves the other.
    pub(super) fn serve_next(&self) -> bool {
        if self.serving.get() {
            return false;
        }
        let Some(ReadyCall { call, model, mut line, span }) = self.direct.take() else {
            return false;
        };
        self.serving.set(true);
        let begun = self.clock.now();
        let served = span
            .in_scope(|| catch_unwind(AssertUnwindSafe(|| serve(self, call, &model, &mut line))));
        match served {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => line.fail(failure),
            Err(payload) => {
                self.note_panic(payload.as_ref());
                line.fail(panic_failure());
            }
        }
        self.serving.set(false);
        self.direct.done(self.clock.now().since(begun));
        true
    }

    /// Notes a panic: the models are dropped, a job under way keeps its own until its end.
    pub(super) fn note_panic(&self, payload: &(dyn Any + Send)) {
        let said = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(said, "the engine panicked");
        self.failed.set(true);
        self.serving.set(false);
        self.make_room(0);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    pub(super) fn start_anew(&self) {
        self.make_room(0);
        self.failed.set(false);
    }

    pub(super) fn check(&self) -> Result<(), Failure> {
        let checked: Result<(), EngineError> = self.source.borrow_mut().check();
        checked.map_err(|error| engine_failure(&error))
    }
}
