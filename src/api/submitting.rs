//! Requests that become jobs: checked whole, repeated without harm, answered from finished work.

use super::{
    ApiError, ApiParts,
    convert::{EvaluateDraft, RequestTerms, UnlearnDraft, operation, plan, validated},
    digests::{
        evaluate_request_digest, evaluate_work_digest, logged, unlearn_request_digest,
        unlearn_work_digest,
    },
    names::{operation_name, request_id},
};
use crate::{
    auth::Caller,
    catalogue::ModelOrigin,
    jobs::{
        Inserted, JobStore, JobSummary, NewJob, QueueLimits, RequestId, StateName, StoreError,
        StoredScores, UnlearnWork, Work,
    },
    proto::{
        google::longrunning::Operation,
        keystep::v1::{EvaluateErasureRequest, Plan, UnlearnConceptRequest},
    },
    spec::Field,
    worker::{InteractiveCall, InteractiveUpdate, check_words},
};

/// What is about to be stored.
struct Submission {
    terms: RequestTerms,
    request_digest: String,
    work_digest: String,
    work: Work,
}

impl ApiParts {
    pub(super) async fn submit_unlearn(
        &self,
        caller: &Caller,
        trace_parent: Option<String>,
        request: UnlearnConceptRequest,
    ) -> Result<Operation, ApiError> {
        let request_digest = unlearn_request_digest(&request);
        if !request.validate_only {
            let repeated = self.repeated(caller, &request.request_id, &request_digest).await?;
            if let Some(operation) = repeated {
                return Ok(operation);
            }
        }
        let mut draft = UnlearnDraft::read(request, self.limits(caller))?;
        draft.terms.options.trace_parent = trace_parent;
        let base = self.catalogue.ready(&draft.base_model, caller.sees()).await?;
        if base.origin != ModelOrigin::Base {
            let message = "is an erased model; name the base model that it was made of";
            return Err(ApiError::invalid(Field::BaseModel, message));
        }
        let cited = match &draft.score_digest {
            None => None,
            Some(digest) => self.cited_scores(caller, digest).await?,
        };
        let work = draft.complete(&base, cited.as_ref())?;
        let concepts = logged(draft.concepts(), self.settings.log_prompts);
        if draft.terms.validate_only {
            tracing::info!(model = draft.base_model, concepts, "an erasure is planned");
            return Ok(validated(Some(self.planned(caller, work).await?)));
        }
        let work_digest = unlearn_work_digest(&work, draft.seed_is_given)?;
        let work = Work::Unlearn(Box::new(work));
        check_words(self.catalogue.as_ref(), &work).await?;
        let submission = Submission { terms: draft.terms, request_digest, work_digest, work };
        self.submit(caller, submission, &concepts).await
    }

    pub(super) async fn submit_evaluate(
        &self,
        caller: &Caller,
        trace_parent: Option<String>,
        request: EvaluateErasureRequest,
    ) -> Result<Operation, ApiError> {
        let request_digest = evaluate_request_digest(&request);
        if !request.validate_only {
            let repeated = self.repeated(caller, &request.request_id, &request_digest).await?;
            if let Some(operation) = repeated {
                return Ok(operation);
            }
        }
        let mut draft = EvaluateDraft::read(request, self.limits(caller))?;
        draft.terms.options.trace_parent = trace_parent;
        let base = self.catalogue.ready(&draft.base_model, caller.sees()).await?;
        if base.origin != ModelOrigin::Base {
            let message = "is an erased model; name the base model that it was made of";
            return Err(ApiError::invalid(Field::BaseModel, message));
        }
        let edited = self.catalogue.ready(&draft.edited_model, caller.sees()).await?;
        let work = draft.complete(&base, &edited)?;
        let work_digest = evaluate_work_digest(&work, edited.digest.as_deref().unwrap_or(""))?;
        let work = Work::Evaluate(Box::new(work));
        check_words(self.catalogue.as_ref(), &work).await?;
        if draft.terms.validate_only {
            return Ok(validated(None));
        }
        let concepts = logged([draft.concept()], self.settings.log_prompts);
        let submission = Submission { terms: draft.terms, request_digest, work_digest, work };
        self.submit(caller, submission, &concepts).await
    }

    /// The operation that the same request made before. Asked first, so that a repeated request is
    /// answered alike however the world changed in between.
    async fn repeated(
        &self,
        caller: &Caller,
        id: &str,
        request_digest: &str,
    ) -> Result<Option<Operation>, ApiError> {
        // What is no id is told with the other violations.
        let Ok(Some(request_id)) = request_id(id) else { return Ok(None) };
        let Some(job) = self.store.find_request(&caller.principal, request_id).await? else {
            return Ok(None);
        };
        if job.request_digest != request_digest {
            return Err(StoreError::RequestIdReused { request_id, existing: job.id }.into());
        }
        self.shown(&job).await.map(Some)
    }

    async fn cited_scores(
        &self,
        caller: &Caller,
        digest: &str,
    ) -> Result<Option<StoredScores>, ApiError> {
        let kept = self.store.get_scores(&caller.principal, digest).await?;
        // Scores of another version that cannot be read are as good as none.
        Ok(kept.and_then(|json| serde_json::from_str(&json).ok()))
    }

    async fn planned(&self, caller: &Caller, work: UnlearnWork) -> Result<Plan, ApiError> {
        let call = InteractiveCall::Plan { base_model: work.base_model, spec: Box::new(work.spec) };
        let mut stream = self.direct.submit(&caller.principal, call)?;
        loop {
            let update = tokio::select! {
                () = self.draining.cancelled() => return Err(ApiError::Draining),
                update = stream.next() => update,
            };
            match update {
                Some(Ok(InteractiveUpdate::Plan(estimate))) => return Ok(plan(estimate)),
                Some(Ok(_)) => {}
                Some(Err(failure)) => return Err(failure.into()),
                None => return Err(ApiError::Internal("a plan was never made")),
            }
        }
    }

    async fn submit(
        &self,
        caller: &Caller,
        submission: Submission,
        concepts: &str,
    ) -> Result<Operation, ApiError> {
        let Submission { terms, request_digest, work_digest, work } = submission;
        let kind = work.kind();
        if !terms.force
            && let Some(job) = self.store.find_finished(&caller.principal, &work_digest).await?
        {
            let operation = operation_name(job.id);
            tracing::info!(operation, kind, concepts, "the same work was done before");
            return self.shown(&job).await;
        }
        let request_id = terms.request_id.unwrap_or_else(|| RequestId(self.identifiers.job().0));
        let new = NewJob {
            principal: caller.principal.clone(),
            request_id,
            request_digest,
            work_digest,
            work,
            options: terms.options,
            max_attempts: self.settings.max_attempts,
        };
        let of_principal = self.settings.queued_of_principal;
        let limits = QueueLimits {
            total: self.settings.queued_total,
            of_principal: caller.queued_jobs.map_or(of_principal, |jobs| jobs.min(of_principal)),
            stored_bytes: self.settings.stored_bytes_of_principal,
        };
        let (Inserted::Created(job) | Inserted::Existing(job)) =
            self.store.insert(new, limits).await?;
        tracing::info!(operation = operation_name(job.id), kind, concepts, "a job is stored");
        self.shown(&job).await
    }

    /// A job as its client sees it, with its place in the queue.
    pub(super) async fn shown(&self, job: &JobSummary) -> Result<Operation, ApiError> {
        let position = if job.state.name() == StateName::Queued {
            match self.store.queue_position(job.id).await {
                // Forgotten in between; it was there when it was asked for.
                Err(StoreError::NotFound(_)) => 0,
                position => position?,
            }
        } else {
            0
        };
        Ok(operation(job, position))
    }
}
