//! The grid of prompts, drawn by both models and named by every judge.

use super::{
    Evaluation, PictureStore,
    cells::{Cell, grid, prompt},
    counting::{Counting, Names},
    distances::{self, DrawnGrid},
    kept::{self, Drawings, DrawnPictures},
};
use crate::{
    engine::{EngineError, Pipeline, RunContext},
    outcome::{EvaluationResults, JudgeReport, JudgedPicture, Phase, Picture, Verdict},
    spec::{Field, GenerateSpec, JudgeSpec, SpecError},
};

/// Draws the grid with both models and has every judge of the base model name the pictures. Those of
/// the base model are looked for in the store first.
pub(in crate::engine) fn judge(
    evaluation: Evaluation<'_>,
    store: &mut dyn PictureStore,
    context: &mut RunContext<'_>,
) -> Result<JudgeReport, EngineError> {
    let Evaluation { base, spec, .. } = evaluation;
    spec.validate()?;
    base.judges.check(spec)?;
    base.reader().check_judge(spec)?;
    check_features(base, spec)?;
    let drawn = kept::draw(evaluation, &drawings(base, spec), store, context)?;
    compare(base, spec, drawn, context)
}

/// Refuses distances where no judge has features to measure them by.
pub(in crate::engine) fn check_features(
    base: &Pipeline,
    spec: &JudgeSpec,
) -> Result<(), EngineError> {
    if !spec.distances || base.judges.all()?.iter().any(|it| it.image_features(&[]).is_some()) {
        return Ok(());
    }
    let message = "no judge of the base model has features to measure distances by; add clip/ to the \
                   model, or leave distances out";
    Err(SpecError::one(Field::Distances, message).into())
}

/// The pictures of the grid, in the order in which [`compare`] takes them: both models draw them with
/// the sampler of the base model's folder where none is asked for, so that they differ in their U-Net
/// alone. For distances the base model draws the cells without the concept from other seeds too.
pub(in crate::engine) fn drawings(base: &Pipeline, spec: &JudgeSpec) -> Drawings {
    // Far from the seeds of the grid, which lie within 1,000 rounds of the first.
    const OTHER_SEEDS: u64 = 1_000_000_007;
    let anything = &spec.vocabulary.anything;
    let cells = grid(spec);
    let sentence = |cell: &Cell| prompt(spec, cell).sentence(anything);
    let drawing = |pictures| GenerateSpec {
        pictures,
        negative_prompt: String::new(),
        steps: spec.steps,
        guidance_scale: spec.guidance_scale,
        size: None,
        sampler: Some(base.sampling.kind(spec.sampler)),
        init_image: None,
    };
    let both = drawing(cells.iter().map(|cell| (sentence(cell), cell.seed)).collect());
    let others = cells.iter().filter(|cell| spec.distances && !cell.is_target);
    let others: Vec<_> =
        others.map(|cell| (sentence(cell), cell.seed.wrapping_add(OTHER_SEEDS))).collect();
    Drawings { both, base_alone: (!others.is_empty()).then(|| drawing(others)) }
}

/// Has every judge of the base model name both models' pictures of [`drawing`].
fn compare(
    base: &Pipeline,
    spec: &JudgeSpec,
    drawn: DrawnPictures,
    context: &mut RunContext<'_>,
) -> Result<JudgeReport, EngineError> {
    let DrawnPictures { before, after, alone, unet_evaluations, kept_evaluations } = drawn;
    let judges = base.judges.all()?;
    let cells = grid(spec);
    let mut verdicts = Vec::with_capacity(judges.len());
    for (index, judge) in judges.iter().enumerate() {
        context.advance(Phase::Judge, index, judges.len())?;
        let named = |pictures: &[Picture]| Names::given(judge.as_ref(), spec, pictures);
        let measures = Counting::new(spec).count(&cells, &named(&before)?, &named(&after)?);
        verdicts.push(Verdict {
            judge: judge.name().to_owned(),
            sampler: base.sampling.kind(spec.sampler),
            edited: measures.edited(),
            base: measures.base(),
            measures: Some(measures),
        });
    }
    let mut evaluation = EvaluationResults::default();
    if spec.distances {
        let drawn = DrawnGrid {
            cells: &cells,
            sentences: cells
                .iter()
                .map(|cell| prompt(spec, cell).sentence(&spec.vocabulary.anything))
                .collect(),
            before: &before,
            after: &after,
            other: &alone,
        };
        let measured = distances::measure(judges, spec.seed, &drawn)?;
        for verdict in &mut verdicts {
            if let Some(measures) = &mut verdict.measures {
                measured.of_words(spec, &cells, measures);
            }
        }
        evaluation.distances = measured.distances;
    }
    context.advance(Phase::Judge, judges.len(), judges.len())?;
    let pictures = cells
        .iter()
        .zip(before.into_iter().zip(after))
        .map(|(cell, (before, after))| JudgedPicture {
            prompt: prompt(spec, cell),
            seed: cell.seed,
            is_target: cell.is_target,
            before,
            after,
        })
        .collect();
    Ok(JudgeReport {
        spec: spec.clone(),
        verdicts,
        evaluation,
        pictures,
        unet_evaluations,
        kept_evaluations,
    })
}
