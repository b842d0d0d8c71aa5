//! Requests that a proper client would not send: odd methods and types, bytes that are no message,
//! and timeouts that the client does not keep itself.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic_types::StatusExt;

use super::*;

pub(super) const GET: &str = "/google.longrunning.Operations/GetOperation";
const WATCH: &str = "/keystep.v1.UnlearningService/WatchOperation";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECT_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// A client below gRPC.
pub(super) struct Raw(http2::SendRequest<Body>);

impl Raw {
    pub(super) async fn connect(server: &Running) -> Self {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(super) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Response<Incoming> {
        let uri = format!("http://localhost{path}");
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Body::new(Whole(Some(Bytes::from(body))));
        let sent = self.0.send_request(request.body(body).unwrap());
        tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap()
    }

    /// How a call with these bytes ends.
    pub(super) async fn call(
        &mut self,
        path: &str,
        more: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Status {
        let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers")];
        headers.extend(more);
        let response = self.send("POST", path, &headers, body).await;
        assert_eq!(response.status(), StatusCode::OK);
        let (parts, body) = response.into_parts();
        if let Some(status) = Status::from_header_map(&parts.headers) {
            return status;
        }
        let trailers = tokio::time::timeout(PATIENCE, trailers(body)).await.unwrap();
        Status::from_header_map(&trailers).unwrap()
    }
}

async fn trailers(mut body: Incoming) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    while let Some(frame) =
        std::future::poll_fn(|cx| http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx))
            .await
    {
        if let Ok(found) = frame.unwrap().into_trailers() {
            trailers = found;
        }
    }
    trailers
}

struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flag];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes
}

#[tokio::test]
async fn what_is_no_grpc_is_not_served_as_grpc() {
    let server = Running::open().await;
    let mut client = Raw::connect(&server).await;
    for path in [GET, CHECK, REFLECT, "/none"] {
        for (method, content_type, wanted) in [
            ("POST", "text/plain", 415),
            ("POST", "application/grpc-web+proto", 415),
            ("GET", "application/grpc", 405),
            ("PUT", "application/grpc", 405),
        ] {
            let headers = [("content-type", content_type), ("origin", "https://evil.example")];
            let answer = client.send(method, path, &headers, framed(0, b"")).await;
            assert_eq!(answer.status(), wanted, "{method} {content_type} {path}");
            assert!(answer.headers().get("grpc-status").is_none());
            assert!(answer.headers().get("x-request-id").is_some());
        }
        assert_eq!(client.send("POST", path, &[], framed(0, b"")).await.status(), 415);
    }
    let headers = [("content-type", "application/grpc+proto")];
    assert_eq!(client.send("POST", GET, &headers, framed(0, b"")).await.status(), 200);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_clients_fault_everywhere() {
    let server = Running::open().await;
    let mut client = Raw::connect(&server).await;
    let good = framed(0, b"");
    let bad = [
        vec![0xff; 5],
        framed(0, &[0xff; 5]),
        framed(3, b""),
        framed(1, b"no gzip"),
        vec![0, 0, 0],
        framed(0, b"\x0a\x05abc"),
    ];
    for path in [GET, WATCH, CHECK, HEALTH_WATCH, REFLECT, REFLECT_ALPHA] {
        for bytes in &bad {
            let status = client.call(path, &[], bytes.clone()).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{path} {bytes:?}: {status:?}");
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, "MALFORMED_REQUEST");
            server.notes.wait_for(path, Code::InvalidArgument).await;
        }
        if ![REFLECT, REFLECT_ALPHA].contains(&path) {
            for bytes in [Vec::new(), [good.clone(), good.clone()].concat()] {
                let status = client.call(path, &[], bytes).await;
                assert_eq!(status.code(), Code::InvalidArgument, "{path}: {status:?}");
            }
        }
    }
    let zipped = [("grpc-encoding", "gzip")];
    let status = client.call(CHECK, &zipped, framed(1, b"no gzip")).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let notes = server.notes.0.lock().unwrap();
    assert!(notes.iter().all(|(_, code)| ![Code::Internal, Code::Unknown].contains(code)));
}

#[tokio::test]
async fn strangers_who_fail_are_slowed_and_probes_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    std::fs::write(&path, "").unwrap();
    let authenticator = Authenticator::from_file(&path, Clock::System).await.unwrap();
    let server = Running::start(ServerSettings::default(), authenticator).await;
    let mut client = Raw::connect(&server).await;
    let mut codes = Vec::new();
    for _ in 0..100 {
        codes.push(client.call(CHECK, &[], vec![0xff; 5]).await.code());
        assert_eq!(client.call(CHECK, &[], framed(0, b"")).await.code(), Code::Ok);
    }
    assert_eq!(codes[0], Code::InvalidArgument);
    assert!(codes.iter().filter(|code| **code == Code::ResourceExhausted).count() > 20);
    let longer = framed(0, &[&[0x0a, 0x80, 0x40][..], &[b'a'; 8192]].concat());
    let status = client.call(CHECK, &[], longer).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
}

#[tokio::test]
async fn work_ends_at_the_deadline_where_the_client_reads_nothing() {
    let server = Running::open().await;
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    // Not a byte of any answer may be sent.
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://localhost{WATCH}"))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "50m")
        .body(Body::new(Whole(Some(framed(0, b"\x0a\x04wait").into()))))
        .unwrap();
    let _answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap();
    server.notes.wait_for(WATCH, Code::DeadlineExceeded).await;
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_whatever_it_does() {
    let server = Running::open().await;
    let mut client = Raw::connect(&server).await;
    let named = |name: &str| {
        let length = u8::try_from(name.len()).unwrap();
        framed(0, &[&[0x0a, length][..], name.as_bytes()].concat())
    };
    for (path, name) in [(GET, "slow"), (WATCH, "wait"), (HEALTH_WATCH, "")] {
        let message = if name.is_empty() { framed(0, b"") } else { named(name) };
        let status = client.call(path, &[("grpc-timeout", "50m")], message).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{path}: {status:?}");
        assert_eq!(status.get_details_error_info().unwrap().reason, "DEADLINE_EXCEEDED");
        server.notes.wait_for(path, Code::DeadlineExceeded).await;
    }
    for _ in 0..50 {
        let status = client.call(GET, &[("grpc-timeout", "1m")], named("slow")).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    }
    for malformed in ["5", "123456789S", "1s", "-1S", "+1S"] {
        let status = client.call(GET, &[("grpc-timeout", malformed)], named("a")).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{malformed}: {status:?}");
    }
    assert_eq!(client.call(GET, &[("grpc-timeout", "1H")], named("a")).await.code(), Code::Ok);
}
