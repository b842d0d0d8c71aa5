//! What a judgement holds in memory, with its attacks.

use super::{
    attacking,
    sizes::Sizes,
    work::{Drawing, WorkMemory, Worker, drawing},
};
use crate::{
    engine::{EngineError, Pipeline, evaluate},
    spec::{GenerateSpec, JudgeSpec},
};

/// How a judgement draws, and what it holds with the pictures of both models; refused where that is
/// more than the pipeline's limit.
pub(in crate::engine) fn judgement(
    pipeline: &Pipeline,
    spec: &JudgeSpec,
) -> Result<Drawing, EngineError> {
    let worker = Worker::new(pipeline, Sizes::of(pipeline)?)?;
    let mut drawn = evaluate::drawings(pipeline, spec);
    drawn.both = evaluate::with_suites(drawn.both, spec);
    let Drawing { policy, memory } = drawing(pipeline, &drawn.both)?;
    let numbers =
        |drawing: &GenerateSpec| drawing.pictures.len() as u64 * worker.picture(worker.sizes.size);
    // The drawing counts those of one of the two.
    let pictures = numbers(&drawn.both);
    let alone = drawn.base_alone.as_ref().map_or(0, numbers);
    let compared = drawn
        .base_alone
        .as_ref()
        .map_or(0, |_| evaluate::distance_numbers(drawn.both.pictures.len() as u64));
    let judging = pipeline.judges.working_numbers().max(compared);
    let judged = worker.memory(judging, 2 * pictures + alone);
    let attacked = attacking::most(&worker, spec, policy)?;
    let work = (memory.work + pictures + alone).max(judged.work).max(attacked.work);
    let memory = WorkMemory { work, ..memory };
    let memory = worker.refuse(memory, "the judgement", "judge fewer pictures")?;
    Ok(Drawing { policy, memory })
}
