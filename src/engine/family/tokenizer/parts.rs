//! Vocabulary and merges, out of `tokenizer.json` or `vocab.json` and `merges.txt`.

use serde_json::{Value, json};

use super::folder::{Folder, refuse};
use crate::engine::EngineError;

/// What the BPE is made of.
pub(super) struct Parts {
    /// How messages name the file with the vocabulary.
    pub(super) file: String,
    /// Ids by token.
    pub(super) vocabulary: Value,
    /// Pairs of tokens.
    pub(super) merges: Value,
    /// `added_tokens` of `tokenizer.json`, as they stand there; null without that file.
    pub(super) added: Value,
}

impl Parts {
    pub(super) fn read(folder: &Folder) -> Result<Self, EngineError> {
        if let Some(mut whole) = folder.object("tokenizer.json")? {
            let file = folder.shown("tokenizer.json");
            let mut model = whole.get_mut("model").map_or(Value::Null, Value::take);
            let mut part = |name: &str| model.get_mut(name).map_or(Value::Null, Value::take);
            let (vocabulary, merges) = (part("vocab"), part("merges"));
            check_vocabulary(&vocabulary, &file)?;
            let merges = merge_pairs(&merges, &vocabulary, &file)?;
            let added = whole.get_mut("added_tokens").map_or(Value::Null, Value::take);
            return Ok(Self { file, vocabulary, merges, added });
        }
        let file = folder.shown("vocab.json");
        let vocabulary = Value::Object(folder.required_object("vocab.json")?);
        check_vocabulary(&vocabulary, &file)?;
        let merges = folder.required_text("merges.txt")?;
        let merges: Vec<&str> = merges
            .lines()
            .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
            .collect();
        let merges = merge_pairs(&json!(merges), &vocabulary, &folder.shown("merges.txt"))?;
        Ok(Self { file, vocabulary, merges, added: Value::Null })
    }
}

/// The ids must number the tokens without a gap, or an added token would take the id of another.
fn check_vocabulary(vocabulary: &Value, file: &str) -> Result<(), EngineError> {
    let entries = vocabulary
        .as_object()
        .filter(|entries| !entries.is_empty())
        .ok_or_else(|| refuse(file, "has no vocabulary, an object of token to id".to_owned()))?;
    let mut taken = vec![false; entries.len()];
    for (token, id) in entries {
        let slot = id
            .as_u64()
            .and_then(|id| usize::try_from(id).ok())
            .and_then(|id| taken.get_mut(id))
            .filter(|slot| !**slot);
        let Some(slot) = slot else {
            let message = format!(
                "the token {token:?} has id {id}; the ids must be 0 to {}, each once",
                entries.len() - 1
            );
            return Err(refuse(file, message));
        };
        *slot = true;
    }
    Ok(())
}

/// The merges as pairs of tokens; written as pairs or as one string with a space between.
///
/// Each must join two known tokens into a known one: the tokenizer library trusts a list of pairs
/// and would panic on a hostile one.
fn merge_pairs(merges: &Value, vocabulary: &Value, file: &str) -> Result<Value, EngineError> {
    let merges = merges
        .as_array()
        .ok_or_else(|| refuse(file, "has no merges, a list of token pairs".to_owned()))?;
    let known = |token: &str| vocabulary.get(token).is_some();
    let pair = |merge: &Value| -> Option<Value> {
        let (left, right) = match merge {
            Value::String(line) => line.split_once(' ')?,
            Value::Array(pair) if pair.len() == 2 => (pair[0].as_str()?, pair[1].as_str()?),
            _ => return None,
        };
        (known(left) && known(right) && known(&format!("{left}{right}")))
            .then(|| json!([left, right]))
    };
    let pairs: Result<Vec<Value>, EngineError> = merges
        .iter()
        .map(|merge| {
            pair(merge).ok_or_else(|| {
                let shown: String = merge.to_string().chars().take(60).collect();
                refuse(
                    file,
                    format!(
                        "the merge {shown} does not join two tokens of the vocabulary into a third"
                    ),
                )
            })
        })
        .collect();
    pairs.map(Value::Array)
}
