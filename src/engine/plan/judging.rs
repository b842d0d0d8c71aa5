//! What a judgement holds in memory, with its attacks.

use super::{
    attacking,
    sizes::Sizes,
    work::{Drawing, WorkMemory, Worker, drawing},
};
use crate::{
    engine::{EngineError, Pipeline, evaluate},
    spec::JudgeSpec,
};

/// How a judgement draws, and what it holds with the pictures of both models; refused where that is
/// more than the pipeline's limit.
pub(in crate::engine) fn judgement(
    pipeline: &Pipeline,
    spec: &JudgeSpec,
) -> Result<Drawing, EngineError> {
    let worker = Worker::new(pipeline, Sizes::of(pipeline)?)?;
    let drawn = evaluate::drawing(pipeline, spec);
    let Drawing { policy, memory } = drawing(pipeline, &drawn)?;
    // The drawing counts those of one of the two.
    let pictures = drawn.pictures.len() as u64 * worker.picture(worker.sizes.size);
    let judged = worker.memory(pipeline.judges.working_numbers(), 2 * pictures);
    let attacked = attacking::most(&worker, spec, policy)?;
    let work = (memory.work + pictures).max(judged.work).max(attacked.work);
    let memory = WorkMemory { work, ..memory };
    let memory = worker.refuse(memory, "the judgement", "judge fewer pictures")?;
    Ok(Drawing { policy, memory })
}
