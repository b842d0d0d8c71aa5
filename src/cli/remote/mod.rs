//! The verbs that ask a server, a file for each.

#[cfg(feature = "server")]
mod client;
mod connection;
pub(super) mod evaluate;
mod evaluation;
mod fields;
pub(super) mod gate;
pub(super) mod generate;
mod interrupt;
pub(super) mod jobs;
mod json;
pub(super) mod models;
mod remote_error;
mod saving;
pub(super) mod score;
mod submit;
mod tables;
pub(super) mod unlearn;
mod watch;
pub(super) mod wire;

#[cfg(feature = "server")]
pub(super) use client::Client;
pub(super) use connection::{AddressArguments, ServerArguments};
pub(super) use fields::flag_and_path;
pub(super) use remote_error::RemoteError;
pub(super) use saving::save;
pub(super) use submit::SubmitArguments;

use std::{future::Future, io::Write};

/// Runs a verb's calls on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T, RemoteError>>) -> Result<T, RemoteError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RemoteError::Runtime)?
        .block_on(work)
}

/// Prints a result to stdout. A reader that has gone away, such as `head`, is no failure of ours.
pub(super) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}");
}
