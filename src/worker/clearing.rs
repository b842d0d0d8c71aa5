//! Removes what a finished job left on this disk, in shared state and in the output, unless it is
//! kept.

use std::path::PathBuf;

use super::{
    Leavings,
    context::{RESULT, STATE, WorkerContext},
};
use crate::{
    artifacts::remove_folder,
    jobs::{JobId, JobStore, JobSummary, StateName},
};

/// Clears what a job that is over left; `None` for one that the store knows no more. A finished
/// result that may yet be published stays. What cannot be cleared now is left for a later sweep.
pub(super) async fn clear<S: JobStore>(
    context: &WorkerContext<S>,
    id: JobId,
    job: Option<&JobSummary>,
) {
    let folder = context.folder(id);
    let now = context.settings.clock.now();
    let mut is_shared_state_gone = true;
    let keeps_result = job.and_then(JobSummary::result_kept_until).is_some_and(|until| now < until);
    if let Some(shared) = &context.settings.shared_state {
        let run = id.to_string();
        let removed = if keeps_result {
            shared.remove_all_but_result(&run).await
        } else {
            shared.remove(&run).await
        };
        if let Err(error) = removed {
            tracing::warn!(job = %id, %error, "the shared state of a job that is over stays for now");
            is_shared_state_gone = false;
        }
    }
    if keeps_result {
        return remove_all(vec![folder.join(STATE)]).await;
    }
    let is_cancelled = job.is_some_and(|job| job.state.name() == StateName::Cancelled);
    let leavings = Leavings { folder: &folder.join(RESULT), is_cancelled };
    match context.parts.publisher.abandon(leavings).await {
        Ok(()) if is_shared_state_gone => remove_all(vec![folder]).await,
        // A later sweep finds the job by its folder.
        Ok(()) => remove_all(vec![folder.join(STATE), folder.join(RESULT)]).await,
        Err(failure) => {
            tracing::warn!(job = %id, %failure, "unpublished files stay in the output for now");
            // Beside these lies what tells where they are.
            remove_all(vec![folder.join(STATE), folder.join(RESULT)]).await;
        }
    }
}

async fn remove_all(folders: Vec<PathBuf>) {
    let all = move || folders.iter().try_for_each(|folder| remove_folder(folder));
    let removed = tokio::task::spawn_blocking(all).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::warn!(
            "the folder of a job that is over could not be removed; a sweep tries again"
        );
    }
}
