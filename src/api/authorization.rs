//! Who may call what, and which operations a caller sees.

use tonic::Request;

use super::{
    ApiError, ApiParts, ApiResult, TraceContext, convert::Limits, digests::drawn_seed,
    names::operation_id,
};
use crate::{
    auth::{Caller, Role},
    jobs::{JobStore, JobSummary},
    spec::Vocabulary,
};

impl ApiParts {
    /// Who calls, if it may do this and the server takes calls.
    pub(super) fn admit<T>(&self, request: &Request<T>, needed: Role) -> ApiResult<Caller> {
        let caller = request.extensions().get::<Caller>().ok_or(ApiError::CallerUnknown)?;
        if !caller.may(needed) {
            return Err(ApiError::RoleMissing { needed });
        }
        if self.draining.is_cancelled() {
            return Err(ApiError::Draining);
        }
        Ok(caller.clone())
    }

    /// What a request is held against.
    pub(super) fn limits(&self, caller: &Caller) -> Limits<'_> {
        Limits {
            settings: &self.settings,
            publisher: self.publisher.as_ref(),
            highest_priority: caller.highest_priority,
            now: self.clock.now(),
            drawn_seed: drawn_seed(&self.identifiers),
        }
    }

    /// An operation by its name; another principal's is not there.
    pub(super) async fn visible_job(&self, caller: &Caller, name: &str) -> ApiResult<JobSummary> {
        let found = self.store.get(operation_id(name)?).await?;
        found
            .filter(|job| caller.sees().is_none_or(|principal| *principal == job.principal))
            .ok_or_else(|| ApiError::OperationNotFound { name: name.to_owned() })
    }

    /// Makes sure that a model is there for this caller: the device asks no more who wants it.
    pub(super) async fn check_model(&self, caller: &Caller, name: &str) -> ApiResult<()> {
        let found = self.catalogue.get(name, caller.sees()).await?;
        found.map(|_| ()).ok_or_else(|| ApiError::ModelNotFound { name: name.to_owned() })
    }

    /// A model's own words, and the digest of its files.
    pub(super) async fn words(
        &self,
        caller: &Caller,
        name: &str,
    ) -> ApiResult<(Option<Vocabulary>, String)> {
        let entry = self.catalogue.ready(name, caller.sees()).await?;
        let digest = entry.digest.ok_or(ApiError::Internal("a ready model has no digest"))?;
        Ok((entry.vocabulary, digest))
    }
}

/// The trace that a request belongs to, as it is kept with a job.
pub(super) fn trace_parent<T>(request: &Request<T>) -> Option<String> {
    request.extensions().get::<TraceContext>().map(ToString::to_string)
}
