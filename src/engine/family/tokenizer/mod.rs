//! From prompts to token ids: CLIP's byte-level BPE.

mod added;
mod folder;
mod parts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use self::{
    added::{Length, Specials, shown},
    folder::{Folder, refuse},
    parts::Parts,
};
use super::config::ClipTextConfig;
use crate::{engine::EngineError, spec::ModelFiles};

/// The limit of Stable Diffusion's text encoders, where no config names one.
const DEFAULT_LENGTH: usize = 77;

/// CLIP's tokenizer (transformers: `CLIPTokenizer`), byte-level, so that any text encodes.
///
/// As transformers 5 does, only vocabulary, merges and added tokens are taken from the files; the
/// rules around them (normalisation, splitting, end-of-word mark) are CLIP's own and never read, so
/// that `tokenizer.json` and `vocab.json` with `merges.txt` give the same ids.
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
    padding: u32,
    length: usize,
    vocabulary_size: usize,
    /// What of its files is read otherwise than it stands there, in words.
    repair: Option<String>,
    /// The tokens that stand for several, each with those that follow it.
    followers: BTreeMap<String, Vec<String>>,
}

impl ClipTokenizer {
    /// Reads a folder such as `tokenizer` of a pipeline: `tokenizer.json`, or `vocab.json` and
    /// `merges.txt`; beside them `tokenizer_config.json`, `special_tokens_map.json`, which overrules
    /// it as in transformers (Stable Diffusion 2.x names its padding `!` only there), and
    /// `added_tokens.json`. Texts may have 77 tokens where no file says how many.
    pub fn from_files(files: &dyn ModelFiles, folder: &str) -> Result<Self, EngineError> {
        let (tokenizer, length) = Self::read(&Folder { files, path: folder })?;
        Ok(Self { length: length.tokens().unwrap_or(DEFAULT_LENGTH), ..tokenizer })
    }

    /// The same for a text encoder, whose config `file` is: refuses a tokenizer that would give it an
    /// id or a position that it does not have. Where no file says how long a text may be, it may be
    /// as long as the encoder reads.
    pub fn for_encoder(
        files: &dyn ModelFiles,
        folder: &str,
        encoder: &ClipTextConfig,
        file: &str,
    ) -> Result<Self, EngineError> {
        let folder = Folder { files, path: folder };
        let (tokenizer, length) = Self::read(&folder)?;
        let positions = encoder.max_position_embeddings;
        let repair = match length {
            Length::Enormous(enormous) => Some(format!(
                "{}: model_max_length is {enormous:e}, which stands for no limit; {positions} is \
                 used, the max_position_embeddings of the text encoder ({file})",
                folder.shown("tokenizer_config.json"),
            )),
            Length::Absent | Length::Tokens(_) => None,
        };
        let length = length.tokens().unwrap_or(positions);
        if length > positions {
            let message = format!(
                "model_max_length is {length}, but max_position_embeddings of the text encoder \
                 ({file}) is {positions}; set model_max_length to {positions} or less"
            );
            return Err(refuse(&folder.shown("tokenizer_config.json"), message));
        }
        if tokenizer.vocabulary_size > encoder.vocab_size {
            let highest = tokenizer.vocabulary_size - 1;
            let token = tokenizer.tokenizer.id_to_token(highest as u32).unwrap_or_default();
            let message = format!(
                "vocab_size is {}, but the token {} of {} has the id {highest}; the parts do not \
                 belong together",
                encoder.vocab_size,
                shown(&token.into()),
                folder.shown("").trim_end_matches('/'),
            );
            return Err(refuse(file, message));
        }
        Ok(Self { length, repair, ..tokenizer })
    }

    /// What of its files is read otherwise than it stands there, in words.
    pub(in crate::engine) fn repair(&self) -> Option<&str> {
        self.repair.as_deref()
    }

    /// The tokenizer, and how long a text may be as its files say.
    fn read(folder: &Folder) -> Result<(Self, Length), EngineError> {
        let parts = Parts::read(folder)?;
        let specials = Specials::read(folder, &parts.added)?;

        let unknown = specials.named("unk_token").content;
        if parts.vocabulary.get(&unknown).is_none() {
            let message = format!("lacks the unk_token {unknown:?} in its vocabulary");
            return Err(refuse(&parts.file, message));
        }
        let model = json!({
            "type": "BPE",
            "unk_token": unknown,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "vocab": parts.vocabulary,
            "merges": parts.merges,
        });
        let whole = rules_of_clip(&model).to_string();
        let mut tokenizer = Tokenizer::from_bytes(whole)
            .map_err(|error| refuse(&parts.file, format!("is no BPE vocabulary: {error}")))?;
        add_tokens(&mut tokenizer, &parts, &specials)?;
        tokenizer.set_encode_special_tokens(specials.split);

        let id = |role: &str| {
            let content = specials.named(role).content;
            tokenizer.token_to_id(&content).ok_or_else(|| {
                refuse(&parts.file, format!("lacks the {role} {content:?} in its vocabulary"))
            })
        };
        let (begin, end, padding) = (id("bos_token")?, id("eos_token")?, id("pad_token")?);
        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        let read = Self {
            begin,
            end,
            padding,
            length: DEFAULT_LENGTH,
            vocabulary_size: highest as usize + 1,
            repair: None,
            followers: followers(&tokenizer),
            tokenizer,
        };
        Ok((read, specials.length))
    }

    /// The ids of a text between begin and end, padded to [`ClipTokenizer::length`]
    /// (`tokenizer(text, padding="max_length")`). A longer text is refused, where diffusers would
    /// silently cut it.
    ///
    /// A token that has others numbered after it (`<cat>`, `<cat>_1`, …: an embedding of several
    /// vectors) stands for them all (diffusers: `maybe_convert_prompt`).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let whole = self.with_followers(text)?;
        let encoding = self
            .tokenizer
            .encode_fast(whole.as_deref().unwrap_or(text), false)
            .map_err(|error| unsplit(&error))?;
        let tokens = encoding.len() + 2;
        if tokens > self.length {
            return Err(EngineError::PromptTooLong { tokens, limit: self.length });
        }
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.begin);
        ids.extend_from_slice(encoding.get_ids());
        ids.push(self.end);
        ids.resize(self.length, self.padding);
        Ok(ids)
    }

    /// The text with every token's followers written out, where a token of it has any.
    fn with_followers(&self, text: &str) -> Result<Option<String>, EngineError> {
        if self.followers.is_empty() {
            return Ok(None);
        }
        let encoding = self.tokenizer.encode(text, false).map_err(|error| unsplit(&error))?;
        let mut whole: Option<String> = None;
        let mut done = Vec::new();
        for token in encoding.get_tokens() {
            let Some(followers) = self.followers.get(token).filter(|_| !done.contains(&token))
            else {
                continue;
            };
            done.push(token);
            let before = whole.as_deref().unwrap_or(text);
            // Each is a token at least; a hostile folder could have any number of them.
            let least = before.matches(token.as_str()).count() * (1 + followers.len()) + 2;
            if least > self.length {
                return Err(EngineError::PromptTooLong { tokens: least, limit: self.length });
            }
            whole = Some(before.replace(token, &format!("{token} {}", followers.join(" "))));
        }
        Ok(whole)
    }

    /// The ids of a text alone: without begin, end and padding.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let ids = self.encode(text)?;
        Ok(ids.into_iter().skip(1).take_while(|id| *id != self.end).collect())
    }

    /// The tokens that end a word and are English letters alone, with that text, by ascending id. Most
    /// are words of their own; [`ClipTokenizer::tokens`] says of each whether it is.
    pub fn words(&self) -> Vec<(u32, String)> {
        const END_OF_WORD: &str = "</w>";
        let vocabulary = self.tokenizer.get_vocab(false).into_iter();
        let mut words: Vec<(u32, String)> = vocabulary
            .filter_map(|(token, id)| Some((id, token.strip_suffix(END_OF_WORD)?.to_owned())))
            .filter(|(_, word)| {
                !word.is_empty() && word.bytes().all(|letter| letter.is_ascii_lowercase())
            })
            .collect();
        words.sort_unstable();
        words
    }

    /// The text that tokens stand for, special ones left out; what is no UTF-8 is replaced.
    ///
    /// Encoding it again may give other tokens: a token in the middle of a word can stand alone.
    pub fn decode(&self, ids: &[u32]) -> String {
        let special = [self.begin, self.end, self.padding];
        let mut bytes = Vec::new();
        for id in ids.iter().filter(|id| !special.contains(id)) {
            let token = self.tokenizer.id_to_token(*id).unwrap_or_default();
            let (word, ends) = match token.strip_suffix("</w>") {
                Some(word) => (word, true),
                None => (token.as_str(), false),
            };
            for letter in word.chars() {
                match byte_of(letter) {
                    Some(byte) => bytes.push(byte),
                    None => bytes.extend(letter.to_string().into_bytes()),
                }
            }
            if ends {
                bytes.push(b' ');
            }
        }
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    /// Ids of every encoded text (`model_max_length`): 77 in Stable Diffusion.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Rows that the text encoder's embedding needs: one above the highest id.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// The id after the last token of a text, whose hidden state CLIP pools.
    pub fn end(&self) -> u32 {
        self.end
    }
}

/// The byte that a letter of a byte-level vocabulary stands for (GPT-2: `bytes_to_unicode`): itself
/// where it can be printed, else one of those that cannot, in order from 256 on.
fn byte_of(letter: char) -> Option<u8> {
    let is_printed = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(letter);
    if let Ok(byte) = u8::try_from(code) {
        return is_printed(&byte).then_some(byte);
    }
    let place = usize::try_from(code - 256).ok()?;
    (0..=u8::MAX).filter(|byte| !is_printed(byte)).nth(place)
}

/// Everything of a `tokenizer.json` but vocabulary and added tokens, as `CLIPTokenizer.__init__`
/// sets it.
fn rules_of_clip(model: &Value) -> Value {
    const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "model": model,
    })
}

/// Makes whole tokens of the listed ones and of the special ones.
fn add_tokens(
    tokenizer: &mut Tokenizer,
    parts: &Parts,
    specials: &Specials,
) -> Result<(), EngineError> {
    tokenizer
        .add_tokens(specials.in_order())
        .map_err(|error| refuse(&parts.file, format!("cannot add its tokens: {error}")))?;
    for listed in &specials.listed {
        let found = tokenizer.token_to_id(&listed.token.content);
        if found != Some(listed.id) {
            let got = found.map_or("none".to_owned(), |id| id.to_string());
            let message = format!(
                "the added token {} should have the id {} and would get {got}; the ids must follow the vocabulary without a gap",
                shown(&listed.token.content.as_str().into()),
                listed.id,
            );
            return Err(refuse(&listed.file, message));
        }
    }
    Ok(())
}

/// Not reachable with a byte-level vocabulary that holds its unknown token.
fn unsplit(error: &tokenizers::Error) -> EngineError {
    refuse("tokenizer", format!("cannot encode the text: {error}"))
}

/// The added tokens that have others numbered after them, from 1 on without a gap.
fn followers(tokenizer: &Tokenizer) -> BTreeMap<String, Vec<String>> {
    let added = tokenizer.get_added_vocabulary().get_vocab();
    let of = |token: &String| {
        let numbered = (1..).map(|number: u32| format!("{token}_{number}"));
        let there: Vec<String> = numbered.take_while(|name| added.contains_key(name)).collect();
        (!there.is_empty()).then(|| (token.clone(), there))
    };
    added.keys().filter_map(of).collect()
}
