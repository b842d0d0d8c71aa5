//! A request's messages, held against gRPC's framing before a service reads them: what is wrong in
//! them is the client's fault, whoever reads it.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use prost::Message;
use tonic::{Status, body::Body};
use tonic_reflection::pb::v1::ServerReflectionRequest;

use super::status;

/// A message's flag and length.
const HEADER: usize = 5;

/// What a method's requests must keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestRules {
    /// The longest message.
    pub(super) most_bytes: usize,
    /// Whether there must be exactly one.
    pub(super) one_message: bool,
    /// Whether the headers name a compression.
    pub(super) compression: bool,
    /// Whether the messages are those of reflection, whose service ends without a word where it
    /// cannot read one.
    pub(super) reflection: bool,
}

/// What was wrong with a request. A service that reads a stream may pass over it.
pub(super) type Fault = Arc<OnceLock<Status>>;

/// A body whose framing is checked as it passes.
pub(super) struct RequestBody {
    inner: Body,
    rules: RequestRules,
    fault: Fault,
    header: Vec<u8>,
    /// Of the message under way.
    bytes_missing: usize,
    messages: u64,
    /// The message under way, where it is looked at.
    read: Option<BytesMut>,
    is_over: bool,
}

impl RequestBody {
    pub(super) fn new(inner: Body, rules: RequestRules, fault: Fault) -> Self {
        Self {
            inner,
            rules,
            fault,
            header: Vec::with_capacity(HEADER),
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
            let (header, rest) = bytes.split_at((HEADER - self.header.len()).min(bytes.len()));
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

    const RULES: RequestRules =
        RequestRules { most_bytes: 100, one_message: true, compression: true, reflection: false };

    /// What comes of the bytes, given in pieces of this size.
    fn pass(bytes: &[u8], piece: usize, rules: RequestRules) -> Result<Vec<u8>, Code> {
        let pieces: Vec<_> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        let pieces = stream::iter(pieces).map(|piece| Ok::<_, Status>(Frame::data(piece)));
        let body = Body::new(Pieces(pieces.boxed()));
        let fault = Fault::default();
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
