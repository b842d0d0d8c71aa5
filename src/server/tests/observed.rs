//! Request ids, traces, panics, and what the observer sees.

use super::*;

const GET: &str = "/google.longrunning.Operations/GetOperation";
const WATCH: &str = "/keystep.v1.UnlearningService/WatchOperation";

#[tokio::test]
async fn every_answer_names_its_call() {
    let server = Running::open().await;
    let channel = server.channel().await;
    let answer = get(&channel, asking("a", &[("x-request-id", "mine-1")])).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "mine-1");
    assert_eq!(answer.get_ref().name, "local mine-1");
    let long = "x".repeat(129);
    for insane in ["two words", long.as_str()] {
        let answer = get(&channel, asking("a", &[("x-request-id", insane)])).await.unwrap();
        let named = answer.metadata().get("x-request-id").unwrap().to_str().unwrap();
        uuid::Uuid::parse_str(named).unwrap();
        assert_eq!(answer.get_ref().name, format!("local {named}"));
    }
    let error = get(&channel, asking("missing", &[("x-request-id", "mine-2")])).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.metadata().get("x-request-id").unwrap(), "mine-2");

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let metadata = [("traceparent", trace), ("x-request-id", "mine-3")];
    let answer = get(&channel, asking("a", &metadata)).await.unwrap();
    assert_eq!(answer.get_ref().name, "local mine-3 af7651916cd43dd8448eb211c80319c");
}

#[tokio::test]
async fn a_panic_ends_its_call_alone() {
    let server = Running::open().await;
    let channel = server.channel().await;
    let mut stream = watch(&channel).await;
    let error = get(&channel, asking("panic", &[])).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(!error.message().contains("planted"), "{error}");
    server.notes.wait_for(GET, Code::Internal).await;

    let request = WatchOperationRequest { name: "panic".to_owned(), ..Default::default() };
    let mut client = UnlearningServiceClient::new(channel.clone());
    let mut broken = client.watch_operation(request).await.unwrap().into_inner();
    broken.message().await.unwrap().unwrap();
    assert_eq!(broken.message().await.unwrap_err().code(), Code::Internal);
    server.notes.wait_for(WATCH, Code::Internal).await;

    get(&channel, asking("a", &[])).await.unwrap();
    server.release.notify_one();
    stream.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn the_observer_sees_how_each_call_ended() {
    let server = Running::open().await;
    let channel = server.channel().await;
    get(&channel, asking("a", &[])).await.unwrap();
    server.notes.wait_for(GET, Code::Ok).await;
    get(&channel, asking("missing", &[])).await.unwrap_err();
    server.notes.wait_for(GET, Code::NotFound).await;

    let stream = watch(&channel).await;
    drop(stream);
    server.notes.wait_for(WATCH, Code::Cancelled).await;
    let mut stream = watch(&channel).await;
    server.release.notify_one();
    while stream.message().await.unwrap().is_some() {}
    server.notes.wait_for(WATCH, Code::Ok).await;

    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Operation, Operation>::default();
    let path = http::uri::PathAndQuery::from_static("/made.up/Name");
    client.unary(Request::new(Operation::default()), path, codec).await.unwrap_err();
    server.notes.wait_for("unknown", Code::Unimplemented).await;
}
