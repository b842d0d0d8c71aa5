//! Walks along the frozen model's trajectories, and keeps the latents and the predictions made on
//! the way, which are the targets of training. Several trajectories are walked side by side.

use candle_core::Tensor;

use crate::{
    engine::{
        EngineError, RunContext,
        denoise::{ScheduledDenoiser, guide},
        family::Conditioning,
    },
    outcome::Phase,
    spec::StepIndex,
};

/// One latent of one trajectory.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Entry {
    pub(in crate::engine) step: StepIndex,
    /// `[channels, h, w]`.
    pub(in crate::engine) z: Tensor,
    /// The prompt, without the axis of prompts.
    pub(in crate::engine) prompt: Conditioning,
    /// The frozen model's prediction under that prompt.
    pub(in crate::engine) prediction: Tensor,
    /// Its prediction under the prompt's counterpart: a concept's anchor, or the empty prompt.
    pub(in crate::engine) counterpart: Tensor,
}

/// Prompts to walk, a row a trajectory.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Walk<'a> {
    /// Steers the trajectories.
    pub(in crate::engine) lead: &'a Conditioning,
    /// What else is predicted at each step; the empty prompt's prediction comes with guidance.
    pub(in crate::engine) counterpart: Option<&'a Conditioning>,
    /// One row.
    pub(in crate::engine) empty: &'a Conditioning,
    pub(in crate::engine) guidance_scale: f64,
    /// First noise, `[trajectories, channels, h, w]`.
    pub(in crate::engine) latents: Tensor,
    /// Steps to walk, from the first.
    pub(in crate::engine) steps: usize,
}

/// What was predicted at one step, a row a trajectory.
#[derive(Debug)]
pub(in crate::engine) struct Footprint {
    pub(in crate::engine) step: StepIndex,
    pub(in crate::engine) z: Tensor,
    pub(in crate::engine) lead: Tensor,
    pub(in crate::engine) empty: Tensor,
    pub(in crate::engine) counterpart: Option<Tensor>,
}

/// A walk that was begun earlier: what it left, and the latents that its next step begins with.
#[derive(Debug, Default)]
pub(in crate::engine) struct Begun {
    pub(in crate::engine) footprints: Vec<Footprint>,
    pub(in crate::engine) next: Option<Tensor>,
}

/// Told before each step of a walk what it has left so far, and with which latents it goes on.
pub(in crate::engine) type Keep<'a> =
    &'a mut dyn FnMut((&[Footprint], &Tensor), &mut RunContext<'_>) -> Result<(), EngineError>;

/// Walks trajectories down the schedule and keeps every footprint.
pub(in crate::engine) fn walk(
    denoiser: &ScheduledDenoiser<'_>,
    walk: Walk<'_>,
    context: &mut RunContext<'_>,
) -> Result<Vec<Footprint>, EngineError> {
    walk_on(denoiser, walk, Begun::default(), &mut |_, _| Ok(()), context)
}

/// Goes on with a walk.
pub(in crate::engine) fn walk_on(
    denoiser: &ScheduledDenoiser<'_>,
    walk: Walk<'_>,
    begun: Begun,
    keep: Keep<'_>,
    context: &mut RunContext<'_>,
) -> Result<Vec<Footprint>, EngineError> {
    let trajectories = walk.latents.dim(0)?;
    let prompts: Vec<_> = [walk.lead, walk.empty].into_iter().chain(walk.counterpart).collect();
    let projected = denoiser.network.project(&Conditioning::cat(&prompts)?)?;
    let mut rows: Vec<usize> = (0..trajectories).collect();
    rows.extend(vec![trajectories; trajectories]);
    if walk.counterpart.is_some() {
        rows.extend(trajectories + 1..=2 * trajectories);
    }
    let projected = projected.select(&rows)?;
    let mut z = begun.next.unwrap_or(walk.latents);
    let mut footprints = begun.footprints;
    loop {
        let index = footprints.len();
        if index < walk.steps {
            keep((&footprints, &z), context)?;
        }
        if let Err(stopped) = context.advance(Phase::Walk, index, walk.steps) {
            // A pause that comes while progress is reported is saved as well.
            keep((&footprints, &z), context)?;
            return Err(stopped);
        }
        if index >= walk.steps {
            return Ok(footprints);
        }
        let step = StepIndex(index);
        let copies = Tensor::cat(&vec![&z; prompts.len()], 0)?;
        let predictions = denoiser.predict(&copies, step, &projected)?;
        let part = |index: usize| predictions.narrow(0, index * trajectories, trajectories);
        let (lead, empty) = (part(0)?, part(1)?);
        let next = denoiser.schedule.step(step, &guide(&lead, &empty, walk.guidance_scale)?, &z)?;
        footprints.push(Footprint {
            step,
            z: std::mem::replace(&mut z, next),
            lead,
            empty,
            counterpart: walk.counterpart.map(|_| part(2)).transpose()?,
        });
    }
}

/// Which predictions of a footprint a [`Trajectory`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Pairing {
    /// The leading prompt against the empty one.
    LeadAgainstEmpty,
    /// The leading prompt against its counterpart.
    LeadAgainstCounterpart,
    /// The counterpart against the leading prompt.
    CounterpartAgainstLead,
}

/// What training takes from a walk, before it is split into entries.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Trajectory {
    /// The prompts that the entries train, a row a trajectory.
    pub(in crate::engine) prompts: Conditioning,
    pub(in crate::engine) stretches: Vec<Stretch>,
}

/// A step of a track, a row a trajectory.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Stretch {
    pub(in crate::engine) step: StepIndex,
    pub(in crate::engine) z: Tensor,
    pub(in crate::engine) prediction: Tensor,
    pub(in crate::engine) counterpart: Tensor,
}

impl Trajectory {
    /// Keeps what a pairing asks for.
    pub(in crate::engine) fn new(
        footprints: Vec<Footprint>,
        prompts: Conditioning,
        pairing: Pairing,
    ) -> Self {
        let stretches = footprints.into_iter().map(|footprint| {
            let Footprint { step, z, lead, empty, counterpart } = footprint;
            let counterpart = counterpart.unwrap_or_else(|| empty.clone());
            let (prediction, counterpart) = match pairing {
                Pairing::LeadAgainstEmpty => (lead, empty),
                Pairing::LeadAgainstCounterpart => (lead, counterpart),
                Pairing::CounterpartAgainstLead => (counterpart, lead),
            };
            Stretch { step, z, prediction, counterpart }
        });
        Self { prompts, stretches: stretches.collect() }
    }

    /// Splits the track, step by step and row by row.
    pub(in crate::engine) fn entries(&self) -> Result<Vec<Entry>, EngineError> {
        let mut entries = Vec::new();
        for Stretch { step, z, prediction, counterpart } in &self.stretches {
            for row in 0..z.dim(0)? {
                entries.push(Entry {
                    step: *step,
                    z: z.get(row)?,
                    prompt: self.prompts.get(row)?,
                    prediction: prediction.get(row)?,
                    counterpart: counterpart.get(row)?,
                });
            }
        }
        Ok(entries)
    }
}

impl Entry {
    /// Mean square of what the prompt changes.
    pub(in crate::engine) fn direction_energy(&self) -> Result<f64, EngineError> {
        let direction = (&self.prediction - &self.counterpart)?;
        Ok(f64::from(direction.sqr()?.mean_all()?.to_scalar::<f32>()?))
    }
}
