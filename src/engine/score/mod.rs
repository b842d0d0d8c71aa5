//! Which steps decide a concept (`ScoreTimesteps`).

mod gradient_share;
mod switch_curve;
mod window;

use candle_core::Tensor;

use super::{
    EngineError, Pipeline, RunContext,
    denoise::{EvaluationCounter, ScheduledDenoiser, initial_latents},
    family::Conditioning,
    finite,
    schedule::{NoiseSource, Schedule},
    trajectory::{Contexts, Footprint, Walk, walk},
    wording::names_one_of,
};
use crate::{
    outcome::{Estimate, StepScore, TimestepScores},
    spec::{LogSnrWindow, ScoreSpec},
};

/// Trajectories whose gradients are compared.
pub(super) const GRADIENT_TRAJECTORIES: usize = gradient_share::TRAJECTORIES;
/// Paths of the switch curve that one prompt moves, beside its trunk's.
pub(super) const MOST_BRANCHES: usize = switch_curve::SEEDS * (switch_curve::POINTS + 1);

/// Scores every step of the schedule that has signal on trajectories of the frozen model under the concept's
/// prompts, each in another context.
pub(super) fn score_timesteps(
    pipeline: &Pipeline,
    spec: &ScoreSpec,
    context: &mut RunContext<'_>,
) -> Result<TimestepScores, EngineError> {
    spec.validate()?;
    pipeline.reader().check_score(spec)?;
    let schedule = pipeline.scheduler.schedule_with_signal(spec.steps)?;
    let evaluations = EvaluationCounter::default();
    let cancel = context.cancel.clone();
    let denoiser = ScheduledDenoiser {
        network: &*pipeline.denoiser,
        schedule: &schedule,
        evaluations: &evaluations,
        resting: Some(&cancel),
    };
    let mut noise = NoiseSource::new(spec.seed);
    let scored = names_one_of(&pipeline.tokenizer, std::slice::from_ref(&spec.concept));
    let mut contexts = Contexts::new(&spec.vocabulary, scored, &[]);
    // One trajectory in four speaks of the concept alone.
    let bare = spec.trajectories.div_ceil(4);
    let prompts = contexts.concept(&spec.concept, spec.trajectories, bare, &mut noise);
    let named: Vec<&str> = prompts.iter().map(|prompt| prompt.concept.as_str()).collect();
    let anchors: Vec<&str> = prompts.iter().map(|prompt| prompt.anchor.as_str()).collect();
    let neighbours = contexts.neighbours(spec.trajectories, &mut noise);

    let seeds: Vec<u64> =
        (0..spec.trajectories as u64).map(|index| spec.seed.wrapping_add(index)).collect();
    let latents = initial_latents(&seeds, pipeline.latent_shape(None)?, &pipeline.device)?;
    let empty = pipeline.unconditional("", None)?;
    let mut follow = |lead: &Conditioning, counterpart: Option<&Conditioning>| {
        let walked = Walk {
            lead,
            counterpart,
            empty: &empty,
            guidance_scale: spec.guidance_scale,
            latents: latents.clone(),
            steps: schedule.len(),
        };
        walk(&denoiser, walked, context)
    };
    let (named, anchors) = (pipeline.encode_prompts(&named)?, pipeline.encode_prompts(&anchors)?);
    let neighbours = pipeline.encode_prompts(&neighbours)?;
    let concept_path = follow(&named, Some(&anchors))?;
    let shares = if spec.gradient_share {
        let neighbour_path = follow(&neighbours, None)?;
        let paths = gradient_share::Paths {
            schedule: &schedule,
            concept: (&concept_path, &named),
            neighbour: (&neighbour_path, &neighbours),
        };
        Some(gradient_share::measure(pipeline, spec, &paths, &evaluations, context)?)
    } else {
        None
    };
    let curves = if spec.switch_curve {
        Some(switch_curve::sample(pipeline, spec, &denoiser, context)?)
    } else {
        None
    };

    let location = &pipeline.unet_tensors.location;
    if let Some(shares) = &shares {
        let values = shares.iter().flatten().copied();
        finite::check_all(location, "a share of gradients", values)?;
    }
    let mut steps = Vec::with_capacity(schedule.len());
    for footprint in concept_path.iter().filter(|footprint| schedule.has_signal(footprint.step)) {
        let step = footprint.step;
        let (energy, effect) = guidance(footprint, &schedule, spec.guidance_scale)?;
        let of_guidance = energy.iter().chain(&effect).copied();
        finite::check_all(location, "the guidance of a step", of_guidance)?;
        let curve = curves.as_ref().and_then(|curves| curves.get(&step));
        steps.push(StepScore {
            step,
            timestep: schedule.timestep(step),
            log_snr: schedule.log_snr(step),
            guidance_energy: estimate(&energy),
            guidance_effect: estimate(&effect),
            concept_until: curve.map(|(until, _)| estimate(until)),
            concept_from: curve.map(|(_, from)| estimate(from)),
            gradient_share: shares.as_ref().map(|shares| estimate(&shares[step.0])),
        });
    }
    let (first, last) = window::recommend(&steps);
    Ok(TimestepScores {
        spec: spec.clone(),
        model_digest: pipeline.unet_tensors.digest()?,
        window: LogSnrWindow { low: schedule.log_snr(first), high: schedule.log_snr(last) },
        window_steps: (first, last),
        rule: window::RULE.to_owned(),
        steps,
        unet_evaluations: evaluations.get(),
    })
}

/// Per trajectory: `‖D‖ / ‖eps(z, ∅)‖`, and how far guidance at this step moves the final picture.
fn guidance(
    footprint: &Footprint,
    schedule: &Schedule,
    scale: f64,
) -> Result<(Vec<f64>, Vec<f64>), EngineError> {
    let anchor = footprint.counterpart.as_ref().unwrap_or(&footprint.empty);
    let direction = root_mean_squares(&(&footprint.lead - anchor)?)?;
    let unconditional = root_mean_squares(&footprint.empty)?;
    let moved = schedule.effect_on_picture(footprint.step);
    let energy = direction.iter().zip(unconditional).map(|(d, u)| d / u).collect();
    let effect = direction.iter().map(|d| d * scale * moved).collect();
    Ok((energy, effect))
}

/// One for each row of the batch.
fn root_mean_squares(batch: &Tensor) -> Result<Vec<f64>, EngineError> {
    let means = batch.sqr()?.flatten_from(1)?.mean(1)?.to_vec1::<f32>()?;
    Ok(means.into_iter().map(|mean| f64::from(mean).sqrt()).collect())
}

fn estimate(values: &[f64]) -> Estimate {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let standard_error =
        if values.len() > 1 { (squares / (count - 1.0) / count).sqrt() } else { 0.0 };
    Estimate { mean, standard_error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        let found = estimate(&[1.0, 2.0, 3.0, 4.0]);
        assert!((found.mean - 2.5).abs() < 1e-12);
        assert!((found.standard_error - (5.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
