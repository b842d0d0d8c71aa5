//! Streams an operation's log as it grows, from any sequence number on. Events are read from the
//! store; notifications only say when to read.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::sync::watch;
use tonic::Status;

use super::{
    ApiError, ApiParts, ApiResult,
    convert::{event, operation},
    streaming::Messages,
};
use crate::{
    auth::Caller,
    jobs::{EventBody, JobEvent, JobId, JobStore, JobSummary, Sequence, StoreError},
    proto::keystep::v1::{
        WatchOperationRequest, WatchOperationResponse, watch_operation_response::Update,
    },
};

/// Events that are read at once.
const EVENTS_A_PAGE: u32 = 256;
/// How often the store is asked where nothing wakes: another process may have written.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Waits for the store to change.
pub(super) struct Wakes {
    parts: Arc<ApiParts>,
    changes: watch::Receiver<u64>,
}

impl Wakes {
    /// Begins to listen: whatever changes from now on wakes.
    pub(super) fn new(parts: &Arc<ApiParts>) -> Self {
        Self { parts: parts.clone(), changes: parts.store.subscribe() }
    }

    /// What changed so far is about to be read.
    pub(super) fn note(&mut self) -> ApiResult<()> {
        self.changes.borrow_and_update();
        if self.parts.draining.is_cancelled() { Err(ApiError::Draining) } else { Ok(()) }
    }

    /// Waits for a change since the last note, and not for ever.
    pub(super) async fn wait(&mut self) -> ApiResult<()> {
        tokio::select! {
            () = self.parts.draining.cancelled() => return Err(ApiError::Draining),
            changed = self.changes.changed() => {
                if changed.is_err() {
                    tokio::time::sleep(POLL_EVERY).await;
                }
            }
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
        Ok(())
    }
}

struct Watch {
    wakes: Wakes,
    id: JobId,
    after: Sequence,
    read: VecDeque<JobEvent>,
    /// The log as it was read last holds no end: until it grows, the job is not done.
    goes_on: bool,
    /// Everything was read that there was at the last notification of a change. With many watches
    /// on one job each read that is left out counts: training wakes them several times a second.
    is_up_to_date: bool,
    is_over: bool,
}

/// The events after a point, and last the finished operation.
pub(super) async fn watch(
    parts: &Arc<ApiParts>,
    caller: &Caller,
    request: WatchOperationRequest,
) -> ApiResult<Messages<WatchOperationResponse>> {
    let WatchOperationRequest { name, after_sequence } = request;
    let job = parts.visible_job(caller, &name).await?;
    let watch = Watch {
        wakes: Wakes::new(parts),
        id: job.id,
        after: Sequence(after_sequence),
        read: VecDeque::new(),
        goes_on: false,
        is_up_to_date: false,
        is_over: false,
    };
    let next = |mut watch: Watch| async { watch.next().await.map(|message| (message, watch)) };
    Ok(stream::unfold(watch, next).boxed())
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchOperationResponse, Status>> {
        if self.is_over {
            return None;
        }
        let update = self.update().await;
        self.is_over = !matches!(update, Ok(Update::Event(_)));
        let response = |update| WatchOperationResponse { update: Some(update) };
        Some(update.map(response).map_err(Status::from))
    }

    async fn update(&mut self) -> ApiResult<Update> {
        loop {
            if let Some(next) = self.read.pop_front() {
                self.after = next.sequence;
                return Ok(Update::Event(event(next)));
            }
            if self.is_up_to_date {
                self.wakes.wait().await?;
                self.is_up_to_date = false;
            }
            self.wakes.note()?;
            let store = &self.wakes.parts.store;
            let events = store.events_after(self.id, self.after, EVENTS_A_PAGE).await?;
            if let Some(last) = events.last() {
                self.goes_on = !is_end(last);
                self.is_up_to_date = self.goes_on && events.len() < EVENTS_A_PAGE as usize;
                self.read = events.into();
                continue;
            }
            if !self.goes_on {
                let job = store.get(self.id).await?.ok_or(StoreError::NotFound(self.id))?;
                if self.is_told(&job) {
                    return Ok(Update::Operation(operation(&job, 0)));
                }
                self.goes_on = !job.state.name().is_terminal();
            }
            // The log may have grown between the two reads; then the wake is there already.
            self.is_up_to_date = true;
        }
    }

    /// Whether the job is done and every event of it was sent.
    fn is_told(&self, job: &JobSummary) -> bool {
        job.state.name().is_terminal() && job.last_sequence <= self.after
    }
}

/// Whether no event follows this one.
fn is_end(event: &JobEvent) -> bool {
    matches!(&event.body, EventBody::StateChanged { state, .. } if state.is_terminal())
}
