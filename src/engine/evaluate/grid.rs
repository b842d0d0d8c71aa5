//! The grid of prompts, and the three accuracies over it.

use super::{
    Evaluation, PictureStore,
    kept::{self, DrawnPictures},
};
use crate::{
    engine::{
        EngineError, Pipeline, RunContext,
        judge::{Domain, Judge},
    },
    outcome::{EvaluationResults, Figures, JudgeReport, JudgedPicture, Phase, Picture, Verdict},
    spec::{ConceptKind, GenerateSpec, JudgeSpec, Prompt, find_word},
};

/// One picture to draw and judge.
#[derive(Debug, Clone)]
struct Cell {
    object: usize,
    style: usize,
    seed: u64,
    is_target: bool,
}

/// Draws the grid with both models and has every judge of the base model name the pictures. Those of
/// the base model are looked for in the store first.
pub(in crate::engine) fn judge(
    evaluation: Evaluation<'_>,
    store: &mut dyn PictureStore,
    context: &mut RunContext<'_>,
) -> Result<JudgeReport, EngineError> {
    let Evaluation { base, spec, .. } = evaluation;
    spec.validate()?;
    base.judges.all()?;
    base.reader().check_judge(spec)?;
    let drawn = kept::draw(evaluation, &drawing(base, spec), store, context)?;
    compare(base, spec, drawn, context)
}

/// The pictures of the grid, in the order in which [`compare`] takes them: both models draw them with
/// the sampler of the base model's folder where none is asked for, so that they differ in their U-Net
/// alone.
pub(in crate::engine) fn drawing(base: &Pipeline, spec: &JudgeSpec) -> GenerateSpec {
    let anything = &spec.vocabulary.anything;
    GenerateSpec {
        pictures: grid(spec)
            .iter()
            .map(|cell| (prompt(spec, cell).sentence(anything), cell.seed))
            .collect(),
        negative_prompt: String::new(),
        steps: spec.steps,
        guidance_scale: spec.guidance_scale,
        size: None,
        sampler: Some(base.sampling.kind(spec.sampler)),
        init_image: None,
    }
}

/// Has every judge of the base model name both models' pictures of [`drawing`].
fn compare(
    base: &Pipeline,
    spec: &JudgeSpec,
    drawn: DrawnPictures,
    context: &mut RunContext<'_>,
) -> Result<JudgeReport, EngineError> {
    let DrawnPictures { before, after, unet_evaluations, kept_evaluations } = drawn;
    let judges = base.judges.all()?;
    let cells = grid(spec);
    let mut verdicts = Vec::with_capacity(judges.len());
    for (index, judge) in judges.iter().enumerate() {
        context.advance(Phase::Judge, index, judges.len())?;
        verdicts.push(Verdict {
            judge: judge.name().to_owned(),
            sampler: base.sampling.kind(spec.sampler),
            edited: figures(judge.as_ref(), spec, &cells, &after)?,
            base: figures(judge.as_ref(), spec, &cells, &before)?,
            measures: None,
        });
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
        evaluation: EvaluationResults::default(),
        pictures,
        unet_evaluations,
        kept_evaluations,
    })
}

/// Every object in every style; the concept's own row or column with more seeds.
fn grid(spec: &JudgeSpec) -> Vec<Cell> {
    // Seeds far apart, so that no cell shares its noise with another's next seed.
    const SEED_STRIDE: u64 = 7_919;
    let (objects, styles) = (&spec.vocabulary.objects, &spec.vocabulary.styles);
    let concept = find_word(spec.vocabulary.domain(spec.concept.kind), &spec.concept.text);
    let mut cells = Vec::new();
    for round in 0..spec.target_seeds.max(spec.retain_seeds) {
        for style in 0..styles.len() {
            for object in 0..objects.len() {
                let word = match spec.concept.kind {
                    ConceptKind::Style => style,
                    _ => object,
                };
                let is_target = Some(word) == concept;
                let seeds = if is_target { spec.target_seeds } else { spec.retain_seeds };
                if round < seeds {
                    let cell = (style * objects.len().max(160) + object) as u64;
                    let seed = spec
                        .seed
                        .wrapping_add(SEED_STRIDE.wrapping_mul(round as u64))
                        .wrapping_add(cell);
                    cells.push(Cell { object, style, seed, is_target });
                }
            }
        }
    }
    cells
}

fn prompt(spec: &JudgeSpec, cell: &Cell) -> Prompt {
    Prompt {
        object: Some(spec.vocabulary.objects[cell.object].clone()),
        style: Some(spec.vocabulary.styles[cell.style].clone()),
        ..Prompt::default()
    }
}

fn figures(
    judge: &dyn Judge,
    spec: &JudgeSpec,
    cells: &[Cell],
    pictures: &[Picture],
) -> Result<Figures, EngineError> {
    let named = |domain| {
        let probabilities = judge.probabilities(pictures, domain, &spec.vocabulary)?;
        Ok::<_, EngineError>(probabilities.iter().map(|row| most_likely(row)).collect::<Vec<_>>())
    };
    let (objects, styles) = (named(Domain::Objects)?, named(Domain::Styles)?);
    let mut target = Share::default();
    let (mut in_domain, mut cross_domain) = (Share::default(), Share::default());
    for (cell, (object, style)) in cells.iter().zip(objects.into_iter().zip(styles)) {
        let (object_right, style_right) = (object == cell.object, style == cell.style);
        let (own, other) = match spec.concept.kind {
            ConceptKind::Style => (style_right, object_right),
            _ => (object_right, style_right),
        };
        if cell.is_target {
            target.count(own);
        } else {
            in_domain.count(own);
            cross_domain.count(other);
        }
    }
    Ok(Figures { ua: 1.0 - target.get(), ira: in_domain.get(), cra: cross_domain.get() })
}

fn most_likely(probabilities: &[f64]) -> usize {
    probabilities.iter().enumerate().fold(0, |best, (index, probability)| {
        if *probability > probabilities[best] { index } else { best }
    })
}

#[derive(Debug, Default)]
struct Share {
    hits: usize,
    all: usize,
}

impl Share {
    fn count(&mut self, hit: bool) {
        self.hits += usize::from(hit);
        self.all += 1;
    }

    fn get(&self) -> f64 {
        if self.all == 0 { 0.0 } else { self.hits as f64 / self.all as f64 }
    }
}
