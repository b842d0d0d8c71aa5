//! The filter of lists.

#![no_main]

use keystep::jobs::{Filter, ListQuery};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(filter) = text.parse::<Filter>() {
        filter.narrow(&mut ListQuery::default());
    }
});
