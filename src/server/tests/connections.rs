//! Limits on connections and messages, and going away.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn a_long_message_is_refused_and_a_short_one_is_not() {
    let settings = ServerSettings { max_message_bytes: 1024, ..ServerSettings::default() };
    let server = Running::start(settings, Authenticator::none()).await;
    let channel = server.channel().await;
    get(&channel, asking(&"a".repeat(1000), &[])).await.unwrap();
    let error = get(&channel, asking(&"a".repeat(2000), &[])).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_closed_until_there_is_room() {
    let settings = ServerSettings { max_connections: 1, ..ServerSettings::default() };
    let server = Running::start(settings, Authenticator::none()).await;
    let first = server.channel().await;
    get(&first, asking("a", &[])).await.unwrap();
    let mut second = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, second.read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    get(&first, asking("a", &[])).await.unwrap();
    drop(first);
    let room = async {
        loop {
            if let Ok(third) = server.endpoint().connect().await
                && get(&third, asking("a", &[])).await.is_ok()
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, room).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_says_nothing_gives_its_place_back() {
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
