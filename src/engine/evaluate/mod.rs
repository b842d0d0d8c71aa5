//! Judges an erasure: UnlearnCanvas's UA, IRA and CRA (arXiv 2402.11846), on the same prompts and
//! seeds with both models.

mod bootstrap;
mod cells;
mod counting;
mod distances;
mod grid;
mod judging;
mod kept;
mod picture_distance;
mod probes;
mod suites;

pub use bootstrap::{ConceptSeeds, Pooled, bootstrap};
pub(super) use distances::numbers as distance_numbers;
pub(super) use grid::{check_features, drawings};
pub(super) use judging::judge;
pub use kept::{KeptPictures, NoPictures, PictureStore, PicturesInMemory};
pub(super) use suites::with_suites;

use super::{Pipeline, generate::DrawingPolicy};
use crate::spec::JudgeSpec;

/// What is evaluated, and how its pictures are drawn.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Evaluation<'a> {
    pub(in crate::engine) base: &'a Pipeline,
    pub(in crate::engine) edited: &'a Pipeline,
    pub(in crate::engine) spec: &'a JudgeSpec,
    pub(in crate::engine) policy: DrawingPolicy,
}
