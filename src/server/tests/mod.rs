//! A client against the real server, over TCP or a pipe.

mod connections;
mod credentials;
mod encryption;
mod observed;
mod serving;
mod small_services;
mod wire;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    service::Routes,
    transport::{Channel, Endpoint},
};

use super::*;
use crate::{
    auth::{Authenticator, NewToken, Role, TokenGrant},
    jobs::Clock,
    proto::{
        google::longrunning::{
            GetOperationRequest, Operation, operations_client::OperationsClient,
            operations_server::OperationsServer,
        },
        keystep::v1::{
            WatchOperationRequest, WatchOperationResponse,
            unlearning_service_client::UnlearningServiceClient,
            unlearning_service_server::UnlearningServiceServer,
        },
    },
};
use small_services::{SmallOperations, SmallUnlearning};

/// Long enough for a machine that is busy; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// The calls that ended, with their codes.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<(String, Code)>>);

impl CallObserver for Notes {
    fn on_finished(&self, method: &str, code: Code, _duration: Duration) {
        self.0.lock().unwrap().push((method.to_owned(), code));
    }
}

impl Notes {
    async fn wait_for(&self, method: &str, code: Code) {
        let wanted = (method.to_owned(), code);
        let waiting = async {
            while !self.0.lock().unwrap().contains(&wanted) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "no {wanted:?} in {:?}", self.0.lock().unwrap());
    }
}

/// A server in this process.
struct Running {
    address: SocketAddr,
    notes: Arc<Notes>,
    /// Ends the stream of `WatchOperation`.
    release: Arc<Notify>,
    /// Notified when the call "slow" has begun.
    slow_begun: Arc<Notify>,
    reloader: Reloader,
    shutdown: CancellationToken,
    abort: CancellationToken,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    async fn start(settings: ServerSettings, authenticator: Authenticator) -> Self {
        let settings = ServerSettings { listen: "127.0.0.1:0".parse().unwrap(), ..settings };
        let (_, parts, notes, release, slow_begun) = parts(&settings, authenticator);
        let server = Server::bind(settings, parts).await.unwrap();
        let (address, reloader) = (server.local_addr(), server.reloader());
        let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(server.serve(shutdown.clone(), abort.clone()));
        Self { address, notes, release, slow_begun, reloader, shutdown, abort, task }
    }

    async fn open() -> Self {
        Self::start(ServerSettings::default(), Authenticator::none()).await
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    async fn channel(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn parts(
    settings: &ServerSettings,
    authenticator: Authenticator,
) -> (watch::Sender<bool>, ServerParts, Arc<Notes>, Arc<Notify>, Arc<Notify>) {
    let (ready, ready_seen) = watch::channel(false);
    let notes = Arc::new(Notes::default());
    let (release, slow_begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let unlearning = SmallUnlearning { release: Arc::clone(&release) };
    let services = Routes::new(
        OperationsServer::new(SmallOperations { slow_begun: Arc::clone(&slow_begun) })
            .max_decoding_message_size(settings.max_message_bytes),
    )
    .add_service(UnlearningServiceServer::new(unlearning));
    let parts = ServerParts {
        services,
        authenticator: Arc::new(authenticator),
        ready: ready_seen,
        observer: Arc::clone(&notes) as Arc<dyn CallObserver>,
    };
    (ready, parts, notes, release, slow_begun)
}

/// What the small service says to `name`, with all metadata.
async fn get(
    channel: &Channel,
    request: Request<&str>,
) -> Result<tonic::Response<Operation>, Status> {
    let request = request.map(|name| GetOperationRequest { name: name.to_owned() });
    OperationsClient::new(channel.clone()).get_operation(request).await
}

fn asking<'a>(name: &'a str, metadata: &[(&'static str, &str)]) -> Request<&'a str> {
    let mut request = Request::new(name);
    for (key, value) in metadata {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    request
}

/// Opens a stream that has given one message and waits.
async fn watch(channel: &Channel) -> tonic::Streaming<WatchOperationResponse> {
    let mut client = UnlearningServiceClient::new(channel.clone());
    let request = WatchOperationRequest { name: "wait".to_owned(), ..Default::default() };
    let mut stream = client.watch_operation(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    stream
}
