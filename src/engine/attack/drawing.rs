//! Draws as the grid does, from text states rather than prompts, and with what probes of the latent
//! put in between.

use std::ops::Range;

use candle_core::Tensor;

use crate::{
    engine::{
        EngineError, Pipeline, RunContext,
        denoise::{EvaluationCounter, Guidance, ScheduledDenoiser, draw_each},
        family::Conditioning,
        finite,
        generate::group_size,
        sampler::{self, Sampler},
        schedule::{NoiseSource, Schedule},
    },
    outcome::Phase,
    spec::JudgeSpec,
};

/// Pictures to draw, one a seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drawing<'a> {
    pub(super) pipeline: &'a Pipeline,
    /// A row a picture.
    pub(super) text: &'a Conditioning,
    pub(super) seeds: &'a [u64],
    pub(super) way: Way<'a>,
}

/// How pictures come about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way<'a> {
    /// From noise, with the judgement's sampler.
    Plain,
    /// Another model takes the first steps, under its own text.
    Begun { by: &'a Pipeline, text: &'a Conditioning, steps: usize },
    /// From clean latents `[pictures, channels, h, w]`, noised for this step.
    From { clean: &'a Tensor, first_step: usize },
    /// Clean latents are put back around the middle quarter after each step.
    Around { clean: &'a Tensor },
    /// By DDIM with more noise than there should be.
    Noisy { eta: f64, scale: f64 },
}

/// Evaluations of a picture that is drawn as the judgement draws.
pub(super) fn picture_cost(pipeline: &Pipeline, spec: &JudgeSpec) -> Result<u64, EngineError> {
    let steps = open(pipeline, spec, Way::Plain)?.timesteps().len();
    Ok(steps as u64 * if spec.guidance_scale > 1.0 { 2 } else { 1 })
}

fn open(
    pipeline: &Pipeline,
    spec: &JudgeSpec,
    way: Way<'_>,
) -> Result<Box<dyn Sampler>, EngineError> {
    if let Way::Noisy { eta, scale } = way {
        return Ok(sampler::noisy_ddim(pipeline.scheduler.schedule(spec.steps)?, eta, scale));
    }
    let kind = pipeline.sampling.kind(spec.sampler);
    sampler::open(kind, &pipeline.sampling, &pipeline.scheduler, spec.steps)
}

/// The clean latents of pictures, a row a seed.
pub(super) fn draw(
    drawing: &Drawing<'_>,
    spec: &JudgeSpec,
    evaluations: &EvaluationCounter,
    context: &mut RunContext<'_>,
) -> Result<Tensor, EngineError> {
    let shape = drawing.pipeline.latent_shape(None)?;
    let at_once = group_size([shape[1], shape[2]]);
    // The network's passes alone: the sampler steps.
    let schedule = drawing.pipeline.scheduler.schedule(1)?;
    let mut drawn = Vec::new();
    for start in (0..drawing.seeds.len()).step_by(at_once) {
        let rows = start..drawing.seeds.len().min(start + at_once);
        let group = Group { drawing, spec, rows, shape, schedule: &schedule, evaluations };
        drawn.push(group.draw(context)?);
    }
    Ok(Tensor::cat(&drawn, 0)?)
}

/// Pictures that are denoised side by side.
struct Group<'a> {
    drawing: &'a Drawing<'a>,
    spec: &'a JudgeSpec,
    rows: Range<usize>,
    shape: [usize; 3],
    schedule: &'a Schedule,
    evaluations: &'a EvaluationCounter,
}

impl Group<'_> {
    fn draw(&self, context: &mut RunContext<'_>) -> Result<Tensor, EngineError> {
        let Drawing { pipeline, text, seeds, way } = *self.drawing;
        let mut sampler = open(pipeline, self.spec, way)?;
        let mut sources: Vec<_> = seeds
            .get(self.rows.clone())
            .unwrap_or_default()
            .iter()
            .map(|&seed| NoiseSource::new(seed))
            .collect();
        let device = &pipeline.device;
        let noise = draw_each(&mut sources, self.shape, device)?;
        let (first_step, mut z) = match way {
            Way::From { clean, first_step } => {
                (first_step, sampler.add_noise(first_step, &self.of(clean)?, &noise)?)
            }
            _ => (0, (&noise * sampler.initial_scale())?),
        };
        let own = self.guidance(pipeline, text)?;
        let (begun_by, begun) = match way {
            Way::Begun { by, text, steps } => (Some((by, self.guidance(by, text)?)), steps),
            _ => (None, 0),
        };
        let steps = sampler.timesteps().len();
        let cancel = context.cancel.clone();
        for step in first_step..steps {
            let (drawer, guidance) = match &begun_by {
                Some((by, guidance)) if step < begun => (*by, guidance),
                _ => (pipeline, &own),
            };
            let denoiser = ScheduledDenoiser {
                network: &*drawer.denoiser,
                schedule: self.schedule,
                evaluations: self.evaluations,
                resting: Some(&cancel),
            };
            let timestep = sampler.timesteps().get(step).copied().unwrap_or_default();
            let input = sampler.scale_input(step, &z)?;
            let output = denoiser.guided_output_at(&input, timestep, guidance)?;
            let fresh = if sampler.takes_noise(step) {
                Some(draw_each(&mut sources, self.shape, device)?)
            } else {
                None
            };
            z = sampler.step(step, &output, &z, fresh.as_ref())?.latents;
            if let Way::Around { clean } = way {
                let clean = self.of(clean)?;
                let around = if step + 1 < steps {
                    sampler.add_noise(step + 1, &clean, &noise)?
                } else {
                    clean
                };
                z = middle_within(&z, &around)?;
            }
            finite::check(&pipeline.unet_tensors.location, "a latent", &z)?;
            context.advance(Phase::Draw, step + 1, steps)?;
        }
        Ok(z)
    }

    fn of(&self, latents: &Tensor) -> Result<Tensor, EngineError> {
        Ok(latents.narrow(0, self.rows.start, self.rows.len())?)
    }

    fn guidance(&self, drawer: &Pipeline, text: &Conditioning) -> Result<Guidance, EngineError> {
        let rows: Vec<u32> = self.rows.clone().map(|row| row as u32).collect();
        let unconditional = drawer.unconditional("", None)?;
        let scale = self.spec.guidance_scale;
        Guidance::new(&*drawer.denoiser, &text.select(&rows)?, &unconditional, scale)
    }
}

/// The middle quarter of some latents, within others.
///
/// # Shapes
/// `[batch, channels, h, w]` alike.
fn middle_within(middle: &Tensor, around: &Tensor) -> Result<Tensor, EngineError> {
    let (_, _, height, width) = middle.dims4()?;
    let within = |at: usize, side: usize| at >= side / 4 && at < side - side / 4;
    let mask: Vec<f32> = (0..height * width)
        .map(|cell| {
            let inside = within(cell / width, height) && within(cell % width, width);
            f32::from(u8::from(inside))
        })
        .collect();
    let mask = Tensor::from_vec(mask, (1, 1, height, width), middle.device())?;
    Ok((around + (middle - around)?.broadcast_mul(&mask)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_middle_is_a_quarter_of_the_picture() {
        let ones = Tensor::ones((1, 1, 4, 8), DType::F32, &Device::Cpu).unwrap();
        let mixed = middle_within(&ones, &ones.zeros_like().unwrap()).unwrap();
        let rows = mixed.squeeze(0).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        let (edge, middle) = (vec![0.0; 8], vec![0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(rows, [edge.clone(), middle.clone(), middle, edge]);
    }
}
