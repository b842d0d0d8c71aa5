//! Files of prompts; the first byte says which kind, and what should become of them.

#![no_main]

use keystep::spec::{Expectation, read_suite};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let file = ["a.csv", "a.json", "a.txt", "a.tsv"][usize::from(kind % 4)];
    let expects = if *kind < 128 { Expectation::Gone } else { Expectation::Kept };
    if let Ok(suite) = read_suite(file, bytes, expects) {
        assert!(
            !suite.prompts.is_empty() && suite.prompts.len() <= keystep::spec::Suite::MAX_PROMPTS
        );
        suite.sha256().expect("what was read can be written");
    }
});
