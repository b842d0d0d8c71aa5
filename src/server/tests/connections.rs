//! Limits on connections and messages, and shutdown.

use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use super::*;

async fn check(channel: &Channel) -> Result<(), Status> {
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel.clone()).check(request).await.map(|_| ())
}

#[tokio::test]
async fn a_long_message_is_refused_and_a_short_one_is_not() {
    let settings = ServerSettings { max_message_bytes: 1024, ..ServerSettings::default() };
    let server = Running::start(settings, Authenticator::none()).await;
    let channel = server.channel().await;
    get(&channel, asking(&"a".repeat(1000), &[])).await.unwrap();
    let error = get(&channel, asking(&"a".repeat(2000), &[])).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    let info = error.get_details_error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.metadata["limit"].as_str()),
        ("REQUEST_TOO_LONG", "1024")
    );
}

/// A connection that greets, and answers pings as long as it is held.
async fn held(server: &Running) -> hyper::client::conn::http2::SendRequest<tonic::body::Body> {
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn those_who_only_hold_connections_keep_nobody_out() {
    let settings = ServerSettings {
        max_connections: 8,
        max_connections_of_address: 8,
        ..ServerSettings::default()
    };
    let server = Running::start(settings, Authenticator::none()).await;
    let caller = server.channel().await;
    let mut stream = watch(&caller).await;
    let mut holding = Vec::new();
    for _ in 0..40 {
        holding.push(held(&server).await);
        let other = server.channel().await;
        get(&other, asking("a", &[])).await.unwrap();
        check(&server.channel().await).await.unwrap();
    }
    // A connection with a call under way stays.
    server.release.notify_one();
    stream.message().await.unwrap().unwrap();
    get(&caller, asking("a", &[])).await.unwrap();
    let closed = async {
        while holding.iter().filter(|sender| sender.is_closed()).count() < 32 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

#[tokio::test]
async fn where_all_connections_are_in_use_health_still_answers() {
    let settings = ServerSettings { max_connections: 2, ..ServerSettings::default() };
    let server = Running::start(settings, Authenticator::none()).await;
    let callers = [server.channel().await, server.channel().await];
    let mut streams = [watch(&callers[0]).await, watch(&callers[1]).await];
    for _ in 0..20 {
        let third = server.channel().await;
        check(&third).await.unwrap();
        let error = get(&third, asking("a", &[])).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert_eq!(error.get_details_error_info().unwrap().reason, "CONNECTIONS_FULL");
    }
    // Calls over the connections that there are go on, and a free slot is taken again.
    get(&callers[0], asking("a", &[])).await.unwrap();
    server.release.notify_one();
    server.release.notify_one();
    let ended = async {
        let [first, second] = &mut streams;
        tokio::select! {
            message = first.message() => message,
            message = second.message() => message,
        }
    };
    ended.await.unwrap().unwrap();
    drop((streams, callers));
    let room = async {
        loop {
            let third = server.channel().await;
            if get(&third, asking("a", &[])).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, room).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_call_is_not() {
    let settings = ServerSettings {
        max_connection_idle: Duration::from_millis(50),
        ..ServerSettings::default()
    };
    let server = Running::start(settings, Authenticator::none()).await;
    let caller = server.channel().await;
    let mut stream = watch(&caller).await;
    let idle = held(&server).await;
    let closed = async {
        while !idle.is_closed() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    server.release.notify_one();
    stream.message().await.unwrap().unwrap();
    // The client makes a new connection by itself.
    get(&caller, asking("a", &[])).await.unwrap();
}

#[tokio::test]
async fn an_old_connection_ends_its_calls_and_takes_no_new_ones() {
    let settings = ServerSettings {
        max_connection_age: Duration::from_millis(50),
        ..ServerSettings::default()
    };
    let server = Running::start(settings, Authenticator::none()).await;
    let caller = server.channel().await;
    let mut stream = watch(&caller).await;
    let old = held(&server).await;
    let closed = async {
        while !old.is_closed() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    // It was opened before the other, so it is old too; its stream goes on. The client notices with
    // the first call that it needs a new connection.
    let again = async { while get(&caller, asking("a", &[])).await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    server.release.notify_one();
    stream.message().await.unwrap().unwrap();
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_connection_that_says_nothing_gives_its_slot_back() {
    let handshake_timeout = Duration::from_millis(50);
    let settings = ServerSettings { handshake_timeout, ..ServerSettings::default() };
    let server = Running::start(settings, Authenticator::none()).await;
    let channel = server.channel().await;
    let mut silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    silent.write_all(b"PRI * HTTP").await.unwrap();
    let mut bytes = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut bytes)).await;
    assert!(closed.is_ok(), "still open");
    get(&channel, asking("a", &[])).await.unwrap();
}

#[tokio::test]
async fn shutdown_waits_for_an_open_stream_and_lets_nobody_new_in() {
    let server = Running::open().await;
    let channel = server.channel().await;
    let mut stream = watch(&channel).await;
    server.shutdown.cancel();
    let refused = async {
        while tokio::net::TcpStream::connect(server.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(!server.task.is_finished());
    server.release.notify_one();
    stream.message().await.unwrap().unwrap();
    assert!(stream.message().await.unwrap().is_none());
    server.ended().await;
}

#[tokio::test]
async fn abort_waits_for_nobody() {
    let server = Running::open().await;
    let channel = server.channel().await;
    let mut stream = watch(&channel).await;
    server.shutdown.cancel();
    server.abort.cancel();
    let cut = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap();
    cut.unwrap_err();
    let notes = Arc::clone(&server.notes);
    server.ended().await;
    notes.wait_for("/keystep.v1.UnlearningService/WatchOperation", Code::Cancelled).await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let server = Running::open().await;
    let settings = ServerSettings { listen: server.address, ..ServerSettings::default() };
    let (_ready, parts, ..) = parts(&settings, Authenticator::none());
    let error = Server::bind(settings, parts).await.unwrap_err();
    assert!(error.to_string().contains(&server.address.to_string()), "{error}");
}
