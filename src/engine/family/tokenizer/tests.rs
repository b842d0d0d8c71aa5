//! Folders with tokens beside their vocabulary, held to the ids of transformers, and broken ones.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::*;
use crate::engine::checkpoint::testing::MemoryModel;

/// The built-in model's tokenizer with some files of a test's own.
#[derive(Debug)]
struct Changed(MemoryModel);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Changed {
    /// `added` are all tokens of `tokenizer.json`, which is there only where they are given.
    fn new(files: &Value, added: Option<&Value>) -> Self {
        let folder: PathBuf = root().join("assets/emoji-canvas/model/tokenizer");
        let mut all = BTreeMap::new();
        for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
            all.insert(name.to_owned(), fs::read(folder.join(name)).unwrap());
        }
        if let Some(added) = added {
            let whole = fs::read(folder.join("tokenizer.json")).unwrap();
            let mut whole: Value = serde_json::from_slice(&whole).unwrap();
            whole["added_tokens"] = added.clone();
            all.insert("tokenizer.json".to_owned(), whole.to_string().into_bytes());
        }
        for (name, value) in files.as_object().unwrap() {
            all.insert(name.clone(), value.to_string().into_bytes());
        }
        Self(MemoryModel::new(all))
    }

    fn tokenizer(&self) -> Result<ClipTokenizer, EngineError> {
        ClipTokenizer::from_files(&self.0, "")
    }

    fn refusal(&self) -> String {
        self.tokenizer().unwrap_err().to_string()
    }
}

#[test]
fn added_tokens_get_the_ids_of_transformers() {
    let json = fs::read(root().join("tests/golden/tokenizer/added.json")).unwrap();
    let golden: Value = serde_json::from_slice(&json).unwrap();
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let mut wrong = Vec::new();
    for (name, case) in golden["cases"].as_object().unwrap() {
        let tokenizer = Changed::new(&case["files"], case.get("added_tokens")).tokenizer();
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{name}: {error}"));
        if json!(tokenizer.vocabulary_size()) != case["size"] {
            wrong.push(format!("{name}: {} ids", tokenizer.vocabulary_size()));
        }
        for (text, want) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let got = tokenizer.encode(text).unwrap();
            if json!(got) != *want {
                wrong.push(format!("{name}: {text:?}\n  got  {got:?}\n  want {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn broken_lists_of_added_tokens_are_refused_by_file_and_token() {
    let (config, map, added) =
        ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json");
    let decoder = |decoder: Value| json!({ config: { "added_tokens_decoder": decoder } });
    let cases = [
        (json!({ added: [] }), [added, "JSON object"]),
        (json!({ added: { "<my-cat>": "875" } }), ["<my-cat>", "whole number"]),
        (json!({ added: { "<my-cat>": -1 } }), ["<my-cat>", "-1"]),
        (json!({ added: { "<my-cat>": 4_294_967_296_u64 } }), ["<my-cat>", "4294967296"]),
        (json!({ added: { "<my-cat>": 900 } }), ["<my-cat>", "without a gap"]),
        (json!({ added: { "<my-cat>": 3 } }), ["<my-cat>", "the id 3"]),
        (json!({ added: { "<a>": 875, "<b>": 875 } }), ["<b>", "\"<a>\""]),
        (json!({ added: { "": 875 } }), [added, "whole number"]),
        (decoder(json!([])), [config, "added_tokens_decoder is no object"]),
        (decoder(json!({ "875": 3 })), [config, "\"875\": 3"]),
        (decoder(json!({ "x": { "content": "y" } })), [config, "\"x\""]),
        (decoder(json!({ "875": {} })), [config, "\"875\""]),
        (json!({ config: { "additional_special_tokens": "<a>" } }), [config, "list of tokens"]),
        (
            json!({ config: { "extra_special_tokens": [3] } }),
            [config, "extra_special_tokens holds 3"],
        ),
        (json!({ map: { "additional_special_tokens": [{}] } }), [map, "holds {}"]),
        (json!({ config: { "model_max_length": 2 } }), [config, "model_max_length is 2"]),
        (json!({ config: { "model_max_length": "77" } }), [config, "model_max_length is \"77\""]),
    ];
    for (files, expected) in cases {
        let text = Changed::new(&files, None).refusal();
        assert!(text.starts_with("memory/"), "{text}");
        for part in expected {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    let added = json!([{ "id": 875 }]);
    let text = Changed::new(&json!({}), Some(&added)).refusal();
    assert!(text.contains("tokenizer.json: added_tokens holds {\"id\":875}"), "{text}");
    let long = "x".repeat(10_000);
    let text = Changed::new(&json!({ "added_tokens.json": { long: null } }), None).refusal();
    assert!(text.len() < 300, "{text}");
}

#[test]
fn hostile_added_tokens_do_not_panic() {
    // Alike once they are normalised; of white space alone; of one another.
    for tokens in [
        json!({ "<Cat>": 875, "<cat>": 876 }),
        json!({ " ": 875, "\n": 876, "\t ": 877 }),
        json!({ "a": 875, "a_1": 876, "a_1_1": 877, "aa": 878, "\u{301}": 879, "\u{0}": 880 }),
    ] {
        let strips = |(content, id): (&String, &Value)| json!({ "content": content, "id": id, "lstrip": true, "rstrip": true });
        let stripping: Vec<Value> = tokens.as_object().unwrap().iter().map(strips).collect();
        for changed in [
            Changed::new(&json!({ "added_tokens.json": tokens }), None),
            Changed::new(&json!({}), Some(&json!(stripping))),
        ] {
            let Ok(tokenizer) = changed.tokenizer() else { continue };
            for text in
                ["<cat> <CAT>", " \n\t  \u{85}", "aaa_1_1aa\u{301} a a_1\u{0}", "É a\u{301}"]
            {
                match tokenizer.encode(text) {
                    Ok(_) | Err(EngineError::PromptTooLong { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

#[test]
fn vectors_without_end_make_a_text_too_long() {
    let mut tokens = json!({ "<a>": 875 });
    for number in 1..2_000 {
        tokens[format!("<a>_{number}")] = json!(875 + number);
    }
    let tokenizer =
        Changed::new(&json!({ "added_tokens.json": tokens }), None).tokenizer().unwrap();
    match tokenizer.encode("<a> <a>") {
        Err(EngineError::PromptTooLong { tokens: 4_002, limit: 32 }) => {}
        other => panic!("{other:?}"),
    }
}

fn encoder(positions: usize, vocab_size: usize) -> ClipTextConfig {
    let json = json!({
        "model_type": "clip_text_model", "hidden_size": 8, "num_attention_heads": 2,
        "max_position_embeddings": positions, "vocab_size": vocab_size, "eos_token_id": 2,
    });
    ClipTextConfig::parse(&json.to_string(), "memory/config.json").unwrap()
}

#[test]
fn a_text_is_no_longer_than_its_encoder_reads() {
    let with = |length: Value| {
        let files = json!({ "tokenizer_config.json": { "model_max_length": length } });
        let files = Changed::new(&files, None);
        let read =
            ClipTokenizer::for_encoder(&files.0, "", &encoder(32, 875), "encoder/config.json");
        read.map(|tokenizer| tokenizer.length()).map_err(|error| error.to_string())
    };
    assert_eq!(with(json!(32)), Ok(32));
    assert_eq!(with(json!(20)), Ok(20));
    // What transformers writes where it knows no limit, and what says as much.
    let unlimited: Value = serde_json::from_str("1000000000000000019884624838656").unwrap();
    for none in [unlimited, json!(1e30), Value::Null] {
        assert_eq!(with(none), Ok(32));
    }
    for long in [33, 77, 100_000] {
        let text = with(json!(long)).unwrap_err();
        for part in [
            "memory/tokenizer_config.json: model_max_length is",
            &long.to_string(),
            "max_position_embeddings",
            "(encoder/config.json) is 32",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn the_highest_id_lies_within_the_encoders_vocabulary() {
    let read = |files: Value, vocab_size| {
        let files = Changed::new(&files, None);
        let config = encoder(32, vocab_size);
        ClipTokenizer::for_encoder(&files.0, "", &config, "encoder/config.json")
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let added = json!({ "added_tokens.json": { "<my-cat>": 875 } });
    assert_eq!(read(json!({}), 875), Ok(()));
    assert_eq!(read(added.clone(), 876), Ok(()));
    let text = read(added, 875).unwrap_err();
    let want = "encoder/config.json: vocab_size is 875, but the token \"<my-cat>\" of memory has the id 875";
    assert!(text.starts_with(want), "{text}");
}

#[test]
fn tokens_are_decoded_to_the_text_that_they_were_read_from() {
    let tokenizer = Changed::new(&json!({}), None).tokenizer().unwrap();
    for text in ["a cat in neon style", "an apple, pixel style", "caf\u{e9} \u{732b}!", ""] {
        let ids = tokenizer.encode(text).unwrap();
        let decoded = tokenizer.decode(&ids);
        assert_eq!(tokenizer.encode(&decoded).unwrap(), ids, "{text:?}: {decoded:?}");
    }
    assert_eq!(tokenizer.decode(&tokenizer.encode("a cat").unwrap()), "a cat");
    // Half of a letter is no text, and is no reason to fail.
    let half = tokenizer.encode("\u{732b}").unwrap()[1];
    assert!(!tokenizer.decode(&[half, u32::MAX]).is_empty());
}

#[test]
fn every_byte_has_its_letter() {
    let printed = (b'!'..=b'~').map(char::from);
    assert!(printed.into_iter().all(|letter| byte_of(letter) == u8::try_from(letter).ok()));
    assert_eq!((byte_of('\u{100}'), byte_of('\u{120}')), (Some(0), Some(b' ')));
    assert_eq!((byte_of(' '), byte_of('\u{143}'), byte_of('\u{144}')), (None, Some(0xad), None));
}
