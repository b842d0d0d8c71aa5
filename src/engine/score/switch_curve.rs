//! The switch curve: how likely the picture shows the concept when the prompt names it for a part
//! of the path only.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::{
    engine::{
        EngineError, Pipeline, RunContext,
        denoise::{Guidance, ScheduledDenoiser, initial_latents},
        family::Conditioning,
        generate::decode,
        judge::Domain,
        wording::names_one_of,
    },
    outcome::Phase,
    spec::{ConceptKind, Prompt, ScoreSpec, StepIndex},
};

/// Trajectories of the curve; each branches at every point.
pub(super) const SEEDS: usize = 4;
/// Points along the path at most.
pub(super) const POINTS: usize = 10;

/// Probabilities a seed: of the concept named until a step, and from it on.
type Curve = (Vec<f64>, Vec<f64>);

/// A path that has left one of the two trunks.
struct Branch {
    switch: StepIndex,
    z: Tensor,
    /// Whether the prompt names the concept after the switch.
    named: bool,
}

/// Walks one trunk with the concept and one without; at every point a branch leaves each trunk for
/// the other prompt. The sharpest judge looks at where the branches end.
pub(super) fn sample(
    pipeline: &Pipeline,
    spec: &ScoreSpec,
    denoiser: &ScheduledDenoiser<'_>,
    context: &mut RunContext<'_>,
) -> Result<BTreeMap<StepIndex, Curve>, EngineError> {
    pipeline.judges.all()?;
    let domain = match spec.concept.kind {
        ConceptKind::Style => Domain::Styles,
        _ => Domain::Objects,
    };
    let words = domain.words(&spec.vocabulary);
    let scored = names_one_of(&pipeline.tokenizer, std::slice::from_ref(&spec.concept));
    let (Some(judge), Some(class)) =
        (pipeline.judges.sharpest(), words.iter().position(|word| scored(word)))
    else {
        // The judge does not know this concept; the other scores stand without the curve.
        return Ok(BTreeMap::new());
    };

    let steps = denoiser.schedule.len();
    let stride = steps.div_ceil(POINTS);
    let count = SEEDS.min(spec.trajectories);
    let seeds: Vec<u64> = (0..count as u64).map(|index| spec.seed.wrapping_add(index)).collect();
    let prompt = Prompt::of(&spec.concept.text, spec.concept.kind);
    let named = pipeline.encode_prompts(&[prompt.sentence(&spec.vocabulary.anything)])?;
    let empty = pipeline.unconditional("", None)?;
    let prompts = denoiser.network.project(&Conditioning::cat(&[&named, &empty])?)?;

    let start = initial_latents(&seeds, pipeline.latent_shape(None)?, &pipeline.device)?;
    let (mut with, mut without) = (start.clone(), start);
    let mut branches: Vec<Branch> = Vec::new();
    for index in 0..steps {
        context.advance(Phase::SwitchCurve, index, steps)?;
        let step = StepIndex(index);
        if index % stride == 0 {
            branches.push(Branch { switch: step, z: with.clone(), named: false });
            branches.push(Branch { switch: step, z: without.clone(), named: true });
        }
        // All paths under one prompt move in one batch.
        let mut advance = |trunk: &mut Tensor, names: bool| {
            let moving = || branches.iter().filter(|branch| branch.named == names);
            let batch: Vec<&Tensor> =
                std::iter::once(&*trunk).chain(moving().map(|branch| &branch.z)).collect();
            let z = Tensor::cat(&batch, 0)?;
            // Under the empty prompt there is nothing to steer away from.
            let (prompt, scale) = if names { (0, spec.guidance_scale) } else { (1, 1.0) };
            let guidance = Guidance::select(&prompts, &vec![prompt; z.dim(0)?], 1, scale)?;
            let z = denoiser.guided_step(&z, step, &guidance)?;
            *trunk = z.narrow(0, 0, count)?;
            let moved = branches.iter_mut().filter(|branch| branch.named == names);
            for (position, branch) in moved.enumerate() {
                branch.z = z.narrow(0, (position + 1) * count, count)?;
            }
            Ok::<_, EngineError>(())
        };
        advance(&mut with, true)?;
        advance(&mut without, false)?;
    }
    context.advance(Phase::SwitchCurve, steps, steps)?;

    let mut curves = BTreeMap::<StepIndex, Curve>::new();
    for branch in branches {
        let pictures = decode(pipeline, &branch.z)?;
        let probabilities = judge.probabilities(&pictures, domain, &spec.vocabulary)?;
        let shown = probabilities.iter().map(|row| row[class]).collect();
        let curve = curves.entry(branch.switch).or_default();
        if branch.named {
            curve.1 = shown;
        } else {
            curve.0 = shown;
        }
    }
    Ok(curves)
}
