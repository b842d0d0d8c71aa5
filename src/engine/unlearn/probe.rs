//! Held-out latents that show, without a judge, whether an erasure worked and what it damaged.

use candle_core::Tensor;

use super::run::Run;
use crate::{
    engine::{
        EngineError, RunContext,
        denoise::{EvaluationCounter, ScheduledDenoiser, cells, samples_a_pass, side_by_side},
        family::{Conditioning, Denoiser},
        schedule::{NoiseSource, Schedule},
        trajectory::{Contexts, Entry, Pairing, Trajectory, Walk, walk},
        wording::left_out,
    },
    spec::LogSnrWindow,
};

/// Weights that change by less than this share of their own norm have not been trained.
pub(super) const LEAST_WEIGHT_CHANGE: f64 = 1e-7;
/// The concept's guidance must have fallen by at least this share.
pub(super) const LEAST_ERASURE: f64 = 0.02;
/// At a guidance scale of 5 a prompt moves the sampler by five times its guidance; unrelated
/// predictions that moved as far (squared: 25) draw as if their prompt had not been there. Erasures
/// that work stay below 1, the published methods at rates that harm the rest lie about 10.
pub(super) const MOST_DAMAGE: f64 = GUIDANCE_SCALE * GUIDANCE_SCALE;

/// Trajectories of concepts, and as many of neighbours.
pub(in crate::engine) const TRAJECTORIES: usize = 4;
/// Steps of each.
pub(in crate::engine) const STEPS: usize = 10;
const GUIDANCE_SCALE: f64 = 5.0;
/// Samples of the larger half of [`Probe::measure`], at least.
pub(in crate::engine) const SAMPLES: usize = TRAJECTORIES * STEPS;

/// Frozen predictions on latents that training never sees.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    schedule: Schedule,
    erase: Vec<Entry>,
    preserve: Vec<Entry>,
    /// Evaluations spent on checking rather than on the method.
    evaluations: &'a EvaluationCounter,
}

/// What a probe found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Findings {
    /// `⟨eps*(c) − eps(anchor), D⟩ / ‖D‖²` with `D = eps(c) − eps(anchor)`: 1 untouched, 0 neutral.
    pub(super) erase_measure: f64,
    /// `‖eps* − eps‖²` on neighbours over their guidance's `‖D‖²`.
    pub(super) damage_measure: f64,
}

impl<'a> Probe<'a> {
    /// Walks the frozen model; draws come from a generator of their own, so that probing leaves
    /// the run's draws alone.
    pub(super) fn new(run: &Run<'a>, context: &mut RunContext<'_>) -> Result<Self, EngineError> {
        let pipeline = run.pipeline;
        let schedule = pipeline.scheduler.schedule_with_signal(STEPS)?;
        let evaluations = run.checks;
        let mut noise = NoiseSource::new(run.spec.seed ^ 0x5eed_0b5e);
        let left_out = left_out(&pipeline.tokenizer, run.spec);
        let mut contexts = Contexts::new(&run.spec.vocabulary, left_out, &run.spec.preserve);
        let prompts: Vec<_> = (0..TRAJECTORIES.max(run.spec.concepts.len()))
            .flat_map(|index| {
                let concept = &run.spec.concepts[index % run.spec.concepts.len()];
                contexts.concept(concept, 1, 0, &mut noise)
            })
            .collect();
        let named: Vec<&str> = prompts.iter().map(|prompt| prompt.concept.as_str()).collect();
        let anchors: Vec<&str> = prompts.iter().map(|prompt| prompt.anchor.as_str()).collect();
        let neighbours = contexts.neighbours(TRAJECTORIES, &mut noise);
        let empty = pipeline.unconditional("", None)?;
        let shape = pipeline.latent_shape(None)?;
        let (erase, preserve) = {
            let denoiser = ScheduledDenoiser {
                network: &*pipeline.denoiser,
                schedule: &schedule,
                evaluations,
                resting: None,
            };
            let mut probe = |lead: &Conditioning, counterpart: Option<&Conditioning>, pairing| {
                let [channels, height, width] = shape;
                let latents = noise
                    .randn_tensor(&[lead.rows()?, channels, height, width], &pipeline.device)?;
                let footprints = walk(
                    &denoiser,
                    Walk {
                        lead,
                        counterpart,
                        empty: &empty,
                        guidance_scale: GUIDANCE_SCALE,
                        latents,
                        steps: STEPS,
                    },
                    context,
                )?;
                let mut entries = Trajectory::new(footprints, lead.clone(), pairing).entries()?;
                entries.retain(|entry| schedule.has_signal(entry.step));
                Ok::<_, EngineError>(entries)
            };
            let (named, anchors) =
                (pipeline.encode_prompts(&named)?, pipeline.encode_prompts(&anchors)?);
            let neighbours = pipeline.encode_prompts(&neighbours)?;
            (
                probe(&named, Some(&anchors), Pairing::LeadAgainstCounterpart)?,
                probe(&neighbours, None, Pairing::LeadAgainstEmpty)?,
            )
        };
        Ok(Self { schedule, erase, preserve, evaluations })
    }

    /// Compares an edited denoiser with the frozen one; the erase measure looks inside `window` only.
    pub(super) fn measure(
        &self,
        edited: &dyn Denoiser,
        window: Option<LogSnrWindow>,
    ) -> Result<Findings, EngineError> {
        let inside: Vec<&Entry> = self
            .erase
            .iter()
            .filter(|entry| {
                window.is_none_or(|window| window.contains(self.schedule.log_snr(entry.step)))
            })
            .collect();
        // A narrow window may lie between two steps of the probe's coarser schedule.
        let erase = if inside.is_empty() { self.erase.iter().collect() } else { inside };
        let mut projected = 0.0;
        let mut energy = 0.0;
        for (entry, edited) in erase.iter().zip(self.predict(edited, &erase)?) {
            let direction = (&entry.prediction - &entry.counterpart)?;
            projected += dot(&(edited - &entry.counterpart)?, &direction)?;
            energy += dot(&direction, &direction)?;
        }
        let preserve: Vec<&Entry> = self.preserve.iter().collect();
        let mut moved = 0.0;
        let mut guidance = 0.0;
        for (entry, edited) in preserve.iter().zip(self.predict(edited, &preserve)?) {
            let change = (edited - &entry.prediction)?;
            let direction = (&entry.prediction - &entry.counterpart)?;
            moved += dot(&change, &change)?;
            guidance += dot(&direction, &direction)?;
        }
        Ok(Findings {
            erase_measure: projected / energy.max(f64::MIN_POSITIVE),
            damage_measure: moved / guidance.max(f64::MIN_POSITIVE),
        })
    }

    /// Each pass projects its prompts itself: what they are projected to would take memory beside the
    /// trainer.
    fn predict(
        &self,
        denoiser: &dyn Denoiser,
        entries: &[&Entry],
    ) -> Result<Vec<Tensor>, EngineError> {
        self.evaluations.add(entries.len());
        let cells = entries.first().map_or(Ok(0), |entry| cells(&entry.z))?;
        let passes: Vec<_> = entries.chunks(samples_a_pass(entries.len(), cells)).collect();
        let passes = side_by_side(denoiser, &passes, |entries| {
            let stack = |part: fn(&Entry) -> &Tensor| {
                Tensor::stack(&entries.iter().map(|entry| part(entry)).collect::<Vec<_>>(), 0)
            };
            let timesteps = entries.iter().map(|entry| self.schedule.timestep(entry.step).0 as f64);
            let timesteps: Vec<f64> = timesteps.collect();
            let prompts: Vec<_> = entries.iter().map(|entry| &entry.prompt).collect();
            let prompts = Conditioning::stack(&prompts)?;
            let predictions = denoiser.forward(&stack(|e| &e.z)?, &timesteps, &prompts)?;
            (0..entries.len()).map(|row| Ok(predictions.get(row)?)).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(passes.concat())
    }
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f64, EngineError> {
    Ok(f64::from((a * b)?.sum_all()?.to_scalar::<f32>()?))
}
