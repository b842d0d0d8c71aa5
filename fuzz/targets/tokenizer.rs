//! The files of a tokenizer, parted by bytes of 0 in the order of `FILES`, behind a text to encode.

#![no_main]

use keystep::engine::family::ClipTokenizer;
use keystep_fuzz::Folder;
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 6] = [
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/added_tokens.json",
    "tokenizer/tokenizer.json",
];

fuzz_target!(|input: &[u8]| {
    let mut parts = input.split(|byte| *byte == 0);
    let text = parts.next().unwrap_or_default();
    let files = FILES.into_iter().zip(parts).filter(|(_, bytes)| !bytes.is_empty());
    let Ok(tokenizer) = ClipTokenizer::from_files(&Folder::new(files), "tokenizer") else { return };
    if let Ok(ids) = tokenizer.encode(&String::from_utf8_lossy(text)) {
        assert_eq!(ids.len(), tokenizer.length());
    }
});
