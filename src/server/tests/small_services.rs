//! Services that do as little as can be seen.

use futures::StreamExt;
use tonic::{Response, codegen::BoxStream};

use super::*;
use crate::{
    api::{Answer, TraceContext},
    auth::Caller,
    proto::{
        google::longrunning::{
            CancelOperationRequest, DeleteOperationRequest, ListOperationsRequest,
            ListOperationsResponse, WaitOperationRequest, operations_server::Operations,
        },
        keystep::v1::{
            EvaluateErasureRequest, GenerateRequest, GenerateResponse, GetModelRequest,
            GetModelResponse, ListModelsRequest, ListModelsResponse, PublishResultRequest,
            ScoreTimestepsRequest, ScoreTimestepsResponse, UnlearnConceptRequest,
            unlearning_service_server::UnlearningService,
        },
    },
};

fn none<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this test"))
}

#[derive(Debug)]
pub(super) struct SmallOperations {
    /// Notified when the call "slow" has begun, which never ends by itself.
    pub(super) slow_begun: Arc<Notify>,
}

#[tonic::async_trait]
impl Operations for SmallOperations {
    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        match request.get_ref().name.as_str() {
            "panic" => panic!("planted"),
            "missing" => return Err(Status::not_found("no such operation")),
            "slow" => {
                self.slow_begun.notify_one();
                std::future::pending::<()>().await;
            }
            "submit" => {
                let caller = request.extensions().get::<Caller>().unwrap();
                if !caller.may(Role::Submit) {
                    return Err(Status::permission_denied("the role submit is needed"));
                }
            }
            _ => {}
        }
        assert!(request.metadata().get("authorization").is_none(), "a service sees the secret");
        let caller = request.extensions().get::<Caller>().unwrap();
        let name = request.extensions().get::<RequestName>().unwrap();
        let trace = request.extensions().get::<TraceContext>();
        let trace = trace.map_or(String::new(), |context| format!(" {:x}", context.trace));
        let name = format!("{} {}{trace}", caller.principal.0, name.0);
        Ok(Response::new(Operation { name, ..Default::default() }))
    }

    async fn list_operations(
        &self,
        _: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        none()
    }

    async fn delete_operation(&self, _: Request<DeleteOperationRequest>) -> Answer<()> {
        none()
    }

    async fn cancel_operation(&self, _: Request<CancelOperationRequest>) -> Answer<()> {
        none()
    }

    async fn wait_operation(&self, _: Request<WaitOperationRequest>) -> Answer<Operation> {
        none()
    }
}

#[derive(Debug)]
pub(super) struct SmallUnlearning {
    pub(super) release: Arc<Notify>,
}

#[tonic::async_trait]
impl UnlearningService for SmallUnlearning {
    type ScoreTimestepsStream = BoxStream<ScoreTimestepsResponse>;
    type GenerateStream = BoxStream<GenerateResponse>;
    type WatchOperationStream = BoxStream<WatchOperationResponse>;

    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Answer<Self::WatchOperationStream> {
        let first = stream::iter([Ok(WatchOperationResponse::default())]);
        let panics = request.get_ref().name == "panic";
        let release = Arc::clone(&self.release);
        let rest = stream::once(async move {
            // The transport sends what is ready in one piece; the first message is to arrive.
            tokio::task::yield_now().await;
            assert!(!panics, "planted");
            release.notified().await;
            Ok(WatchOperationResponse::default())
        });
        Ok(Response::new(first.chain(rest).boxed()))
    }

    async fn unlearn_concept(&self, _: Request<UnlearnConceptRequest>) -> Answer<Operation> {
        none()
    }

    async fn evaluate_erasure(&self, _: Request<EvaluateErasureRequest>) -> Answer<Operation> {
        none()
    }

    async fn score_timesteps(
        &self,
        _: Request<ScoreTimestepsRequest>,
    ) -> Answer<Self::ScoreTimestepsStream> {
        none()
    }

    async fn generate(&self, _: Request<GenerateRequest>) -> Answer<Self::GenerateStream> {
        none()
    }

    async fn publish_result(&self, _: Request<PublishResultRequest>) -> Answer<Operation> {
        none()
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Answer<ListModelsResponse> {
        none()
    }

    async fn get_model(&self, _: Request<GetModelRequest>) -> Answer<GetModelResponse> {
        none()
    }
}
