//! The cells of UnlearnCanvas's grid: every object in every style.

use crate::spec::{ConceptKind, JudgeSpec, Prompt, find_word};

/// One picture to draw and judge.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) object: usize,
    pub(super) style: usize,
    pub(super) seed: u64,
    pub(super) is_target: bool,
}

/// Every object in every style; the concept's own row or column with more seeds.
pub(super) fn grid(spec: &JudgeSpec) -> Vec<Cell> {
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

/// What a cell asks for.
pub(super) fn prompt(spec: &JudgeSpec, cell: &Cell) -> Prompt {
    Prompt {
        object: Some(spec.vocabulary.objects[cell.object].clone()),
        style: Some(spec.vocabulary.styles[cell.style].clone()),
        ..Prompt::default()
    }
}
