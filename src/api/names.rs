//! How operations and requests are named on the wire.

use uuid::Uuid;

use super::{ApiError, ApiResult};
use crate::{
    jobs::{JobId, RequestId},
    outcome::result_layout::CHECKPOINTS,
    spec::Field,
};

const COLLECTION: &str = "operations/";

/// `operations/UUID`.
pub(super) fn operation_name(id: JobId) -> String {
    format!("{COLLECTION}{id}")
}

/// The job that a name means.
pub(super) fn operation_id(name: &str) -> ApiResult<JobId> {
    let id: Option<JobId> = name.strip_prefix(COLLECTION).and_then(|id| id.parse().ok());
    // A UUID has several spellings, a name has one.
    id.filter(|id| operation_name(*id) == name).ok_or_else(|| {
        ApiError::invalid(
            Field::Name,
            "is no name of an operation; give operations/UUID in lower case",
        )
    })
}

/// The id that a client gave, if any.
pub(super) fn request_id(text: &str) -> Result<Option<RequestId>, uuid::Error> {
    if text.is_empty() { Ok(None) } else { Uuid::try_parse(text).map(RequestId).map(Some) }
}

/// As a client writes it.
pub(super) fn request_name(id: RequestId) -> String {
    id.0.hyphenated().to_string()
}

/// An erased model's name in the catalogue.
pub(super) fn checkpoint_name(id: JobId) -> String {
    format!("{CHECKPOINTS}/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_job() {
        let id = JobId(Uuid::from_u128(7));
        assert_eq!(operation_id(&operation_name(id)).unwrap(), id);
        for wrong in ["", "operations/", "operations/7", "00000000-0000-0000-0000-000000000007"] {
            assert!(operation_id(wrong).is_err(), "{wrong}");
        }
        assert!(operation_id("operations/0000000000000000000000000000000A").is_err());
    }
}
