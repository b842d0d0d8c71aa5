//! Tokens added to the vocabulary: which there are, the order in which they get their ids, and how
//! each is found in a text.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::folder::{Folder, refuse};
use crate::engine::EngineError;

/// Around every prompt.
pub(super) const BEGIN: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";

const CONFIG: &str = "tokenizer_config.json";
const SPECIALS: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The roles that every tokenizer of transformers knows, in the order in which their tokens get ids
/// (`SPECIAL_TOKENS_ATTRIBUTES`).
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token whose id a file names.
pub(super) struct Listed {
    pub(super) id: u32,
    pub(super) token: AddedToken,
    /// How messages name that file.
    pub(super) file: String,
}

/// What the configs say beside the vocabulary.
pub(super) struct Specials {
    /// Those of `tokenizer_config.json`, overruled by `special_tokens_map.json`.
    fields: Map<String, Value>,
    /// Special tokens without a role.
    extra: Vec<AddedToken>,
    /// In the order of their ids.
    pub(super) listed: Vec<Listed>,
    /// `model_max_length`.
    pub(super) length: Length,
    /// Special tokens are split like any text (`split_special_tokens`).
    pub(super) split: bool,
}

impl Specials {
    /// As `PreTrainedTokenizerBase._from_pretrained`: where `tokenizer_config.json` has an
    /// `added_tokens_decoder`, it alone lists the added tokens; else `special_tokens_map.json`
    /// overrules its roles, and `added_tokens.json` and `tokenizer.json`, whose `added_tokens` are
    /// `whole`, list the tokens.
    pub(super) fn read(folder: &Folder, whole: &Value) -> Result<Self, EngineError> {
        let config = folder.object(CONFIG)?.unwrap_or_default();
        let file = folder.shown(CONFIG);
        let length = Length::of(&config, &file)?;
        let split = config.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false);
        let mut extra = extra_of_config(&config, &file)?;
        let mut listing = Listing::default();
        if let Some(decoder) = config.get("added_tokens_decoder").filter(|value| !value.is_null()) {
            listing.decoder(decoder, &file)?;
            let extra = extra.unwrap_or_default();
            let listed = listing.in_order();
            return Ok(Self { fields: config, extra, listed, length, split });
        }
        let map = folder.object(SPECIALS)?.unwrap_or_default();
        let map_file = folder.shown(SPECIALS);
        let more = tokens(map.get("extra_special_tokens"), "extra_special_tokens", &map_file)?;
        if !more.is_empty() {
            extra.get_or_insert_default().extend(more);
        }
        let late =
            tokens(map.get("additional_special_tokens"), "additional_special_tokens", &map_file)?;
        let mut fields = config;
        fields.extend(map);
        if let Some(added) = folder.object(ADDED)? {
            // Before those of the map's `additional_special_tokens`, which transformers takes for
            // ordinary tokens here.
            let special = contents(&fields, extra.as_deref().unwrap_or_default());
            listing.added(&added, &special, &folder.shown(ADDED))?;
        }
        listing.whole(whole, &folder.shown("tokenizer.json"))?;
        let extra = extra.unwrap_or(late);
        Ok(Self { fields, extra, listed: listing.in_order(), length, split })
    }

    /// A special token by its role; text alone or an object with its matching rules.
    pub(super) fn named(&self, role: &str) -> AddedToken {
        let default = if role == "bos_token" { BEGIN } else { END };
        token_of(&self.fields, role).unwrap_or_else(|| AddedToken::from(default, true))
    }

    /// All tokens in the order in which those that the vocabulary lacks get the next ids: the listed
    /// ones, those with a role, then the other special ones.
    ///
    /// A listed token keeps its own rules of matching. Of the others the last mention decides, as in
    /// transformers.
    pub(super) fn in_order(&self) -> Vec<AddedToken> {
        let needed = ["bos_token", "eos_token", "unk_token", "pad_token"];
        let with_role = ROLES.iter().filter_map(|role| {
            if needed.contains(role) {
                Some(self.named(role))
            } else {
                token_of(&self.fields, role)
            }
        });
        // Roles that a model makes up, such as `image_token`.
        let own = self.fields.keys().filter(|key| key.ends_with("_token"));
        let own = own.filter(|key| !ROLES.contains(&key.as_str()));
        let own = own.filter_map(|key| token_of(&self.fields, key));
        let named: Vec<AddedToken> = with_role.chain(own).collect();

        let roles: HashSet<&str> = named.iter().map(|token| token.content.as_str()).collect();
        let mut known: HashSet<&str> =
            self.listed.iter().map(|listed| listed.token.content.as_str()).collect();
        let listed = self.listed.iter().map(|listed| {
            let special = listed.token.special || roles.contains(listed.token.content.as_str());
            AddedToken { special, ..listed.token.clone() }
        });
        let mut all: Vec<AddedToken> = listed.collect();
        all.extend(named.iter().filter(|token| !known.contains(token.content.as_str())).cloned());
        known.extend(roles);
        for token in &self.extra {
            if known.insert(&token.content) {
                all.push(token.clone());
            }
        }
        all
    }
}

/// How long a text may be, by `model_max_length`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Length {
    /// The file does not say.
    Absent,
    /// Transformers writes an enormous number where it knows no limit.
    Enormous(f64),
    /// So many tokens.
    Tokens(usize),
}

impl Length {
    fn of(config: &Map<String, Value>, file: &str) -> Result<Self, EngineError> {
        let Some(length) = config.get("model_max_length").filter(|length| !length.is_null()) else {
            return Ok(Self::Absent);
        };
        if let Some(enormous) = length.as_f64().filter(|length| *length >= 1e9) {
            return Ok(Self::Enormous(enormous));
        }
        let whole = length.as_u64().and_then(|length| usize::try_from(length).ok());
        whole.filter(|length| *length >= 3).map(Self::Tokens).ok_or_else(|| {
            let message =
                format!("model_max_length is {length}; it must be a whole number from 3 on");
            refuse(file, message)
        })
    }

    pub(super) fn tokens(self) -> Option<usize> {
        match self {
            Self::Tokens(tokens) => Some(tokens),
            Self::Absent | Self::Enormous(_) => None,
        }
    }
}

/// The special tokens without a role in `tokenizer_config.json`, by their new name or by their old
/// one; `None` where it has neither.
fn extra_of_config(
    config: &Map<String, Value>,
    file: &str,
) -> Result<Option<Vec<AddedToken>>, EngineError> {
    let is_there = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        _ => true,
    };
    let (old, new) = ("additional_special_tokens", "extra_special_tokens");
    if !config.get(new).is_some_and(is_there) && config.contains_key(old) {
        return tokens(config.get(old), old, file).map(Some);
    }
    match config.get(new) {
        None | Some(Value::Null) => Ok(None),
        found => tokens(found, new, file).map(Some),
    }
}

/// A list of special tokens, or an object of them by roles of their own.
fn tokens(value: Option<&Value>, field: &str, file: &str) -> Result<Vec<AddedToken>, EngineError> {
    let entries: Vec<&Value> = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.iter().collect(),
        Some(Value::Object(by_role)) => by_role.values().collect(),
        Some(other) => {
            return Err(refuse(
                file,
                format!("{field} is {}; it must be a list of tokens", shown(other)),
            ));
        }
    };
    let token = |value: &Value| {
        // A bare word is special; an object says itself what it is.
        added_token(value, value.is_string()).ok_or_else(|| {
            refuse(file, format!("{field} holds {}, which is no token", shown(value)))
        })
    };
    entries.into_iter().map(token).collect()
}

/// What the tokens with a role and the other special ones are written like.
fn contents(fields: &Map<String, Value>, extra: &[AddedToken]) -> HashSet<String> {
    let named = ROLES.iter().filter_map(|role| token_of(fields, role));
    named.chain(extra.iter().cloned()).map(|token| token.content).collect()
}

/// Tokens by their ids, out of several files.
#[derive(Default)]
struct Listing(BTreeMap<u32, Listed>);

impl Listing {
    /// `added_tokens_decoder`: tokens by id.
    fn decoder(&mut self, decoder: &Value, file: &str) -> Result<(), EngineError> {
        let broken = |message: String| refuse(file, format!("added_tokens_decoder {message}"));
        let entries = decoder
            .as_object()
            .ok_or_else(|| broken("is no object of tokens by their ids".to_owned()))?;
        for (id, token) in entries {
            let pair = id.trim().parse().ok().zip(added_token(token, false));
            let (id, token) = pair.ok_or_else(|| {
                broken(format!(
                    "has a broken entry {}: {}",
                    shown(&id.clone().into()),
                    shown(token)
                ))
            })?;
            self.insert(Listed { id, token, file: file.to_owned() })?;
        }
        Ok(())
    }

    /// `added_tokens.json`: ids by token.
    fn added(
        &mut self,
        added: &Map<String, Value>,
        special: &HashSet<String>,
        file: &str,
    ) -> Result<(), EngineError> {
        for (content, id) in added {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = number.filter(|_| !content.is_empty()).ok_or_else(|| {
                let content = shown(&content.clone().into());
                refuse(
                    file,
                    format!(
                        "gives the token {content} the id {}; an id is a whole number",
                        shown(id)
                    ),
                )
            })?;
            let is_special = special.contains(content);
            let token = AddedToken::from(content.clone(), is_special).normalized(!is_special);
            self.insert(Listed { id, token, file: file.to_owned() })?;
        }
        Ok(())
    }

    /// `added_tokens` of `tokenizer.json`: tokens with their ids.
    fn whole(&mut self, added: &Value, file: &str) -> Result<(), EngineError> {
        for token in added.as_array().into_iter().flatten() {
            let id = token.get("id").and_then(Value::as_u64).and_then(|id| id.try_into().ok());
            let (id, token) = id.zip(added_token(token, false)).ok_or_else(|| {
                refuse(file, format!("added_tokens holds {}, without id or content", shown(token)))
            })?;
            self.insert(Listed { id, token, file: file.to_owned() })?;
        }
        Ok(())
    }

    /// The later file decides how a token is found; which token an id is, it may not change.
    fn insert(&mut self, listed: Listed) -> Result<(), EngineError> {
        if let Some(other) = self.0.get(&listed.id)
            && other.token.content != listed.token.content
        {
            let message = format!(
                "gives the id {} to the token {}, which {} gives to {}",
                listed.id,
                shown(&listed.token.content.as_str().into()),
                other.file,
                shown(&other.token.content.as_str().into()),
            );
            return Err(refuse(&listed.file, message));
        }
        self.0.insert(listed.id, listed);
        Ok(())
    }

    fn in_order(self) -> Vec<Listed> {
        self.0.into_values().collect()
    }
}

fn token_of(fields: &Map<String, Value>, role: &str) -> Option<AddedToken> {
    added_token(fields.get(role)?, true)
}

/// Reads an `AddedToken` as transformers writes it, `None` where it has no content.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = value.as_str().or_else(|| value.get("content")?.as_str())?;
    if content.is_empty() {
        return None;
    }
    let flag =
        |name: &str, default: bool| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    let special = special || flag("special", false);
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special)),
    )
}

/// A value of a file, as much of it as a message has room for.
pub(super) fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let whole = value.to_string();
    match whole.char_indices().nth(MOST) {
        None => whole,
        Some((end, _)) => format!("{}…", &whole[..end]),
    }
}
