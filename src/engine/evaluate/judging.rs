//! A judgement from beginning to end: the grid, then the suites.

use super::{Evaluation, PictureStore, grid, suites};
use crate::{
    engine::{EngineError, RunContext},
    outcome::JudgeReport,
};

/// Judges the grid and every suite. Whether all of it can be drawn is known before the first picture.
pub(in crate::engine) fn judge(
    evaluation: Evaluation<'_>,
    store: &mut dyn PictureStore,
    context: &mut RunContext<'_>,
) -> Result<JudgeReport, EngineError> {
    let asked = suites::asked(evaluation)?;
    let mut report = grid::judge(evaluation, store, context)?;
    let judged = suites::judge(evaluation, &asked, store, context)?;
    report.evaluation.suites = judged.results;
    report.unet_evaluations += judged.unet_evaluations;
    report.kept_evaluations += judged.kept_evaluations;
    Ok(report)
}
