//! Pages of lists: sizes, and tokens that only this server reads.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{digests::digest, violations::Violations};
use crate::{catalogue::ModelCursor, jobs::JobId, spec::Field};

const USUAL_PAGE: u32 = 100;
const MOST_OF_A_PAGE: u32 = 1_000;

/// Where the next page of operations begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationsToken {
    before: JobId,
    /// Digest of the filter: a token belongs to one list.
    filter: String,
}

/// Where the next page of models begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ModelsToken {
    AfterBase(String),
    OlderThan(JobId),
}

/// How many entries a page holds; 0 takes the usual number, too many are cut.
pub(super) fn page_size(asked: i32, found: &mut Violations) -> u32 {
    match u32::try_from(asked) {
        Ok(0) => USUAL_PAGE,
        Ok(size) => size.min(MOST_OF_A_PAGE),
        Err(_) => {
            found.add(Field::PageSize, format!("{asked} is below 0; give 1 to {MOST_OF_A_PAGE}"));
            USUAL_PAGE
        }
    }
}

/// A token for the operations that are older.
pub(super) fn operations_token(before: JobId, filter: &str) -> String {
    write(&OperationsToken { before, filter: digest(filter.as_bytes()) })
}

/// Where a page of operations begins.
pub(super) fn read_operations_token(
    text: &str,
    filter: &str,
    found: &mut Violations,
) -> Option<JobId> {
    let token: OperationsToken = read(text, found)?;
    if token.filter != digest(filter.as_bytes()) {
        found.add(Field::PageToken, "belongs to a list with another filter; begin without a token");
        return None;
    }
    Some(token.before)
}

/// A token for the models that follow.
pub(super) fn models_token(next: ModelCursor) -> String {
    write(&match next {
        ModelCursor::AfterBase(name) => ModelsToken::AfterBase(name),
        ModelCursor::OlderThan(id) => ModelsToken::OlderThan(id),
    })
}

/// Where a page of models begins.
pub(super) fn read_models_token(text: &str, found: &mut Violations) -> Option<ModelCursor> {
    read(text, found).map(|token| match token {
        ModelsToken::AfterBase(name) => ModelCursor::AfterBase(name),
        ModelsToken::OlderThan(id) => ModelCursor::OlderThan(id),
    })
}

fn write(token: &impl Serialize) -> String {
    // Strings and identifiers always have a form in JSON.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(token).unwrap_or_default())
}

fn read<T: DeserializeOwned>(text: &str, found: &mut Violations) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if token.is_none() {
        found.add(Field::PageToken, "is no token of this list; begin without one");
    }
    token
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn tokens_come_back_and_others_are_refused() {
        let id = JobId(Uuid::from_u128(9));
        let mut found = Violations::default();
        let token = operations_token(id, "state = QUEUED");
        assert_eq!(read_operations_token(&token, "state = QUEUED", &mut found), Some(id));
        assert_eq!(read_operations_token("", "", &mut found), None);
        for cursor in [ModelCursor::AfterBase("sd14".to_owned()), ModelCursor::OlderThan(id)] {
            let token = models_token(cursor.clone());
            assert_eq!(read_models_token(&token, &mut found), Some(cursor));
        }
        assert!(found.finish().is_ok());
        for text in ["x", "é", "e30", &token[1..]] {
            let mut found = Violations::default();
            assert_eq!(read_models_token(text, &mut found), None);
            assert!(found.finish().is_err(), "{text}");
        }
        let mut found = Violations::default();
        assert_eq!(read_operations_token(&token, "", &mut found), None);
        assert!(found.finish().is_err());
    }

    #[test]
    fn sizes_are_held_within_bounds() {
        let mut found = Violations::default();
        assert_eq!([0, 1, 5_000].map(|size| page_size(size, &mut found)), [100, 1, 1_000]);
        assert!(found.finish().is_ok());
        let mut found = Violations::default();
        page_size(-1, &mut found);
        assert!(found.finish().is_err());
    }
}
