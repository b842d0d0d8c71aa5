//! Checks a request against a model's tokenizer and scheduler before it becomes a job. Reads
//! configs alone, and uses no device.

use std::sync::Arc;

use crate::{
    device::{ModelProvider, engine_failure},
    engine::{self, EngineError},
    jobs::{Failure, FailureReason, Work},
    spec::ModelFiles,
};

/// Refuses work whose words do not fit its base model, or whose sampler does not fit its steps, as
/// `InvalidSpec`.
///
/// Whatever else is wrong with the model, and a model that is out of reach, is left for the job to
/// find, which can wait and try again.
pub async fn check_words(models: &dyn ModelProvider, work: &Work) -> Result<(), Failure> {
    let Ok(model) = models.open(work.base_model()).await else { return Ok(()) };
    let (files, work) = (model.files, work.clone());
    let checked = tokio::task::spawn_blocking(move || check(&files, &work)).await;
    match checked {
        Ok(Err(error)) => Some(engine_failure(&error))
            .filter(|failure| failure.reason == FailureReason::InvalidSpec)
            .map_or(Ok(()), Err),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

fn check(files: &Arc<dyn ModelFiles>, work: &Work) -> Result<(), EngineError> {
    match work {
        Work::Unlearn(work) => engine::check_erasure_words(files.as_ref(), &work.spec),
        Work::Evaluate(work) => {
            engine::check_judgement_words(files.as_ref(), &work.spec)?;
            engine::check_judgement_sampler(files.as_ref(), &work.spec)
        }
    }
}
