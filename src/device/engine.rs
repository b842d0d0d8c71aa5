//! `EngineSource`: where a slot gets its engines from.

use super::PlanEstimate;
use crate::{
    engine::{self, CandleEngine, Compute, ComputeSettings, EngineError},
    outcome::MemorySavings,
    run::DeviceEngine,
    spec::{Method, ModelFiles, UnlearnSpec},
};

/// Makes engines; called by one of the device's threads at a time.
pub trait EngineSource: Send + 'static {
    /// What it makes.
    type Engine: DeviceEngine + 'static;

    /// Reads a model onto the device. Blocking.
    fn load(&mut self, files: &dyn ModelFiles) -> Result<Self::Engine, EngineError>;

    /// What an erasure would take, but for the time; reads no weight.
    fn plan(
        &mut self,
        files: &dyn ModelFiles,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, EngineError>;

    /// Bytes of a model's weights once it is loaded; reads headers alone.
    fn weight_bytes(&mut self, files: &dyn ModelFiles) -> Result<u64, EngineError>;

    /// Bytes that the process may take, where there is a limit.
    fn memory_limit(&self) -> Option<u64>;

    /// Whether the device works: called before the first command, and after a fault until it does.
    fn check(&mut self) -> Result<(), EngineError>;
}

/// The real thing: candle, by default on the best device that this build knows.
#[derive(Debug, Default)]
pub struct CandleSource {
    settings: ComputeSettings,
    /// The device once it was opened: tensors that come together must be of one and the same.
    compute: Option<Compute>,
    memory_limit: Option<u64>,
    /// Bytes of the machine's memory that there are for the process, where that is known.
    available: Option<u64>,
}

impl CandleSource {
    /// Engines on a device.
    pub fn new(settings: ComputeSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The same, whose process may take so many bytes; none where there is no limit.
    #[must_use]
    pub fn with_memory_limit(self, memory_limit: Option<u64>) -> Self {
        Self { memory_limit, ..self }
    }

    /// The same, which takes what memory there is for a limit where none was given and the CPU
    /// computes: a device refuses what it has no room for, a machine ends the process.
    #[must_use]
    pub fn with_available_memory(self, available: Option<u64>) -> Self {
        Self { available, ..self }
    }

    fn compute(&mut self) -> Result<&Compute, EngineError> {
        let opened = match self.compute.take() {
            Some(compute) => compute,
            None => self.settings.open()?,
        };
        Ok(self.compute.insert(opened))
    }
}

impl EngineSource for CandleSource {
    type Engine = CandleEngine;

    fn load(&mut self, files: &dyn ModelFiles) -> Result<CandleEngine, EngineError> {
        let engine = CandleEngine::load_on(files, None, self.compute()?)?;
        Ok(engine.with_memory_limit(self.memory_limit()))
    }

    fn weight_bytes(&mut self, files: &dyn ModelFiles) -> Result<u64, EngineError> {
        engine::weight_bytes(files)
    }

    fn memory_limit(&self) -> Option<u64> {
        let on_cpu = self.compute.as_ref().is_some_and(|compute| compute.device.is_cpu());
        self.memory_limit.or(self.available.filter(|_| on_cpu))
    }

    fn plan(
        &mut self,
        files: &dyn ModelFiles,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, EngineError> {
        let plan = engine::plan(files, spec, self.memory_limit())?;
        let mut assumptions = Vec::new();
        if plan.window_assumed {
            let width = "the window is yet to be measured; taken to be as wide as the schedule, \
                         which is the most that it can be";
            assumptions.push(width.to_owned());
        }
        assumptions.extend(saving(&plan.saving));
        if matches!(spec.method, Method::Keystep(_)) {
            assumptions.push("the run does not stop before its last update".to_owned());
        }
        Ok(PlanEstimate {
            updates: plan.updates,
            unet_evaluations: plan.unet_evaluations
                + plan.score_evaluations
                + plan.check_evaluations,
            memory_bytes: plan.memory_bytes.total,
            estimated_duration: None,
            trainable_parameters: plan.trainable_parameters,
            trainable_tensors: plan.trainable_tensors,
            assumptions,
        })
    }

    fn check(&mut self) -> Result<(), EngineError> {
        // After a fault the old one may be past use.
        self.compute = None;
        CandleEngine::check_device(self.compute()?)
    }
}

/// What the plan does to stay within the memory limit, in words.
fn saving(saving: &MemorySavings) -> Option<String> {
    let MemorySavings { recomputed_segments, segments, repeated_work, passes } = saving;
    if *recomputed_segments == 0 && passes.is_none() {
        return None;
    }
    let passes = passes.map_or_else(String::new, |passes| {
        format!(", and at most {passes} passes of a batch run side by side")
    });
    Some(format!(
        "to stay within the memory limit, {recomputed_segments} of the U-Net's {segments} segments \
         are computed twice ({:.0} % more work){passes}",
        100.0 * repeated_work,
    ))
}
