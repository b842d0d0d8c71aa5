//! Serves `keystep.v1.UnlearningService`: checks the caller's role, then calls the file of each
//! method.

use std::sync::Arc;

use tonic::{Request, Response};

use super::{
    Answer, ApiError, ApiParts, ApiResult,
    authorization::trace_parent,
    convert::model,
    paging::{models_token, page_size, read_models_token},
    streaming::{self, Messages},
    submitting::JobRequest,
    violations::Violations,
    watching,
};
use crate::{
    auth::{Caller, Role},
    jobs::JobStore,
    proto::{
        google::longrunning::Operation,
        keystep::v1::{
            EvaluateErasureRequest, GenerateRequest, GenerateResponse, GetModelRequest,
            GetModelResponse, ListModelsRequest, ListModelsResponse, PublishResultRequest,
            ScoreTimestepsRequest, ScoreTimestepsResponse, UnlearnConceptRequest,
            WatchOperationRequest, WatchOperationResponse,
            unlearning_service_server::UnlearningService,
        },
    },
};

/// Serves `keystep.v1.UnlearningService`.
#[derive(Debug, Clone)]
pub struct UnlearningApi {
    parts: Arc<ApiParts>,
}

impl UnlearningApi {
    /// Over these parts.
    pub fn new(parts: Arc<ApiParts>) -> Self {
        Self { parts }
    }

    async fn models(
        &self,
        caller: &Caller,
        request: ListModelsRequest,
    ) -> ApiResult<ListModelsResponse> {
        let ListModelsRequest { page_size: size, page_token } = request;
        let mut found = Violations::default();
        let most = page_size(size, &mut found) as usize;
        let after = read_models_token(&page_token, &mut found);
        found.finish()?;
        let page = self.parts.catalogue.list(caller.sees(), after, most).await?;
        Ok(ListModelsResponse {
            models: page.models.into_iter().map(model).collect(),
            next_page_token: page.next.map(models_token).unwrap_or_default(),
        })
    }

    async fn model(
        &self,
        caller: &Caller,
        request: GetModelRequest,
    ) -> ApiResult<GetModelResponse> {
        let GetModelRequest { name } = request;
        let entry = self.parts.catalogue.get(&name, caller.sees()).await?;
        let entry = entry.ok_or(ApiError::ModelNotFound { name })?;
        Ok(GetModelResponse { model: Some(model(entry)) })
    }
}

#[tonic::async_trait]
impl UnlearningService for UnlearningApi {
    type ScoreTimestepsStream = Messages<ScoreTimestepsResponse>;
    type GenerateStream = Messages<GenerateResponse>;
    type WatchOperationStream = Messages<WatchOperationResponse>;

    async fn unlearn_concept(&self, request: Request<UnlearnConceptRequest>) -> Answer<Operation> {
        let caller = self.parts.admit(&request, Role::Submit)?;
        let trace = trace_parent(&request);
        let request = JobRequest::Unlearn(Box::new(request.into_inner()));
        let operation = self.parts.submit(&caller, trace, request).await?;
        Ok(Response::new(operation))
    }

    async fn evaluate_erasure(
        &self,
        request: Request<EvaluateErasureRequest>,
    ) -> Answer<Operation> {
        let caller = self.parts.admit(&request, Role::Submit)?;
        let trace = trace_parent(&request);
        let request = JobRequest::Evaluate(Box::new(request.into_inner()));
        let operation = self.parts.submit(&caller, trace, request).await?;
        Ok(Response::new(operation))
    }

    async fn score_timesteps(
        &self,
        request: Request<ScoreTimestepsRequest>,
    ) -> Answer<Self::ScoreTimestepsStream> {
        let caller = self.parts.admit(&request, Role::Generate)?;
        let messages = streaming::score(&self.parts, &caller, request.into_inner()).await?;
        Ok(Response::new(messages))
    }

    async fn generate(&self, request: Request<GenerateRequest>) -> Answer<Self::GenerateStream> {
        let caller = self.parts.admit(&request, Role::Generate)?;
        let messages = streaming::generate(&self.parts, &caller, request.into_inner()).await?;
        Ok(Response::new(messages))
    }

    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Answer<Self::WatchOperationStream> {
        let caller = self.parts.admit(&request, Role::Read)?;
        let messages = watching::watch(&self.parts, &caller, request.into_inner()).await?;
        Ok(Response::new(messages))
    }

    async fn publish_result(&self, request: Request<PublishResultRequest>) -> Answer<Operation> {
        let caller = self.parts.admit(&request, Role::Submit)?;
        let PublishResultRequest { name } = request.into_inner();
        let job = self.parts.visible_job(&caller, &name).await?;
        let job = self.parts.store.publish_again(job.id).await.map_err(ApiError::from)?;
        tracing::info!(operation = name, "a publication is asked for");
        Ok(Response::new(self.parts.shown(&job).await?))
    }

    async fn list_models(&self, request: Request<ListModelsRequest>) -> Answer<ListModelsResponse> {
        let caller = self.parts.admit(&request, Role::Read)?;
        Ok(Response::new(self.models(&caller, request.into_inner()).await?))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Answer<GetModelResponse> {
        let caller = self.parts.admit(&request, Role::Read)?;
        Ok(Response::new(self.model(&caller, request.into_inner()).await?))
    }
}
