//! The daemon's services without a listener: a store in memory, the built-in model, an engine that
//! only pretends to compute.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use keystep::{
    api::{ApiParts, ApiSettings, OperationsApi, UnlearningApi},
    auth::{Caller, Role},
    catalogue::{CacheSettings, Catalogue},
    device::{CallLimits, DeviceSettings},
    jobs::{Clock, Identifiers, MemoryStore, Principal, Store, StoreSettings},
    proto::{
        google::longrunning::operations_server::Operations,
        keystep::v1::unlearning_service_server::UnlearningService,
    },
    storage::{StorageSettings, Storages},
    worker::{
        Device,
        testing::{FakeScript, FakeSource, FolderPublisher},
    },
};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

/// So long a stream is listened to: some of them end with a job that nobody works on.
const LISTENED: Duration = Duration::from_millis(5);

/// The services, and what they need to live.
#[derive(Debug)]
pub struct Services {
    unlearning: UnlearningApi,
    operations: OperationsApi,
    caller: Caller,
    _device: Device,
    runtime: Runtime,
}

impl Services {
    /// Fresh ones, whose store is empty.
    ///
    /// # Panics
    ///
    /// Where the machine gives no more threads.
    #[expect(clippy::expect_used, clippy::new_without_default, reason = "there is no fuzzing then")]
    pub fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let store = Arc::new(Store::from(MemoryStore::new(StoreSettings::default())));
        let cache = CacheSettings { folder: PathBuf::from("unused"), max_bytes: 1 };
        let storages = Arc::new(Storages::new(StorageSettings::default()));
        let catalogue = Arc::new(Catalogue::new(Vec::new(), cache, storages, store.clone()));
        let source = FakeSource(FakeScript::new(4, Duration::ZERO));
        let handle = runtime.handle().clone();
        let device =
            Device::start(vec![source], DeviceSettings::default(), catalogue.clone(), handle);
        let device = device.expect("a device");
        let parts = Arc::new(ApiParts {
            store,
            catalogue,
            interactive_calls: device.interactive_calls(),
            publisher: Arc::new(FolderPublisher::default()),
            clock: Clock::System,
            identifiers: Identifiers::default(),
            settings: ApiSettings {
                outputs: vec!["s3://bucket/models".to_owned()],
                max_attempts: 3,
                queued_total: 10_000,
                queued_of_principal: 10_000,
                stored_bytes_of_principal: 16 << 20,
                prompt_characters: 1_000,
                images_per_call: 4,
                pixels_per_image: 64 * 64,
                calls: CallLimits::default(),
                log_prompts: false,
                judges: Vec::new(),
            },
            draining: CancellationToken::new(),
        });
        let caller = Caller {
            principal: Principal("fuzzer".to_owned()),
            roles: Role::ALL.iter().copied().collect(),
            queued_jobs: None,
            highest_priority: None,
        };
        Self {
            unlearning: UnlearningApi::new(parts.clone()),
            operations: OperationsApi::new(parts),
            caller,
            _device: device,
            runtime,
        }
    }

    /// Makes the call of this number with these bytes for its message, and reads what comes back.
    ///
    /// # Panics
    ///
    /// Where the answer is one that no request may cause.
    pub fn call(&self, number: u8, bytes: &[u8]) {
        let (unlearning, operations) = (&self.unlearning, &self.operations);
        self.runtime.block_on(async {
            match number % 12 {
                0 => answered(self.with(bytes, |r| unlearning.unlearn_concept(r)).await),
                1 => answered(self.with(bytes, |r| unlearning.evaluate_erasure(r)).await),
                2 => streamed(self.with(bytes, |r| unlearning.score_timesteps(r)).await).await,
                3 => streamed(self.with(bytes, |r| unlearning.generate(r)).await).await,
                4 => streamed(self.with(bytes, |r| unlearning.watch_operation(r)).await).await,
                5 => answered(self.with(bytes, |r| unlearning.publish_result(r)).await),
                6 => answered(self.with(bytes, |r| unlearning.list_models(r)).await),
                7 => answered(self.with(bytes, |r| unlearning.get_model(r)).await),
                8 => answered(self.with(bytes, |r| operations.list_operations(r)).await),
                9 => answered(self.with(bytes, |r| operations.get_operation(r)).await),
                10 => answered(self.with(bytes, |r| operations.cancel_operation(r)).await),
                _ => answered(self.with(bytes, |r| operations.delete_operation(r)).await),
            }
        });
    }

    /// The answer, or `None` where the bytes are no message.
    async fn with<M: Message + Default, T, F>(
        &self,
        bytes: &[u8],
        call: impl FnOnce(Request<M>) -> F,
    ) -> Option<Result<Response<T>, Status>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut request = Request::new(M::decode(bytes).ok()?);
        request.extensions_mut().insert(self.caller.clone());
        Some(call(request).await)
    }
}

fn answered<T>(answer: Option<Result<T, Status>>) {
    if let Some(Err(status)) = answer {
        blameless(&status);
    }
}

async fn streamed<T>(
    answer: Option<Result<Response<impl Stream<Item = Result<T, Status>> + Unpin>, Status>>,
) {
    let Some(Ok(response)) = answer else { return answered(answer) };
    let mut messages = response.into_inner();
    while let Ok(Some(message)) = tokio::time::timeout(LISTENED, messages.next()).await {
        if let Err(status) = message {
            return blameless(&status);
        }
    }
}

/// These codes say that the server is at fault.
fn blameless(status: &Status) {
    let ours = matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss);
    assert!(!ours, "a request made the server fail: {status}");
    assert!(!status.message().is_empty(), "a refusal without a word: {status:?}");
}
