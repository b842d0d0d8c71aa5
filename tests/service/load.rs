//! Many clients at once, with a scripted engine: every call is answered, and every watch is whole.

#![allow(
    clippy::disallowed_methods,
    reason = "the clients are those of a measurement, which reads the clock"
)]
#![allow(unreachable_pub, reason = "a test has no public interface")]

#[path = "../../bench/daemon_load/clients.rs"]
mod clients;

use std::time::Duration;

use clients::Load;
use keystep::{
    config::Settings,
    daemon::{Daemon, DaemonParts},
    proto::keystep::v1::{
        ConceptKind, UnlearnConceptRequest, unlearning_service_client::UnlearningServiceClient,
    },
    worker::testing::{FakeScript, FakeSource},
};
use tokio::time::timeout;
use tonic::transport::Channel;
use uuid::Uuid;

const LONG: Duration = Duration::from_mins(2);
const CLIENTS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_poll_and_watch_without_an_error_or_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.server.listen = ([127, 0, 0, 1], 0).into();
    settings.server.data_dir = folder.path().to_owned();
    let script = FakeScript::new(300, Duration::from_millis(10));
    let daemon = Daemon::start(&settings, DaemonParts::new(FakeSource(script))).await.unwrap();
    let mut ready = daemon.ready();
    timeout(LONG, ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
    let address = format!("http://{}", daemon.address());
    let channel = Channel::from_shared(address.clone()).unwrap().connect().await.unwrap();
    let mut client = UnlearningServiceClient::new(channel);
    let request = UnlearnConceptRequest {
        request_id: Uuid::new_v4().to_string(),
        base_model: "emoji-canvas".to_owned(),
        concepts: vec!["cat".to_owned()],
        concept_kind: ConceptKind::ObjectClass.into(),
        evaluate: Some(false),
        ..UnlearnConceptRequest::default()
    };
    let operation = client.unlearn_concept(request).await.unwrap().into_inner().name;
    let load = Load {
        address,
        clients: u32::try_from(CLIENTS).unwrap(),
        poll_every: Duration::from_millis(200),
        operation,
    };
    let tally = timeout(LONG, clients::run(&load)).await.unwrap().unwrap();
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    assert_eq!(tally.watched.len(), CLIENTS);
    assert!(tally.watched.iter().all(|events| *events == tally.watched[0]), "{tally:?}");
    // Queued, preparing, running, publishing, succeeded, and progress between.
    assert!(tally.watched[0] > 5, "{tally:?}");
    assert!(tally.gets.len() >= CLIENTS && tally.lists.len() >= CLIENTS, "{tally:?}");
    timeout(LONG, daemon.stop()).await.unwrap();
}
