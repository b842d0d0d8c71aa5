//! The verbs that work in this process (`--local`), a file for each.

mod engine;
pub(super) mod evaluate;
pub(super) mod gate;
pub(super) mod generate;
mod resume;
mod saved_state;
pub(super) mod score;
mod sealing;
mod unlearn;

pub(super) use engine::{LocalEngine, LocalModel};

use super::{CliError, session::Session, unlearn::UnlearnArguments};

/// Runs `keystep unlearn --local`: the erasure, or with `--resume` the writing of one that was kept.
pub(super) fn erase_or_resume<E: LocalEngine>(
    arguments: &UnlearnArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    match &arguments.resume {
        Some(file) => resume::run::<E>(file, arguments, session),
        None => unlearn::run::<E>(arguments, session),
    }
}
