//! What of HTTP is gRPC, and what a client says of a call in its headers.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
    request::Parts,
};
use tonic::body::Body;

/// What the type of a request's content begins with.
const GRPC: &str = "application/grpc";

/// The answer to what is no gRPC; `None` where it is. A browser must not be able to make calls with
/// its user's certificate, and it sends this type to no other site without asking first.
pub(super) fn refusal(request: &Parts) -> Option<Response<Body>> {
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

/// A `grpc-timeout` that says nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MalformedTimeout;

/// How much time the client gives; `None` is without end. At most eight digits and a unit.
pub(super) fn time_given(headers: &HeaderMap) -> Result<Option<Duration>, MalformedTimeout> {
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

#[cfg(test)]
mod tests {
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
            assert!(refusal(&request(Method::POST, &[good])).is_none(), "{good}");
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
            let answer = refusal(&request(Method::POST, bad)).unwrap();
            assert_eq!(answer.status(), 415, "{bad:?}");
        }
        for method in [Method::GET, Method::PUT, Method::OPTIONS, Method::HEAD, Method::CONNECT] {
            let answer = refusal(&request(method, &["application/grpc"])).unwrap();
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
            time_given(&headers)
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
}
