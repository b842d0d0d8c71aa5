//! Submits jobs: checks a request whole, answers a repeated request with the job that it made, and
//! equal work with the job that did it.

use super::{
    ApiError, ApiParts, ApiResult,
    convert::{EvaluateDraft, RequestTerms, UnlearnDraft, operation, plan, validated},
    digests::{
        evaluate_request_digest, evaluate_work_digest, logged, unlearn_request_digest,
        unlearn_work_digest,
    },
    names::{operation_name, request_id},
};
use crate::{
    auth::Caller,
    catalogue::{ModelEntry, ModelOrigin},
    device::{InteractiveCall, InteractiveUpdate},
    jobs::{
        Inserted, JobStore, JobSummary, NewJob, QueueLimits, RequestId, StateName, StoreError,
        StoredScores, UnlearnWork, Work,
    },
    proto::{
        google::longrunning::Operation,
        keystep::v1::{EvaluateErasureRequest, Plan, UnlearnConceptRequest},
    },
    spec::Field,
    worker::check_words,
};

/// A request that becomes a job.
pub(super) enum JobRequest {
    Unlearn(Box<UnlearnConceptRequest>),
    Evaluate(Box<EvaluateErasureRequest>),
}

impl JobRequest {
    /// Its id, whether it is only to be checked, and the digest of its body.
    fn header(&self) -> (&str, bool, String) {
        match self {
            Self::Unlearn(it) => (&it.request_id, it.validate_only, unlearn_request_digest(it)),
            Self::Evaluate(it) => (&it.request_id, it.validate_only, evaluate_request_digest(it)),
        }
    }
}

/// What a request comes to, with all that its models and earlier scores bring.
struct Submission {
    terms: RequestTerms,
    work_digest: String,
    work: Work,
    /// For logs.
    concepts: String,
}

impl ApiParts {
    pub(super) async fn submit(
        &self,
        caller: &Caller,
        trace_parent: Option<String>,
        request: JobRequest,
    ) -> ApiResult<Operation> {
        let (request_id, validate_only, request_digest) = request.header();
        if !validate_only
            && let Some(job) = self.repeated(caller, request_id, &request_digest).await?
        {
            return Ok(job);
        }
        let mut submission = match request {
            JobRequest::Unlearn(request) => self.unlearning(caller, *request).await?,
            JobRequest::Evaluate(request) => self.evaluation(caller, *request).await?,
        };
        if submission.terms.validate_only
            && let Work::Unlearn(work) = submission.work
        {
            let (model, concepts) = (&work.base_model, submission.concepts);
            tracing::info!(model, concepts, "an erasure is planned");
            return Ok(validated(Some(self.planned(caller, *work).await?)));
        }
        check_words(self.catalogue.as_ref(), &submission.work).await?;
        if submission.terms.validate_only {
            return Ok(validated(None));
        }
        submission.terms.options.trace_parent = trace_parent;
        self.store(caller, submission, request_digest).await
    }

    async fn unlearning(
        &self,
        caller: &Caller,
        request: UnlearnConceptRequest,
    ) -> ApiResult<Submission> {
        let draft = UnlearnDraft::read(request, self.limits(caller))?;
        let base = self.base_model(caller, &draft.base_model).await?;
        let cited = match &draft.score_digest {
            None => None,
            Some(digest) => self.cited_scores(caller, digest).await?,
        };
        let work = draft.complete(&base, cited.as_ref())?;
        Ok(Submission {
            concepts: logged(draft.concepts(), self.settings.log_prompts),
            terms: draft.terms,
            work_digest: unlearn_work_digest(&work, draft.seed_is_given)?,
            work: Work::Unlearn(Box::new(work)),
        })
    }

    async fn evaluation(
        &self,
        caller: &Caller,
        request: EvaluateErasureRequest,
    ) -> ApiResult<Submission> {
        let draft = EvaluateDraft::read(request, self.limits(caller))?;
        let base = self.base_model(caller, &draft.base_model).await?;
        let edited = self.catalogue.ready(&draft.edited_model, caller.sees()).await?;
        let work = draft.complete(&base, &edited)?;
        Ok(Submission {
            concepts: logged([draft.concept()], self.settings.log_prompts),
            terms: draft.terms,
            work_digest: evaluate_work_digest(&work, edited.digest.as_deref().unwrap_or(""))?,
            work: Work::Evaluate(Box::new(work)),
        })
    }

    /// A base model that is ready.
    async fn base_model(&self, caller: &Caller, name: &str) -> ApiResult<ModelEntry> {
        let base = self.catalogue.ready(name, caller.sees()).await?;
        if base.origin != ModelOrigin::Base {
            let message = "is an erased model; name the base model that it was made of";
            return Err(ApiError::invalid(Field::BaseModel, message));
        }
        Ok(base)
    }

    /// The operation that the same request made before. Asked first, so that a repeated request is
    /// answered alike however the world changed in between.
    async fn repeated(
        &self,
        caller: &Caller,
        id: &str,
        request_digest: &str,
    ) -> ApiResult<Option<Operation>> {
        // A malformed id is reported with the other violations.
        let Ok(Some(request_id)) = request_id(id) else { return Ok(None) };
        let Some(job) = self.store.find_request(&caller.principal, request_id).await? else {
            return Ok(None);
        };
        if job.request_digest != request_digest {
            return Err(StoreError::RequestIdReused { request_id, existing: job.id }.into());
        }
        self.shown(&job).await.map(Some)
    }

    async fn cited_scores(&self, caller: &Caller, digest: &str) -> ApiResult<Option<StoredScores>> {
        let kept = self.store.get_scores(&caller.principal, digest).await?;
        // Scores of another version that cannot be read are as good as none.
        Ok(kept.and_then(|json| serde_json::from_str(&json).ok()))
    }

    async fn planned(&self, caller: &Caller, work: UnlearnWork) -> ApiResult<Plan> {
        let call = InteractiveCall::Plan { base_model: work.base_model, spec: Box::new(work.spec) };
        let mut stream = self.interactive_calls.submit(&caller.principal, call)?;
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

    async fn store(
        &self,
        caller: &Caller,
        submission: Submission,
        request_digest: String,
    ) -> ApiResult<Operation> {
        let Submission { terms, work_digest, work, concepts } = submission;
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
    pub(super) async fn shown(&self, job: &JobSummary) -> ApiResult<Operation> {
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
