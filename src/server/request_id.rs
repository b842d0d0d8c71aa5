//! The name of one call, for the logs of both sides.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// Where it stands, in requests and in responses.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest that a client may choose.
const LONGEST: usize = 128;

/// The name of one call: the client's own if it is sane, or a new one. Stands in the extensions of
/// every request, and in the headers of every response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestName(pub String);

impl RequestName {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(HEADER).and_then(|value| value.to_str().ok());
        // What goes into a log must not be able to look like something else there.
        let sane = |name: &&str| {
            (1..=LONGEST).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        Self(given.filter(sane).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned))
    }

    pub(super) fn to_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}
