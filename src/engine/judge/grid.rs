//! The grid of prompts, and the three accuracies over it.

use super::{Domain, Judge};
use crate::{
    engine::{EngineError, Pipeline, RunContext, generate::generate},
    outcome::{Figures, JudgeReport, JudgedPicture, Phase, Picture, Verdict},
    spec::{ConceptKind, GenerateSpec, JudgeSpec, Prompt},
};

/// One picture to draw and judge.
#[derive(Debug, Clone)]
struct Cell {
    object: usize,
    style: usize,
    seed: u64,
    is_target: bool,
}

/// Draws the grid with both models and has every judge of the base model name the pictures.
pub(in crate::engine) fn judge(
    base: &Pipeline,
    edited: &Pipeline,
    spec: &JudgeSpec,
    context: &mut RunContext<'_>,
) -> Result<JudgeReport, EngineError> {
    spec.validate()?;
    base.judges.all()?;
    let drawing = drawing(spec);
    let (before, base_evaluations) = generate(base, &drawing, context)?;
    let (after, edited_evaluations) = generate(edited, &drawing, context)?;
    let report = compare(base, spec, before, after, context)?;
    Ok(JudgeReport { unet_evaluations: base_evaluations + edited_evaluations, ..report })
}

/// The pictures of the grid, in the order in which [`compare`] takes them.
pub(in crate::engine) fn drawing(spec: &JudgeSpec) -> GenerateSpec {
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
    }
}

/// Has every judge of the base model name both models' pictures of [`drawing`].
pub(in crate::engine) fn compare(
    base: &Pipeline,
    spec: &JudgeSpec,
    before: Vec<Picture>,
    after: Vec<Picture>,
    context: &mut RunContext<'_>,
) -> Result<JudgeReport, EngineError> {
    let judges = base.judges.all()?;
    let cells = grid(spec);
    let mut verdicts = Vec::with_capacity(judges.len());
    for (index, judge) in judges.iter().enumerate() {
        context.advance(Phase::Judge, index, judges.len())?;
        verdicts.push(Verdict {
            judge: judge.name().to_owned(),
            edited: figures(judge.as_ref(), spec, &cells, &after)?,
            base: figures(judge.as_ref(), spec, &cells, &before)?,
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
    Ok(JudgeReport { spec: spec.clone(), verdicts, pictures, unet_evaluations: 0 })
}

/// Every object in every style; the concept's own row or column with more seeds.
fn grid(spec: &JudgeSpec) -> Vec<Cell> {
    // Seeds far apart, so that no cell shares its noise with another's next seed.
    const SEED_STRIDE: u64 = 7_919;
    let (objects, styles) = (&spec.vocabulary.objects, &spec.vocabulary.styles);
    let mut cells = Vec::new();
    for round in 0..spec.target_seeds.max(spec.retain_seeds) {
        for (style, style_word) in styles.iter().enumerate() {
            for (object, object_word) in objects.iter().enumerate() {
                let word = match spec.concept.kind {
                    ConceptKind::Style => style_word,
                    _ => object_word,
                };
                let is_target = *word == spec.concept.text;
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
