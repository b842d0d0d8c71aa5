//! Checks a request against gRPC's rules before a service reads it: its headers, and the framing of
//! its messages. A fault in either is the client's.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
    request::Parts,
};
use http_body::Frame;
use prost::Message;
use tonic::{Status, body::Body};
use tonic_reflection::pb::v1::ServerReflectionRequest;

use super::status;

/// The prefix of a gRPC request's content type.
const GRPC: &str = "application/grpc";

/// The answer to a request that is not gRPC; `None` where it is. A browser must not be able to call
/// with its user's certificate, and it sends this content type to no other site without a preflight.
pub(super) fn not_grpc(request: &Parts) -> Option<Response<Body>> {
    let status = if request.method != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !is_grpc(&request.headers) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    Some(response)
}

/// `application/grpc`, alone or with `+proto` or parameters; `application/grpc-web` is another
/// protocol.
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else { return false };
    let Some((start, rest)) = first.as_bytes().split_at_checked(GRPC.len()) else { return false };
    let rest = rest.trim_ascii_start();
    start.eq_ignore_ascii_case(GRPC.as_bytes()) && matches!(rest.first(), None | Some(b'+' | b';'))
}

/// A `grpc-timeout` that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MalformedTimeout;

/// The time that the client allows for the call, `None` where it sets no limit: `grpc-timeout` is at
/// most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, MalformedTimeout> {
    let mut values = headers.get_all("grpc-timeout").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let Some((unit, digits)) = value.as_bytes().split_last() else { return Err(MalformedTimeout) };
    let fits = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !fits || values.next().is_some() {
        return Err(MalformedTimeout);
    }
    // Eight digits of hours are far from the limit.
    let number = digits.iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(number * 60 * 60),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(MalformedTimeout),
    }))
}

/// Bytes of a message's flag and length.
const FRAME_HEADER: usize = 5;

/// The rules for a method's requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestRules {
    /// The longest message.
    pub(super) most_bytes: usize,
    /// Whether there must be exactly one.
    pub(super) one_message: bool,
    /// Whether the headers name a compression.
    pub(super) compression: bool,
    /// Whether the messages are those of reflection, whose service ends without a status where it
    /// cannot read one.
    pub(super) reflection: bool,
}

/// The first fault of a request, once it is found. A service that reads a stream may ignore it.
pub(super) type RequestFault = Arc<OnceLock<Status>>;

/// A body whose framing is checked as it passes.
pub(super) struct RequestBody {
    inner: Body,
    rules: RequestRules,
    fault: RequestFault,
    header: Vec<u8>,
    /// Of the message under way.
    bytes_missing: usize,
    messages: u64,
    /// The bytes of the message under way, where it is decoded.
    read: Option<BytesMut>,
    is_over: bool,
}

impl RequestBody {
    pub(super) fn new(inner: Body, rules: RequestRules, fault: RequestFault) -> Self {
        Self {
            inner,
            rules,
            fault,
            header: Vec::with_capacity(FRAME_HEADER),
            bytes_missing: 0,
            messages: 0,
            read: None,
            is_over: false,
        }
    }

    /// Follows the framing through the next bytes.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.bytes_missing > 0 {
                let (body, rest) = bytes.split_at(self.bytes_missing.min(bytes.len()));
                self.bytes_missing -= body.len();
                if let Some(read) = &mut self.read {
                    read.extend_from_slice(body);
                }
                bytes = rest;
                if self.bytes_missing == 0 {
                    self.message_ended()?;
                }
                continue;
            }
            if self.rules.one_message && self.messages > 0 {
                return Err(status::malformed("the method takes one message, and a second began"));
            }
            let (header, rest) =
                bytes.split_at((FRAME_HEADER - self.header.len()).min(bytes.len()));
            self.header.extend_from_slice(header);
            bytes = rest;
            if let &[flag, a, b, c, d] = self.header.as_slice() {
                self.header.clear();
                self.message_began(flag, u32::from_be_bytes([a, b, c, d]) as usize)?;
            }
        }
        Ok(())
    }

    fn message_began(&mut self, flag: u8, length: usize) -> Result<(), Status> {
        if flag > 1 {
            let message = format!("a message's flag is {flag}; 0 is plain, 1 compressed");
            return Err(status::malformed(&message));
        }
        if flag == 1 && !self.rules.compression {
            return Err(status::malformed(
                "a message is compressed, and grpc-encoding names nothing",
            ));
        }
        if length > self.rules.most_bytes {
            return Err(status::too_long(Some(length), self.rules.most_bytes));
        }
        self.bytes_missing = length;
        self.read = (self.rules.reflection && flag == 0).then(BytesMut::new);
        if length == 0 { self.message_ended() } else { Ok(()) }
    }

    fn message_ended(&mut self) -> Result<(), Status> {
        self.messages += 1;
        match self.read.take().map(|read| ServerReflectionRequest::decode(read.freeze())) {
            Some(Err(error)) => Err(status::malformed(&error.to_string())),
            _ => Ok(()),
        }
    }

    fn ended(&self) -> Result<(), Status> {
        if self.bytes_missing > 0 || !self.header.is_empty() {
            return Err(status::malformed("the request ends within a message"));
        }
        if self.rules.one_message && self.messages == 0 {
            return Err(status::malformed("the request has no message"));
        }
        Ok(())
    }

    fn refuse(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_over = true;
        let _ = self.fault.set(status.clone());
        Poll::Ready(Some(Err(status)))
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let body = &mut *self;
        if body.is_over {
            return Poll::Ready(None);
        }
        let checked = match ready!(Pin::new(&mut body.inner).poll_frame(cx)) {
            None => body.ended().map(|()| None),
            Some(Ok(frame)) => {
                let followed = match frame.data_ref() {
                    Some(bytes) => body.follow(bytes),
                    None => body.ended(),
                };
                followed.map(|()| Some(Ok(frame)))
            }
            // The client went away; that is no fault.
            Some(Err(error)) => Ok(Some(Err(error))),
        };
        match checked {
            Ok(frame) => Poll::Ready(frame),
            Err(status) => body.refuse(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use tonic::Code;

    use super::*;

    fn request(method: Method, types: &[&str]) -> Parts {
        let mut request = http::Request::builder().method(method);
        for one in types {
            request = request.header(CONTENT_TYPE, *one);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_posts_of_grpc_are_calls() {
        for good in ["application/grpc", "application/grpc+proto", "Application/gRPC ; x=y"] {
            assert!(not_grpc(&request(Method::POST, &[good])).is_none(), "{good}");
        }
        for bad in [
            &[][..],
            &["text/plain"],
            &["application/grpc-web"],
            &["application/grpc-web+proto"],
            &["application/grpcx"],
            &["application/json"],
            &["application/grp"],
            &["application/grpc", "text/plain"],
            &["text/plain", "application/grpc"],
        ] {
            let answer = not_grpc(&request(Method::POST, bad)).unwrap();
            assert_eq!(answer.status(), 415, "{bad:?}");
        }
        for method in [Method::GET, Method::PUT, Method::OPTIONS, Method::HEAD, Method::CONNECT] {
            let answer = not_grpc(&request(method, &["application/grpc"])).unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()[ALLOW]),
                (405, &"POST".parse().unwrap())
            );
        }
    }

    #[test]
    fn a_timeout_is_read_or_refused() {
        let given = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("grpc-timeout", HeaderValue::from_bytes(value).unwrap());
            }
            timeout(&headers)
        };
        assert_eq!(given(&[]), Ok(None));
        for (text, wanted) in [
            (&b"99999999H"[..], Duration::from_hours(99_999_999)),
            (b"2M", Duration::from_mins(2)),
            (b"3S", Duration::from_secs(3)),
            (b"0m", Duration::ZERO),
            (b"007u", Duration::from_micros(7)),
            (b"1n", Duration::from_nanos(1)),
        ] {
            assert_eq!(given(&[text]), Ok(Some(wanted)));
        }
        for bad in [
            &b""[..],
            b"S",
            b"5",
            b"123456789S",
            b"+5S",
            b"-5S",
            b"5s",
            b"5 S",
            b"1.5S",
            b"5\xff",
            b"5ms",
        ] {
            assert_eq!(given(&[bad]), Err(MalformedTimeout), "{bad:?}");
        }
        assert_eq!(given(&[b"5S", b"5S"]), Err(MalformedTimeout));
    }

    const RULES: RequestRules =
        RequestRules { most_bytes: 100, one_message: true, compression: true, reflection: false };

    /// What comes of the bytes, given in pieces of this size.
    fn pass(bytes: &[u8], piece: usize, rules: RequestRules) -> Result<Vec<u8>, Code> {
        let pieces: Vec<_> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        let pieces = stream::iter(pieces).map(|piece| Ok::<_, Status>(Frame::data(piece)));
        let body = Body::new(Pieces(pieces.boxed()));
        let fault = RequestFault::default();
        let mut body = RequestBody::new(body, rules, Arc::clone(&fault));
        let mut passed = Vec::new();
        let next = |body: &mut RequestBody| {
            let mut context = Context::from_waker(std::task::Waker::noop());
            http_body::Body::poll_frame(Pin::new(body), &mut context)
        };
        loop {
            match next(&mut body) {
                Poll::Ready(Some(Ok(frame))) => passed.extend(frame.into_data().unwrap()),
                Poll::Ready(Some(Err(status))) => {
                    assert_eq!(fault.get().unwrap().code(), status.code());
                    assert!(matches!(next(&mut body), Poll::Ready(None)));
                    return Err(status.code());
                }
                Poll::Ready(None) => return Ok(passed),
                Poll::Pending => panic!("it is all there"),
            }
        }
    }

    struct Pieces(stream::BoxStream<'static, Result<Frame<Bytes>, Status>>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_next_unpin(cx)
        }
    }

    fn message(flag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn what_is_no_message_is_refused_and_the_rest_passes_as_it_is() {
        let many = RequestRules { one_message: false, ..RULES };
        let reflection = RequestRules { reflection: true, ..many };
        let one = message(0, b"abc");
        let plain = RequestRules { compression: false, ..many };
        let two = [message(0, b"abc"), message(1, b"")].concat();
        let long = message(0, &[7; 101]);
        let cut = message(0, b"abc")[..7].to_vec();
        let invalid = Err(Code::InvalidArgument);
        let listed = ServerReflectionRequest { host: "a".to_owned(), message_request: None };
        let listed = message(0, &listed.encode_to_vec());
        for piece in [1, 3, 5, 64] {
            for rules in [RULES, many] {
                assert_eq!(pass(&one, piece, rules), Ok(one.clone()));
                assert_eq!(pass(&message(0, b""), piece, rules), Ok(message(0, b"")));
                assert_eq!(pass(&long, piece, rules), Err(Code::ResourceExhausted));
                for bad in [cut.clone(), vec![0xff; 5], vec![0, 0], message(2, b"abc")] {
                    assert_eq!(pass(&bad, piece, rules), invalid, "{bad:?}");
                }
            }
            assert_eq!(pass(&two, piece, RULES), invalid);
            assert_eq!(pass(&two, piece, many), Ok(two.clone()));
            assert_eq!(pass(&two, piece, plain), invalid);
            assert_eq!(pass(&listed, piece, reflection), Ok(listed.clone()));
            assert_eq!(pass(&message(0, &[0xff; 5]), piece, reflection), invalid);
        }
        assert_eq!(pass(b"", 1, RULES), invalid);
        assert_eq!(pass(b"", 1, many), Ok(Vec::new()));
    }
}
