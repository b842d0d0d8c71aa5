//! Our own method: train where the concept is decided, hold everything else.
//!
//! A bank of the frozen model's trajectories is walked once, under prompts with the concept, the
//! same prompts without it, and prompts of its neighbours. Its latents are the inputs of training
//! and the predictions on the way its targets, so that an update costs the edited model's forward
//! and backward pass alone.

use candle_core::Tensor;

use super::{
    Run,
    bank::{Entry, Pairing, Walk, entries, walk},
    contexts::{ConceptPrompt, Contexts},
    objective::erase_target,
    probe::Probe,
    trainer::{Position, Rate, Sample, Trainer},
};
use crate::{
    engine::{
        EngineError, RunContext,
        denoise::Denoiser,
        ops::AdamSettings,
        schedule::{NoiseSource, Schedule},
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

/// Updates between two looks at the erase measure.
const LOOK_EVERY: usize = 20;
/// Updates over which the rate rises to its full height.
const WARM_UP: usize = 5;

/// Trains inside `window`.
pub(super) fn erase(
    run: &mut Run<'_>,
    settings: &KeystepSettings,
    window: LogSnrWindow,
    probe: &Probe,
    context: &mut RunContext<'_>,
) -> Result<Finished, EngineError> {
    let schedule = run.pipeline.scheduler.schedule(settings.schedule_steps)?;
    let key_steps = steps_inside(&schedule, window);
    let mut bank = Bank::walk(run, settings, &schedule, &key_steps, context)?;
    let adam = AdamSettings { square_decay: 0.99, ..AdamSettings::default() };
    let mut trainer = Trainer::new(run.pipeline, &run.spec.scope, adam)?;
    let mut stopped_early = false;
    for update in 0..settings.updates {
        let samples = bank.draw(settings, &schedule, &mut run.noise)?;
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
        let more = update + 1 < settings.updates;
        if more && (update + 1) % LOOK_EVERY == 0 && update + 1 > settings.updates / 2 {
            let found = probe.measure(&trainer.unet, Some(window))?;
            if found.erase_measure <= settings.stop_below {
                stopped_early = true;
                break;
            }
        }
    }
    Ok(Finished { trainer, stopped_early, key_steps })
}

/// Warm-up, then half a cosine down to nothing.
fn rate_at(update: usize, updates: usize) -> f64 {
    let warm = ((update + 1) as f64 / WARM_UP as f64).min(1.0);
    let progress = update as f64 / updates as f64;
    warm * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

/// The steps whose noise level lies in a window; the nearest one when none does.
pub(super) fn steps_inside(schedule: &Schedule, window: LogSnrWindow) -> Vec<StepIndex> {
    let steps = || (0..schedule.len()).map(StepIndex);
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
    erase: Pile,
    preserve_inside: Pile,
    preserve_outside: Pile,
    empty: Tensor,
    /// One over the mean square of the neighbours' guidance at each step, a unit that makes errors at
    /// all steps comparable; leaning towards the steps that move the picture most.
    step_weights: Vec<f64>,
}

#[derive(Debug)]
struct Drawn {
    sample: Sample,
    step: StepIndex,
}

impl Bank {
    fn walk(
        run: &mut Run<'_>,
        settings: &KeystepSettings,
        schedule: &Schedule,
        key_steps: &[StepIndex],
        context: &mut RunContext<'_>,
    ) -> Result<Self, EngineError> {
        let pipeline = run.pipeline;
        let spec = run.spec;
        let mut contexts = Contexts::new(&spec.vocabulary, &spec.concepts, &spec.preserve);
        let empty = pipeline.encode_prompts(&[""])?;
        let last = key_steps.last().map_or(0, |step| step.0 + 1);
        let bare = |count: usize| (settings.bare_share * count as f64).round() as usize;

        let mut erase = Vec::new();
        for concept in &spec.concepts {
            for (count, concept_leads) in
                [(settings.concept_trajectories, true), (settings.anchor_trajectories, false)]
            {
                if count == 0 {
                    continue;
                }
                let prompts = contexts.concept(concept, count, bare(count), &mut run.noise);
                let text = |part: fn(&ConceptPrompt) -> &str| {
                    pipeline.encode_prompts(&prompts.iter().map(part).collect::<Vec<_>>())
                };
                let (named, anchors) = (text(|p| &p.concept)?, text(|p| &p.anchor)?);
                let (lead, counterpart, pairing) = if concept_leads {
                    (&named, &anchors, Pairing::LeadAgainstCounterpart)
                } else {
                    (&anchors, &named, Pairing::CounterpartAgainstLead)
                };
                let walked = Walk {
                    lead,
                    counterpart: Some(counterpart),
                    empty: &empty,
                    guidance_scale: settings.guidance_scale,
                    latents: run.fresh_latents(count)?,
                    steps: last,
                };
                let frozen =
                    Denoiser { unet: &pipeline.unet, schedule, evaluations: run.evaluations };
                erase.extend(entries(&walk(&frozen, walked, context)?, &named, pairing)?);
            }
        }
        erase.retain(|entry| key_steps.contains(&entry.step));

        let prompts = contexts.neighbours(settings.preserve_trajectories, &mut run.noise);
        let text = pipeline.encode_prompts(&prompts)?;
        let walked = Walk {
            lead: &text,
            counterpart: None,
            empty: &empty,
            guidance_scale: settings.guidance_scale,
            latents: run.fresh_latents(settings.preserve_trajectories)?,
            steps: schedule.len(),
        };
        let frozen = Denoiser { unet: &pipeline.unet, schedule, evaluations: run.evaluations };
        let preserve = entries(&walk(&frozen, walked, context)?, &text, Pairing::LeadAgainstEmpty)?;
        let step_weights = step_weights(&preserve, schedule, settings.effect_exponent)?;
        let (inside, outside) =
            preserve.into_iter().partition(|entry| key_steps.contains(&entry.step));
        Ok(Self {
            erase: Pile::new(erase),
            preserve_inside: Pile::new(inside),
            preserve_outside: Pile::new(outside),
            empty: empty.squeeze(0)?,
            step_weights,
        })
    }

    /// One update's samples.
    fn draw(
        &mut self,
        settings: &KeystepSettings,
        schedule: &Schedule,
        noise: &mut NoiseSource,
    ) -> Result<Vec<Drawn>, EngineError> {
        let mut drawn = Vec::with_capacity(settings.erase_batch + settings.preserve_batch);
        let mut push =
            |entry: &Entry, text: &Tensor, target: Tensor, weight: f64, noise: &mut NoiseSource| {
                let text = if settings.embedding_noise > 0.0 {
                    let scale = super::trainer::root_mean_square(text)? * settings.embedding_noise;
                    (text + (noise.randn_tensor(text.dims(), text.device())? * scale)?)?
                } else {
                    text.clone()
                };
                let sample = Sample {
                    z: entry.z.clone(),
                    timestep: schedule.timestep(entry.step).0 as f64,
                    text,
                    target,
                    weight: weight * self.step_weights[entry.step.0],
                };
                drawn.push(Drawn { sample, step: entry.step });
                Ok::<_, EngineError>(())
            };
        for _ in 0..settings.erase_batch {
            if let Some(entry) = self.erase.draw(noise) {
                let target = erase_target(
                    &entry.prediction,
                    &entry.counterpart,
                    settings.negative_guidance,
                )?;
                push(&entry, &entry.text, target, 1.0 / settings.erase_batch as f64, noise)?;
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
                push(&entry, &entry.text, entry.prediction.clone(), weight, noise)?;
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
        .map(|(energy, step)| energy.sqrt() * schedule.noise_fall(step))
        .collect();
    let mean = effects.iter().sum::<f64>() / effects.len() as f64;
    let weight = |(energy, effect): (&f64, &f64)| (effect / mean).powf(exponent) / energy;
    // Without guidance (all neighbours empty) every step weighs the same.
    let weight = |pair| Some(weight(pair)).filter(|weight| weight.is_finite()).unwrap_or(1.0);
    Ok(energies.iter().zip(&effects).map(weight).collect())
}

#[derive(Debug)]
struct Pile {
    entries: Vec<Entry>,
    order: Vec<usize>,
}

impl Pile {
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

    #[test]
    fn the_rate_warms_up_and_falls_to_nothing() {
        assert!(rate_at(0, 100) < 0.21);
        assert!(rate_at(5, 100) > 0.98);
        assert!(rate_at(99, 100) < 0.001);
    }
}
