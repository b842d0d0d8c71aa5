//! `keystep` as a process, from its arguments to its exit code, and processes that are killed.

mod cli;
mod client;
mod faults;
mod gate;
mod interop;
mod local_verbs;
mod rescue;
mod shutdown;
mod signing;
mod token;
