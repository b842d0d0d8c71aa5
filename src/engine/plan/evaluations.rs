//! How many U-Net evaluations a run takes, and how many of them it keeps.

use super::{KeySteps, Method, Sizes, UnlearnSpec, concept_walks, window_scores};
use crate::{
    engine::{
        EngineError,
        schedule::NoiseSource,
        unlearn::{
            KeyStep, PROBE_STEPS, PROBE_TRAJECTORIES, key_step_table, looks_after, steps_inside,
        },
    },
    spec::{LogSnrWindow, StepIndex},
};

/// The parts of a run's cost.
pub(super) struct Costs {
    /// Evaluations of the method.
    pub(super) method: u64,
    /// Of scoring.
    pub(super) scores: u64,
    /// Of the probe.
    pub(super) checks: u64,
    /// Numbers of all walked trajectories that are kept.
    pub(super) bank: u64,
    pub(super) window_assumed: bool,
}

/// Prompts a step where a concept leads: itself, the empty prompt, its anchor.
const CONCEPT_PROMPTS: u64 = 3;
/// Prompts a step where a neighbour leads.
const NEIGHBOUR_PROMPTS: u64 = 2;

pub(super) fn count(sizes: &Sizes, spec: &UnlearnSpec) -> Result<Costs, EngineError> {
    let mut costs = Costs { method: 0, scores: 0, checks: 0, bank: 0, window_assumed: false };
    let mut window = None;
    let mut looks = 1;
    match &spec.method {
        Method::Esd(settings) => {
            let schedule = sizes.scheduler.schedule(settings.schedule_steps)?;
            let a_step = if settings.guidance_scale <= 1.0 { 1 } else { 2 };
            // The run's own draws, in its own order.
            let mut noise = NoiseSource::new(spec.seed);
            for _ in 0..settings.updates {
                let concept = noise.index(spec.concepts.len());
                let step = noise.index(schedule.len()) as u64;
                noise.randn(sizes.latent() as usize);
                let replacing = u64::from(spec.concepts[concept].replacement.is_some());
                costs.method += a_step * step + 2 + replacing + 1;
            }
        }
        Method::Kscu(settings) => {
            let a_step = if settings.guidance_scale <= 1.0 { 1 } else { 2 };
            let mut last = None;
            for entry in key_step_table(settings, spec.concepts.len()) {
                let moves_on = last.is_some_and(|last: KeyStep| last.leads_to(entry));
                let walked = if moves_on { 1 } else { entry.step.0 as u64 };
                costs.method += a_step * walked + 2 + 2;
                last = Some(entry);
            }
        }
        Method::Keystep(settings) => {
            let schedule = sizes.scheduler.schedule(settings.schedule_steps)?;
            let everywhere = LogSnrWindow { low: f64::NEG_INFINITY, high: f64::INFINITY };
            let inside = match settings.key_steps {
                KeySteps::Window(given) => given,
                KeySteps::Measured => {
                    costs.window_assumed = true;
                    for concept in &spec.concepts {
                        let scores = window_scores(spec, concept);
                        costs.scores +=
                            CONCEPT_PROMPTS * (scores.trajectories * scores.steps) as u64;
                    }
                    everywhere
                }
            };
            window = Some(inside);
            let key_steps = steps_inside(&schedule, inside);
            let last = key_steps.last().map_or(0, |StepIndex(step)| step + 1);
            for (count, _) in spec.concepts.iter().flat_map(|_| concept_walks(settings)) {
                costs.method += CONCEPT_PROMPTS * (count * last) as u64;
                costs.bank += kept(sizes, count, key_steps.len(), CONCEPT_PROMPTS);
            }
            let neighbours = settings.preserve_trajectories;
            costs.method += NEIGHBOUR_PROMPTS * (neighbours * schedule.len()) as u64;
            costs.bank += kept(sizes, neighbours, schedule.len(), NEIGHBOUR_PROMPTS);
            let batch = (settings.erase_batch + settings.preserve_batch) as u64;
            costs.method += batch * settings.updates as u64;
            let updates = 1..=settings.updates;
            looks += updates.filter(|done| looks_after(*done, settings.updates)).count() as u64;
        }
    }

    let probe = sizes.scheduler.schedule(PROBE_STEPS)?;
    let concepts = PROBE_TRAJECTORIES.max(spec.concepts.len());
    let neighbours = PROBE_TRAJECTORIES;
    let steps = probe.len() as u64;
    let walked = CONCEPT_PROMPTS * concepts as u64 + NEIGHBOUR_PROMPTS * neighbours as u64;
    let inside = window.map_or(0, |window: LogSnrWindow| {
        probe.steps().filter(|step| window.contains(probe.log_snr(*step))).count() as u64
    });
    let seen = if inside == 0 { steps } else { inside };
    let look = seen * concepts as u64 + steps * neighbours as u64;
    costs.checks = steps * walked + looks * look;
    costs.bank += kept(sizes, concepts, PROBE_STEPS, CONCEPT_PROMPTS)
        + kept(sizes, neighbours, PROBE_STEPS, NEIGHBOUR_PROMPTS);
    Ok(costs)
}

/// Numbers that are kept of a walk: at each step the latents and every prediction, which lie in one
/// piece; and the prompts.
fn kept(sizes: &Sizes, trajectories: usize, steps: usize, prompts: u64) -> u64 {
    let count = trajectories as u64;
    count * steps as u64 * (1 + prompts) * sizes.latent() + count * sizes.text()
}
