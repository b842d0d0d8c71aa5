//! Digests by which equal requests, equal work and equal texts are recognised.

use prost::Message;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{ApiError, ApiResult};
use crate::{
    jobs::{EvaluateWork, Identifiers, UnlearnWork},
    proto::keystep::v1::{EvaluateErasureRequest, UnlearnConceptRequest},
};

/// SHA-256, hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Of the request's body: everything but its id and whether it is only asked for its plan.
pub(super) fn unlearn_request_digest(request: &UnlearnConceptRequest) -> String {
    let body = UnlearnConceptRequest {
        request_id: String::new(),
        validate_only: false,
        ..request.clone()
    };
    digest(&[b"unlearn ".as_slice(), &body.encode_to_vec()].concat())
}

/// The same of the other request.
pub(super) fn evaluate_request_digest(request: &EvaluateErasureRequest) -> String {
    let body = EvaluateErasureRequest {
        request_id: String::new(),
        validate_only: false,
        ..request.clone()
    };
    digest(&[b"evaluate ".as_slice(), &body.encode_to_vec()].concat())
}

#[derive(Serialize)]
struct Engine<W> {
    engine: &'static str,
    work: W,
}

fn work_digest(work: &impl Serialize) -> ApiResult<String> {
    let canonical = serde_json::to_vec(&Engine { engine: env!("CARGO_PKG_VERSION"), work })
        .map(|it| digest(&it));
    canonical.map_err(|_| ApiError::Internal("work has no form in JSON"))
}

/// Equal for equal erasures. A seed that the server picked is left out: a request that left it open takes
/// any result.
pub(super) fn unlearn_work_digest(work: &UnlearnWork, seed_is_given: bool) -> ApiResult<String> {
    let mut work = work.clone();
    if !seed_is_given {
        work.spec.seed = 0;
    }
    work_digest(&("unlearn", seed_is_given, work))
}

/// Equal for equal judgements.
pub(super) fn evaluate_work_digest(work: &EvaluateWork, edited_digest: &str) -> ApiResult<String> {
    work_digest(&("evaluate", edited_digest, work))
}

/// A seed for a request that leaves it open; short, so that people can give it again.
pub(super) fn drawn_seed(identifiers: &Identifiers) -> u64 {
    let drawn = Sha256::digest(identifiers.job().0.as_bytes());
    drawn.iter().take(4).fold(0, |seed, byte| (seed << 8) | u64::from(*byte))
}

/// Texts as logs may show them: digests, unless the operator allows more.
pub(super) fn logged<'a>(texts: impl IntoIterator<Item = &'a str>, openly: bool) -> String {
    let shown: Vec<String> = texts
        .into_iter()
        .map(|text| {
            let mut shown = if openly { format!("{text:?}") } else { digest(text.as_bytes()) };
            if !openly {
                shown.truncate(12);
            }
            shown
        })
        .collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_by_its_body_alone() {
        let request = UnlearnConceptRequest {
            concepts: vec!["cat".to_owned()],
            ..UnlearnConceptRequest::default()
        };
        let asked = |request_id: &str, validate_only| UnlearnConceptRequest {
            request_id: request_id.to_owned(),
            validate_only,
            ..request.clone()
        };
        let same = unlearn_request_digest(&request);
        assert_eq!(unlearn_request_digest(&asked("a", false)), same);
        assert_eq!(unlearn_request_digest(&asked("b", true)), same);
        let other = UnlearnConceptRequest { priority: 1, ..request };
        assert_ne!(unlearn_request_digest(&other), same);
    }

    #[test]
    fn logs_hold_no_text_unless_they_may() {
        assert_eq!(logged(["cat"], true), "\"cat\"");
        let hidden = logged(["cat", "dog"], false);
        assert_eq!(hidden.len(), 25);
        assert!(!hidden.contains("cat"));
    }
}
