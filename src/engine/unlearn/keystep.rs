//! Our own method: train where the concept is decided, hold everything else.
//!
//! A bank of the frozen model's trajectories is walked once, under prompts with the concept, the
//! same prompts without it, and prompts of its neighbours. Its latents are the inputs of training
//! and the predictions on the way its targets, so that an update costs the edited model's forward
//! and backward pass alone.

use super::{
    objective::erase_target,
    probe::Probe,
    run::Run,
    trainer::{Position, Rate, Trainer},
    training::{Recipe, RecipeState, Trained, train},
    trajectory_bank::{TrajectoryBank, Walking},
};
use crate::{
    engine::{
        EngineError, RunContext,
        family::Conditioning,
        loss::Sample,
        ops::AdamSettings,
        schedule::{NoiseSource, Schedule},
        trajectory::Entry,
    },
    spec::{KeystepSettings, LogSnrWindow, StepIndex},
};

/// A finished run of this method.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) trainer: Trainer,
    pub(super) stopped_early: bool,
    pub(super) key_steps: Vec<StepIndex>,
}

/// Updates over which the rate rises to its full height.
const WARM_UP: usize = 5;

/// Trains inside `window`.
pub(super) fn erase(
    run: &mut Run<'_>,
    settings: &KeystepSettings,
    window: LogSnrWindow,
    probe: &Probe<'_>,
    context: &mut RunContext<'_>,
) -> Result<Finished, EngineError> {
    let schedule = run.pipeline.scheduler.schedule_with_signal(settings.schedule_steps)?;
    let key_steps = steps_inside(&schedule, window);
    let empty = run.pipeline.unconditional("", None)?;
    let walking = Walking { settings, schedule: &schedule, key_steps: &key_steps, empty: &empty };
    let trajectories = TrajectoryBank::get(run, walking, context)?;
    let bank = Bank::new(&trajectories, walking)?;
    drop(trajectories);
    let mut recipe = Keystep { settings, schedule, window, probe, bank };
    let adam = AdamSettings { square_decay: 0.99, ..AdamSettings::default() };
    let Trained { trainer, stopped_early } =
        train(run, &mut recipe, adam, settings.updates, context)?;
    Ok(Finished { trainer, stopped_early, key_steps })
}

/// Whether the erase measure is looked at after so many updates: every now and then, in the second
/// half of a run.
pub(in crate::engine) fn looks_after(done: usize, updates: usize) -> bool {
    const EVERY: usize = 20;
    done < updates && done.is_multiple_of(EVERY) && done > updates / 2
}

struct Keystep<'a> {
    settings: &'a KeystepSettings,
    schedule: Schedule,
    window: LogSnrWindow,
    probe: &'a Probe<'a>,
    bank: Bank,
}

impl Recipe for Keystep<'_> {
    fn update(
        &mut self,
        update: usize,
        run: &mut Run<'_>,
        trainer: &mut Trainer,
        context: &mut RunContext<'_>,
    ) -> Result<bool, EngineError> {
        let Self { settings, schedule, window, probe, bank } = self;
        let samples = bank.draw(settings, schedule, &mut run.noise)?;
        let noisiest = samples.iter().map(|sample| sample.step).min().unwrap_or(StepIndex(0));
        let position = Position {
            update,
            updates: settings.updates,
            step: noisiest,
            timestep: schedule.timestep(noisiest),
        };
        let samples: Vec<Sample> = samples.into_iter().map(|drawn| drawn.sample).collect();
        let rate = Rate::Relative(settings.relative_rate * rate_at(update, settings.updates));
        trainer.update(&samples, rate, position, run.evaluations, context)?;
        if !looks_after(update + 1, settings.updates) {
            return Ok(false);
        }
        let found = probe.measure(&*trainer.denoiser, Some(*window))?;
        Ok(found.erase_measure <= settings.stop_below)
    }

    fn state(&self) -> RecipeState {
        let queues = self.bank.queues();
        RecipeState { queues: queues.map(|queue| queue.order.clone()).to_vec(), latent: None }
    }

    fn resume(&mut self, state: RecipeState) -> Result<(), String> {
        let Ok(orders) = <[Vec<usize>; 3]>::try_from(state.queues) else {
            return Err("it does not hold three queues".to_owned());
        };
        let fits = |(queue, order): (&ShuffledQueue, &Vec<usize>)| {
            order.iter().all(|index| *index < queue.entries.len())
        };
        if state.latent.is_some() || !self.bank.queues().into_iter().zip(&orders).all(fits) {
            return Err("its queues are not those of this bank".to_owned());
        }
        let [erase, inside, outside] = orders;
        self.bank.erase.order = erase;
        self.bank.preserve_inside.order = inside;
        self.bank.preserve_outside.order = outside;
        Ok(())
    }
}

/// Warm-up, then half a cosine down to nothing.
fn rate_at(update: usize, updates: usize) -> f64 {
    let warm = ((update + 1) as f64 / WARM_UP as f64).min(1.0);
    let progress = update as f64 / updates as f64;
    warm * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

/// The steps with signal whose noise level lies in a window; the nearest one when none does.
pub(in crate::engine) fn steps_inside(schedule: &Schedule, window: LogSnrWindow) -> Vec<StepIndex> {
    let steps = || schedule.steps_with_signal();
    let inside: Vec<_> = steps().filter(|step| window.contains(schedule.log_snr(*step))).collect();
    if !inside.is_empty() {
        return inside;
    }
    let middle = f64::midpoint(window.low, window.high);
    let distance = |step: &StepIndex| (schedule.log_snr(*step) - middle).abs();
    steps().min_by(|a, b| distance(a).total_cmp(&distance(b))).into_iter().collect()
}

/// Entries by their use, each drawn without replacement.
#[derive(Debug)]
struct Bank {
    erase: ShuffledQueue,
    preserve_inside: ShuffledQueue,
    preserve_outside: ShuffledQueue,
    empty: Conditioning,
    /// One over the mean square of the neighbours' guidance at each step, a unit that makes errors at
    /// all steps comparable; leaning towards the steps that move the picture most.
    step_weights: Vec<f64>,
}

#[derive(Debug)]
struct BatchSample {
    sample: Sample,
    step: StepIndex,
}

impl Bank {
    fn new(trajectories: &TrajectoryBank, walking: Walking<'_>) -> Result<Self, EngineError> {
        let Walking { settings, schedule, key_steps, empty } = walking;
        let mut erase = Vec::new();
        for trajectory in &trajectories.erase {
            erase.extend(trajectory.entries()?);
        }
        let mut preserve = trajectories.preserve.entries()?;
        preserve.retain(|entry| schedule.has_signal(entry.step));
        let step_weights = step_weights(&preserve, schedule, settings.effect_exponent)?;
        let (inside, outside) =
            preserve.into_iter().partition(|entry| key_steps.contains(&entry.step));
        Ok(Self {
            erase: ShuffledQueue::new(erase),
            preserve_inside: ShuffledQueue::new(inside),
            preserve_outside: ShuffledQueue::new(outside),
            empty: empty.get(0)?,
            step_weights,
        })
    }

    fn queues(&self) -> [&ShuffledQueue; 3] {
        [&self.erase, &self.preserve_inside, &self.preserve_outside]
    }

    /// One update's samples.
    fn draw(
        &mut self,
        settings: &KeystepSettings,
        schedule: &Schedule,
        noise: &mut NoiseSource,
    ) -> Result<Vec<BatchSample>, EngineError> {
        let mut drawn = Vec::with_capacity(settings.erase_batch + settings.preserve_batch);
        let mut push =
            |entry: &Entry, prompt: &Conditioning, target, weight: f64, noise: &mut NoiseSource| {
                let mut prompt = prompt.clone();
                if settings.embedding_noise > 0.0 {
                    let states = &prompt.states;
                    let scale =
                        super::trainer::root_mean_square(states)? * settings.embedding_noise;
                    let drawn = noise.randn_tensor(states.dims(), states.device())?;
                    prompt.states = (states + (drawn * scale)?)?;
                }
                let sample = Sample {
                    z: entry.z.clone(),
                    timestep: schedule.timestep(entry.step).0 as f64,
                    prompt,
                    target,
                    weight: weight * self.step_weights[entry.step.0],
                };
                drawn.push(BatchSample { sample, step: entry.step });
                Ok::<_, EngineError>(())
            };
        for _ in 0..settings.erase_batch {
            if let Some(entry) = self.erase.draw(noise) {
                let target = erase_target(
                    &entry.prediction, &entry.counterpart, settings.negative_guidance,
                )?;
                push(&entry, &entry.prompt, target, 1.0 / settings.erase_batch as f64, noise)?;
            }
        }
        let weight = settings.preserve_weight / settings.preserve_batch as f64;
        for _ in 0..settings.preserve_batch {
            let inside = noise.uniform() < settings.preserve_inside;
            let (first, second) = if inside {
                (&mut self.preserve_inside, &mut self.preserve_outside)
            } else {
                (&mut self.preserve_outside, &mut self.preserve_inside)
            };
            let Some(entry) = first.draw(noise).or_else(|| second.draw(noise)) else { continue };
            if noise.uniform() < settings.empty_share {
                push(&entry, &self.empty, entry.counterpart.clone(), weight, noise)?;
            } else {
                push(&entry, &entry.prompt, entry.prediction.clone(), weight, noise)?;
            }
        }
        Ok(drawn)
    }
}

fn step_weights(
    preserve: &[Entry],
    schedule: &Schedule,
    exponent: f64,
) -> Result<Vec<f64>, EngineError> {
    let mut energies = vec![(0.0, 0_usize); schedule.len()];
    for entry in preserve {
        let (sum, count) = &mut energies[entry.step.0];
        *sum += entry.direction_energy()?;
        *count += 1;
    }
    let energies: Vec<f64> =
        energies.into_iter().map(|(sum, count)| sum / count.max(1) as f64).collect();
    let effects: Vec<f64> = energies
        .iter()
        .zip(schedule.steps())
        .map(|(energy, step)| energy.sqrt() * schedule.effect_on_picture(step))
        .collect();
    // What has no signal has no entries, and so no effect.
    let mean = effects.iter().sum::<f64>() / schedule.steps_with_signal().len() as f64;
    let weight = |(energy, effect): (&f64, &f64)| (effect / mean).powf(exponent) / energy;
    // Without guidance (all neighbours empty) every step weighs the same.
    let weight = |pair| Some(weight(pair)).filter(|weight| weight.is_finite()).unwrap_or(1.0);
    Ok(energies.iter().zip(&effects).map(weight).collect())
}

#[derive(Debug)]
struct ShuffledQueue {
    entries: Vec<Entry>,
    order: Vec<usize>,
}

impl ShuffledQueue {
    fn new(entries: Vec<Entry>) -> Self {
        Self { entries, order: Vec::new() }
    }

    fn draw(&mut self, noise: &mut NoiseSource) -> Option<Entry> {
        if self.order.is_empty() {
            self.order = (0..self.entries.len()).collect();
            noise.shuffle(&mut self.order);
        }
        self.order.pop().map(|index| self.entries[index].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schedule::Ddim;

    #[test]
    fn no_window_holds_a_step_without_signal() {
        let json = r#"{"rescale_betas_zero_snr": true, "prediction_type": "v_prediction",
            "timestep_spacing": "trailing"}"#;
        let trained = Ddim::for_pipeline(json, "file").unwrap();
        let schedule = trained.schedule_with_signal(3).unwrap();
        let everywhere = LogSnrWindow { low: f64::NEG_INFINITY, high: f64::INFINITY };
        assert_eq!(steps_inside(&schedule, everywhere), [StepIndex(1), StepIndex(2)]);
        let below = LogSnrWindow { low: -1e9, high: -1e8 };
        assert_eq!(steps_inside(&schedule, below), [StepIndex(1)]);
        let refused = trained.schedule_with_signal(1).unwrap_err().to_string();
        for part in ["steps: 1", "rescale_betas_zero_snr", "2 steps or more"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn the_rate_warms_up_and_falls_to_nothing() {
        assert!(rate_at(0, 100) < 0.21);
        assert!(rate_at(5, 100) > 0.98);
        assert!(rate_at(99, 100) < 0.001);
    }
}
