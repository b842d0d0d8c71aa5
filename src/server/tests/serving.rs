//! Health and reflection.

use hyper_util::rt::TokioIo;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

use super::*;

async fn check(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await.unwrap();
    answer.into_inner().status()
}

async fn next(stream: &mut tonic::Streaming<HealthCheckResponse>) -> ServingStatus {
    tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap().status()
}

#[tokio::test]
async fn health_follows_readiness_over_a_pipe_and_ends_at_shutdown() {
    let settings = ServerSettings::default();
    let (ready, parts, ..) = parts(&settings, Authenticator::none());
    let (client_end, server_end) = tokio::io::duplex(64 << 10);
    let sockets = stream::iter([Socket::new(server_end, None)]).chain(stream::pending());
    let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
    let serving = serve_sockets(settings, parts, sockets, shutdown.clone(), abort);
    let task = tokio::spawn(serving);
    let mut client_end = Some(TokioIo::new(client_end));
    let connector = tower::service_fn(move |_| {
        let end = client_end.take();
        async move { end.ok_or_else(|| std::io::Error::other("one pipe alone")) }
    });
    let endpoint = Endpoint::from_static("http://pipe");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();

    for service in ["", "keystep.v1.UnlearningService", "google.longrunning.Operations"] {
        assert_eq!(check(&channel, service).await, ServingStatus::NotServing, "{service:?}");
    }
    let request = HealthCheckRequest { service: String::new() };
    let mut client = HealthClient::new(channel.clone());
    let mut stream = client.watch(request).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await, ServingStatus::NotServing);
    ready.send(true).unwrap();
    assert_eq!(next(&mut stream).await, ServingStatus::Serving);
    for service in ["", "keystep.v1.UnlearningService", "google.longrunning.Operations"] {
        assert_eq!(check(&channel, service).await, ServingStatus::Serving, "{service:?}");
    }
    ready.send(false).unwrap();
    assert_eq!(next(&mut stream).await, ServingStatus::NotServing);

    shutdown.cancel();
    let error = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.get_details_error_info().unwrap().reason, "DRAINING");
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_served_before_the_server_looks_around() {
    let (_ready, seen) = watch::channel(true);
    let board = HealthBoard::not_serving(seen).await;
    for service in ["", "keystep.v1.UnlearningService", "google.longrunning.Operations"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(board.service()).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::NotServing, "{service:?}");
    }
}

async fn reflect(channel: &Channel, asked: MessageRequest) -> Result<MessageResponse, Status> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(stream::iter([request])).await?;
    let answer = answers.into_inner().message().await?.unwrap();
    Ok(answer.message_response.unwrap())
}

#[tokio::test]
async fn reflection_shows_the_public_services() {
    let server = Running::open().await;
    let channel = server.channel().await;
    let listed = reflect(&channel, MessageRequest::ListServices(String::new())).await.unwrap();
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort();
    let wanted =
        ["google.longrunning.Operations", "grpc.health.v1.Health", "keystep.v1.UnlearningService"];
    assert_eq!(names, wanted);
    for symbol in wanted {
        let asked = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let found = reflect(&channel, asked).await.unwrap();
        assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {found:?}");
    }

    let settings = ServerSettings { reflection: false, ..ServerSettings::default() };
    let server = Running::start(settings, Authenticator::none()).await;
    let asked = MessageRequest::ListServices(String::new());
    let error = reflect(&server.channel().await, asked).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_probe_needs_no_token_but_reflection_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    std::fs::write(&path, "").unwrap();
    let authenticator = Authenticator::from_file(&path, Clock::System).await.unwrap();
    let server = Running::start(ServerSettings::default(), authenticator).await;
    let channel = server.channel().await;
    assert_eq!(check(&channel, "").await, ServingStatus::NotServing);
    let asked = MessageRequest::ListServices(String::new());
    assert_eq!(reflect(&channel, asked).await.unwrap_err().code(), Code::Unauthenticated);
}
