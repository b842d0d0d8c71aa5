//! From prompts to token ids: CLIP's byte-level BPE.

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

use crate::{
    engine::{EngineError, checkpoint::read_text},
    spec::{FileError, ModelFiles},
};

/// The limit of Stable Diffusion's text encoders, where no config names one.
const DEFAULT_LENGTH: usize = 77;
const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

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
}

impl ClipTokenizer {
    /// Reads a folder such as `tokenizer` of a pipeline: `tokenizer.json`, or `vocab.json` and
    /// `merges.txt`; beside them `tokenizer_config.json`, and `special_tokens_map.json`, which
    /// overrules it as in transformers (Stable Diffusion 2.x names its padding `!` only there).
    pub fn from_files(files: &dyn ModelFiles, folder: &str) -> Result<Self, EngineError> {
        let folder = Folder { files, path: folder };
        let parts = Parts::read(&folder)?;
        let specials = Specials::read(&folder)?;

        let unknown = specials.named("unk_token", END).content;
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

        let id = |name: &str, default: &str| {
            let content = specials.named(name, default).content;
            tokenizer.token_to_id(&content).ok_or_else(|| {
                refuse(&parts.file, format!("lacks the {name} {content:?} in its vocabulary"))
            })
        };
        let (begin, end) = (id("bos_token", BEGIN)?, id("eos_token", END)?);
        let padding = id("pad_token", END)?;
        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        Ok(Self {
            begin,
            end,
            padding,
            length: specials.length,
            vocabulary_size: highest as usize + 1,
            tokenizer,
        })
    }

    /// The ids of a text between begin and end, padded to [`ClipTokenizer::length`]
    /// (`tokenizer(text, padding="max_length")`). A longer text is refused, where diffusers would
    /// silently cut it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            // Not reachable with a byte-level vocabulary that holds its unknown token.
            .map_err(|error| refuse("tokenizer", format!("cannot encode the text: {error}")))?;
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

/// Makes whole tokens of the listed ones and of the named special ones, in the order of their ids.
fn add_tokens(
    tokenizer: &mut Tokenizer,
    parts: &Parts,
    specials: &Specials,
) -> Result<(), EngineError> {
    let mut listed: Vec<(u32, AddedToken)> =
        parts.added.iter().chain(&specials.added).cloned().collect();
    listed.sort_by_key(|(id, _)| *id);
    // A listed token keeps its own rules of matching. Of the others the last mention decides, as in
    // transformers.
    let listed_already =
        |token: &AddedToken| listed.iter().any(|(_, l)| l.content == token.content);
    let named = ["bos_token", "eos_token", "unk_token", "pad_token"]
        .map(|name| specials.named(name, if name == "bos_token" { BEGIN } else { END }));
    let named = named.into_iter().filter(|token| !listed_already(token));
    let tokens: Vec<AddedToken> =
        listed.iter().map(|(_, token)| token.clone()).chain(named).collect();
    tokenizer
        .add_tokens(tokens)
        .map_err(|error| refuse(&parts.file, format!("cannot add its tokens: {error}")))?;
    for (id, token) in &listed {
        let found = tokenizer.token_to_id(&token.content);
        if found != Some(*id) {
            let message = format!(
                "the added token {:?} should have id {id} and would get {found:?}; the ids must follow the vocabulary without a gap",
                token.content
            );
            return Err(refuse(&parts.file, message));
        }
    }
    Ok(())
}

/// What the BPE is made of.
struct Parts {
    /// How messages name the file with the vocabulary.
    file: String,
    vocabulary: Value,
    merges: Value,
    added: Vec<(u32, AddedToken)>,
}

impl Parts {
    fn read(folder: &Folder) -> Result<Self, EngineError> {
        if let Some(mut whole) = folder.object("tokenizer.json")? {
            let file = folder.shown("tokenizer.json");
            let mut model = whole.get_mut("model").map_or(Value::Null, Value::take);
            let mut part = |name: &str| model.get_mut(name).map_or(Value::Null, Value::take);
            let (vocabulary, merges) = (part("vocab"), part("merges"));
            check_vocabulary(&vocabulary, &file)?;
            let merges = merge_pairs(&merges, &vocabulary, &file)?;
            let mut added = Vec::new();
            for token in whole.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
                let id = token.get("id").and_then(Value::as_u64).and_then(|id| id.try_into().ok());
                let token = added_token(token, false);
                let pair = id.zip(token).ok_or_else(|| {
                    refuse(&file, "added_tokens holds an entry without id or content".to_owned())
                })?;
                added.push(pair);
            }
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
        Ok(Self { file, vocabulary, merges, added: Vec::new() })
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

/// What the configs say beside the vocabulary.
struct Specials {
    fields: Map<String, Value>,
    length: usize,
    added: Vec<(u32, AddedToken)>,
}

impl Specials {
    fn read(folder: &Folder) -> Result<Self, EngineError> {
        let file = folder.shown("tokenizer_config.json");
        let mut fields = folder.object("tokenizer_config.json")?.unwrap_or_default();
        // Transformers writes an enormous number where it knows no limit.
        let known = |length: &&Value| !length.is_null() && length.as_f64().is_none_or(|l| l < 1e9);
        let length = match fields.get("model_max_length").filter(known) {
            None => DEFAULT_LENGTH,
            Some(length) => length
                .as_u64()
                .filter(|length| (3..=4_096).contains(length))
                .map(|length| length as usize)
                .ok_or_else(|| {
                    let message =
                        format!("model_max_length is {length}; it must be from 3 to 4096");
                    refuse(&file, message)
                })?,
        };
        let mut added = Vec::new();
        match fields.get("added_tokens_decoder").and_then(Value::as_object) {
            Some(tokens) => {
                for (id, token) in tokens {
                    let pair = id.parse().ok().zip(added_token(token, false)).ok_or_else(|| {
                        refuse(&file, format!("added_tokens_decoder has a broken entry {id:?}"))
                    })?;
                    added.push(pair);
                }
            }
            None => fields.extend(folder.object("special_tokens_map.json")?.unwrap_or_default()),
        }
        Ok(Self { fields, length, added })
    }

    /// A special token by its role; text alone or an object with its matching rules.
    fn named(&self, role: &str, default: &str) -> AddedToken {
        self.fields
            .get(role)
            .and_then(|value| added_token(value, true))
            .unwrap_or_else(|| AddedToken::from(default, true))
    }
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

/// The folder that is read, with a guard on the size of every file.
struct Folder<'a> {
    files: &'a dyn ModelFiles,
    path: &'a str,
}

impl Folder<'_> {
    fn shown(&self, name: &str) -> String {
        format!("{}/{}", self.files.location(), self.name(name))
    }

    fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    fn text(&self, name: &str) -> Result<Option<String>, EngineError> {
        match read_text(self.files, &self.name(name)) {
            Err(EngineError::File(FileError::Missing { .. })) => Ok(None),
            read => read.map(Some),
        }
    }

    fn required_text(&self, name: &str) -> Result<String, EngineError> {
        self.text(name)?.ok_or_else(|| {
            FileError::Missing { location: self.files.location().to_owned(), name: self.name(name) }
                .into()
        })
    }

    fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, EngineError> {
        self.text(name)?.map(|text| self.parse(name, &text)).transpose()
    }

    fn required_object(&self, name: &str) -> Result<Map<String, Value>, EngineError> {
        let text = self.required_text(name)?;
        self.parse(name, &text)
    }

    fn parse(&self, name: &str, text: &str) -> Result<Map<String, Value>, EngineError> {
        serde_json::from_str(text)
            .map_err(|error| refuse(&self.shown(name), format!("is not a JSON object: {error}")))
    }
}

fn refuse(file: &str, message: String) -> EngineError {
    EngineError::Config { file: file.to_owned(), message }
}
