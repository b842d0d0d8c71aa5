//! How many U-Net evaluations a run takes, and how many of them it keeps.

use super::{memory::Walked, sizes::Sizes};
use crate::{
    engine::{
        EngineError,
        schedule::NoiseSource,
        unlearn::{
            KeyStep, PROBE_STEPS, PROBE_TRAJECTORIES, concept_walks, drawn_step, key_step_table,
            looks_after, steps_inside, window_scores,
        },
    },
    spec::{KeySteps, LogSnrWindow, Method, StepIndex, UnlearnSpec},
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
    /// Walks by the frozen model.
    pub(super) walks: Vec<Walked>,
    /// Prompts that the frozen model keeps projected beside the trainer.
    pub(super) projected: usize,
    pub(super) window_assumed: bool,
}

impl Walked {
    /// Where a concept leads: itself, the empty prompt, its anchor.
    fn by_concept(trajectories: usize) -> Self {
        Self { trajectories, prompts: 3 }
    }

    /// Where a neighbour leads.
    fn by_neighbour(trajectories: usize) -> Self {
        Self { trajectories, prompts: 2 }
    }

    fn evaluations(self, steps: usize) -> u64 {
        (self.prompts * self.trajectories * steps) as u64
    }

    /// Numbers that are kept of it: at each step the latents and every prediction, which lie in one
    /// piece; and the prompts.
    pub(super) fn kept(self, sizes: &Sizes, steps: usize) -> u64 {
        let (count, prompts) = (self.trajectories as u64, self.prompts as u64);
        count * steps as u64 * (1 + prompts) * sizes.latent() + count * sizes.text()
    }
}

pub(super) fn count(sizes: &Sizes, spec: &UnlearnSpec) -> Result<Costs, EngineError> {
    let mut costs = Costs {
        method: 0,
        scores: 0,
        checks: 0,
        bank: 0,
        walks: Vec::new(),
        projected: 0,
        window_assumed: false,
    };
    let mut window = None;
    let mut looks = 1;
    match &spec.method {
        Method::Esd(settings) => {
            let schedule = sizes.scheduler.schedule_with_signal(settings.schedule_steps)?;
            let a_step = if settings.guidance_scale <= 1.0 { 1 } else { 2 };
            // The run's own draws, in its own order.
            let mut noise = NoiseSource::new(spec.seed);
            for _ in 0..settings.updates {
                let concept = noise.index(spec.concepts.len());
                let step = drawn_step(&schedule, &mut noise).0 as u64;
                noise.randn(sizes.latent() as usize);
                let replacing = u64::from(spec.concepts[concept].replacement.is_some());
                costs.method += a_step * step + 2 + replacing + 1;
            }
            let replaced = spec.concepts.iter().filter(|concept| concept.replacement.is_some());
            costs.projected = 1 + spec.concepts.len() + replaced.count();
        }
        Method::Kscu(settings) => {
            let a_step = if settings.guidance_scale <= 1.0 { 1 } else { 2 };
            let mut last = None;
            let schedule = sizes.scheduler.schedule_with_signal(settings.schedule_steps)?;
            let without_signal = schedule.steps_without_signal();
            for entry in key_step_table(settings, without_signal, spec.concepts.len()) {
                let moves_on = last.is_some_and(|last: KeyStep| last.leads_to(entry));
                let walked = if moves_on { 1 } else { entry.step.0 as u64 };
                costs.method += a_step * walked + 2 + 2;
                last = Some(entry);
            }
            costs.projected = 1 + spec.concepts.len();
        }
        Method::Keystep(settings) => {
            let schedule = sizes.scheduler.schedule_with_signal(settings.schedule_steps)?;
            let everywhere = LogSnrWindow { low: f64::NEG_INFINITY, high: f64::INFINITY };
            let inside = match settings.key_steps {
                KeySteps::Window(given) => given,
                KeySteps::Measured => {
                    costs.window_assumed = true;
                    for concept in &spec.concepts {
                        let scores = window_scores(spec, concept);
                        let walk = Walked::by_concept(scores.trajectories);
                        costs.scores += walk.evaluations(scores.steps);
                        costs.walks.push(walk);
                    }
                    everywhere
                }
            };
            window = Some(inside);
            let key_steps = steps_inside(&schedule, inside);
            let last = key_steps.last().map_or(0, |StepIndex(step)| step + 1);
            for (count, _) in spec.concepts.iter().flat_map(|_| concept_walks(settings)) {
                let walk = Walked::by_concept(count);
                costs.method += walk.evaluations(last);
                costs.bank += walk.kept(sizes, key_steps.len());
                costs.walks.push(walk);
            }
            let walk = Walked::by_neighbour(settings.preserve_trajectories);
            costs.method += walk.evaluations(schedule.len());
            costs.bank += walk.kept(sizes, schedule.len());
            costs.walks.push(walk);
            let batch = (settings.erase_batch + settings.preserve_batch) as u64;
            costs.method += batch * settings.updates as u64;
            let updates = 1..=settings.updates;
            looks += updates.filter(|done| looks_after(*done, settings.updates)).count() as u64;
        }
    }

    let probe = sizes.scheduler.schedule_with_signal(PROBE_STEPS)?;
    let concepts = Walked::by_concept(PROBE_TRAJECTORIES.max(spec.concepts.len()));
    let neighbours = Walked::by_neighbour(PROBE_TRAJECTORIES);
    for walk in [concepts, neighbours] {
        costs.checks += walk.evaluations(probe.len());
        costs.bank += walk.kept(sizes, PROBE_STEPS);
        costs.walks.push(walk);
    }
    let compared = probe.steps_with_signal().len();
    let inside = window.map_or(0, |window: LogSnrWindow| {
        probe.steps_with_signal().filter(|step| window.contains(probe.log_snr(*step))).count()
    });
    let seen = if inside == 0 { compared } else { inside };
    let look = seen * concepts.trajectories + compared * neighbours.trajectories;
    costs.checks += looks * look as u64;
    Ok(costs)
}
