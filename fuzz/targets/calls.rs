//! Every call, whose number is the first byte and whose message are the others.

#![no_main]

use std::cell::RefCell;

use keystep_fuzz::Services;
use libfuzzer_sys::fuzz_target;

/// So many calls a store serves, before it is full of jobs.
const CALLS_A_STORE: usize = 5_000;

thread_local! {
    static SERVICES: RefCell<(usize, Services)> = RefCell::new((0, Services::new()));
}

fuzz_target!(|input: &[u8]| {
    let Some((number, message)) = input.split_first() else { return };
    SERVICES.with_borrow_mut(|(calls, services)| {
        if *calls == CALLS_A_STORE {
            (*calls, *services) = (0, Services::new());
        }
        *calls += 1;
        services.call(*number, message);
    });
});
