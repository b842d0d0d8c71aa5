//! `google.longrunning.Operations`: the standard service over the stored jobs.

use std::{sync::Arc, time::Duration};

use futures::future::OptionFuture;
use tonic::{Request, Response};

use super::{
    Answer, ApiError, ApiParts, ApiResult,
    convert::operation,
    paging::{operations_token, page_size, read_operations_token},
    violations::Violations,
    watching::Wakes,
};
use crate::{
    auth::{Caller, Role},
    jobs::{Filter, JobStore, JobSummary, ListQuery, StateName},
    proto::google::longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        ListOperationsResponse, Operation, WaitOperationRequest, operations_server::Operations,
    },
    spec::Field,
};

/// What the caller's own deadline is cut by, so that the answer still arrives.
const ROOM_FOR_THE_ANSWER: Duration = Duration::from_millis(200);

/// Serves `google.longrunning.Operations`.
#[derive(Debug, Clone)]
pub struct OperationsApi {
    parts: Arc<ApiParts>,
}

impl OperationsApi {
    /// Over these parts.
    pub fn new(parts: Arc<ApiParts>) -> Self {
        Self { parts }
    }

    async fn list(
        &self,
        caller: &Caller,
        request: ListOperationsRequest,
    ) -> ApiResult<ListOperationsResponse> {
        let ListOperationsRequest {
            name,
            filter,
            page_size: size,
            page_token,
            return_partial_success,
        } = request;
        if return_partial_success {
            return Err(ApiError::Unsupported { what: "return_partial_success" });
        }
        let mut found = Violations::default();
        if !["", "operations"].contains(&name.as_str()) {
            found.add(Field::Name, "is no collection; give operations, or nothing");
        }
        let mut query = ListQuery {
            principal: caller.sees().cloned(),
            limit: page_size(size, &mut found),
            before: read_operations_token(&page_token, &filter, &mut found),
            ..ListQuery::default()
        };
        match filter.parse::<Filter>() {
            Ok(read) => read.narrow(&mut query),
            Err(error) => found.add(Field::Filter, error.to_string()),
        }
        found.finish()?;
        let page = self.parts.store.list(&query).await?;
        let waits = |job: &&JobSummary| job.state.name() == StateName::Queued;
        let waiting: Vec<_> = page.jobs.iter().filter(waits).map(|job| job.id).collect();
        // One query for the whole page: one for each job would take longer than the page itself.
        let positions = self.parts.store.queue_positions(&waiting).await?;
        let shown = |job: &JobSummary| operation(job, positions.get(&job.id).copied().unwrap_or(0));
        let operations = page.jobs.iter().map(shown).collect();
        Ok(ListOperationsResponse {
            operations,
            next_page_token: page
                .next
                .map(|before| operations_token(before, &filter))
                .unwrap_or_default(),
            unreachable: Vec::new(),
        })
    }

    async fn wait(
        &self,
        caller: &Caller,
        request: WaitOperationRequest,
        most: Option<Duration>,
    ) -> ApiResult<Operation> {
        let WaitOperationRequest { name, timeout } = request;
        let timeout = timeout.map(read_timeout).transpose()?;
        let longest = match (timeout, most) {
            (Some(timeout), Some(most)) => Some(timeout.min(most)),
            (one, other) => one.or(other),
        };
        let give_up = OptionFuture::from(longest.map(tokio::time::sleep));
        tokio::pin!(give_up);
        let mut wakes = Wakes::new(&self.parts);
        loop {
            wakes.note()?;
            let job = self.parts.visible_job(caller, &name).await?;
            if job.state.name().is_terminal() {
                return self.parts.shown(&job).await;
            }
            tokio::select! {
                Some(()) = &mut give_up => return self.parts.shown(&job).await,
                woken = wakes.wait() => woken?,
            }
        }
    }
}

#[tonic::async_trait]
impl Operations for OperationsApi {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        let caller = self.parts.admit(&request, Role::Read)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        let caller = self.parts.admit(&request, Role::Read)?;
        let GetOperationRequest { name } = request.into_inner();
        let job = self.parts.visible_job(&caller, &name).await?;
        Ok(Response::new(self.parts.shown(&job).await?))
    }

    async fn delete_operation(&self, request: Request<DeleteOperationRequest>) -> Answer<()> {
        let caller = self.parts.admit(&request, Role::Submit)?;
        let DeleteOperationRequest { name } = request.into_inner();
        let job = self.parts.visible_job(&caller, &name).await?;
        self.parts.store.delete(job.id).await.map_err(ApiError::from)?;
        tracing::info!(operation = name, "an operation is deleted");
        Ok(Response::new(()))
    }

    async fn cancel_operation(&self, request: Request<CancelOperationRequest>) -> Answer<()> {
        let caller = self.parts.admit(&request, Role::Submit)?;
        let CancelOperationRequest { name } = request.into_inner();
        let job = self.parts.visible_job(&caller, &name).await?;
        self.parts.store.request_cancel(job.id).await.map_err(ApiError::from)?;
        tracing::info!(operation = name, "a cancel is asked for");
        Ok(Response::new(()))
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Answer<Operation> {
        let caller = self.parts.admit(&request, Role::Read)?;
        let most = callers_timeout(&request);
        Ok(Response::new(self.wait(&caller, request.into_inner(), most).await?))
    }
}

fn read_timeout(timeout: prost_types::Duration) -> ApiResult<Duration> {
    /// The most that a `google.protobuf.Duration` may hold: 10,000 years.
    const MOST_SECONDS: i64 = 315_576_000_000;
    // Checked before the conversion, which would normalise what is out of range.
    let is_sound = (0..=MOST_SECONDS).contains(&timeout.seconds)
        && (0..1_000_000_000).contains(&timeout.nanos);
    let read = is_sound.then(|| Duration::try_from(timeout).ok()).flatten();
    read.ok_or_else(|| ApiError::invalid(Field::Timeout, "is no length of time; give 0 s or more"))
}

/// What is left of the call's own deadline: `grpc-timeout` is a number and a unit.
fn callers_timeout<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.saturating_sub(ROOM_FOR_THE_ANSWER.min(timeout / 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline_leaves_room_for_the_answer() {
        let timeout = |text: &str| {
            let mut request = Request::new(());
            request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
            callers_timeout(&request)
        };
        assert_eq!(timeout("10S"), Some(Duration::from_millis(9_800)));
        assert_eq!(timeout("400m"), Some(Duration::from_millis(300)));
        assert_eq!(timeout("1H"), Some(Duration::from_millis(3_599_800)));
        for wrong in ["", "S", "10", "10x", "999999999S", "-1S", "1ä"] {
            let mut request = Request::new(());
            let Ok(value) = wrong.parse() else { continue };
            request.metadata_mut().insert("grpc-timeout", value);
            assert_eq!(callers_timeout(&request), None, "{wrong}");
        }
    }

    #[test]
    fn a_timeout_is_a_length_of_time() {
        let of = |seconds, nanos| read_timeout(prost_types::Duration { seconds, nanos });
        assert_eq!(of(1, 5).unwrap(), Duration::new(1, 5));
        assert!(of(-1, 0).is_err());
        assert!(of(0, -1).is_err());
        assert!(of(0, 1_000_000_000).is_err());
        assert!(of(315_576_000_000, 999_999_999).is_ok());
        assert!(of(315_576_000_001, 0).is_err(), "beyond what the type may hold");
        assert!(of(i64::MAX, 0).is_err());
    }
}
