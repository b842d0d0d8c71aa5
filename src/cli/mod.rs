//! The command line: one file a verb. Reads arguments, files and the clock, wires the other modules
//! and shows what comes out; holds no algorithm.

mod arguments;
mod demo;
mod environment;
mod evaluate;
mod failure;
#[cfg(test)]
mod fake;
mod files;
mod generate;
mod interrupt;
mod local;
mod memory;
mod progress;
mod result_folder;
mod score;
mod session;
mod staging;
mod stopwatch;
mod unlearn;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::engine::CandleEngine;
use failure::CliError;
use session::Session;

/// Makes text-to-image diffusion models forget a concept.
///
/// Keystep finds the denoising steps that decide a concept, fine-tunes the model only there, and
/// measures what is forgotten and what is kept.
#[derive(Debug, Parser)]
#[command(
    name = "keystep",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Start with `keystep demo`: it needs no download, no server and no GPU.\n\n\
                  Exit codes: 0 fine, 1 the work failed, 2 wrong use, 130 interrupted.\n\
                  Progress and errors go to stderr, results to stdout."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Demo(demo::DemoArguments),
    Unlearn(unlearn::UnlearnArguments),
    Score(score::ScoreArguments),
    Generate(generate::GenerateArguments),
    Evaluate(evaluate::EvaluateArguments),
}

impl Verb {
    fn quiet(&self) -> bool {
        match self {
            Self::Demo(arguments) => arguments.quiet.quiet,
            Self::Unlearn(arguments) => arguments.quiet.quiet,
            Self::Score(arguments) => arguments.quiet.quiet,
            Self::Generate(arguments) => arguments.quiet.quiet,
            Self::Evaluate(arguments) => arguments.quiet.quiet,
        }
    }

    fn run(&self, session: &mut Session) -> Result<(), CliError> {
        match self {
            Self::Demo(arguments) => demo::run::<CandleEngine>(arguments, session),
            Self::Unlearn(arguments) => unlearn::run::<CandleEngine>(arguments, session),
            Self::Score(arguments) => score::run::<CandleEngine>(arguments, session),
            Self::Generate(arguments) => generate::run::<CandleEngine>(arguments, session),
            Self::Evaluate(arguments) => evaluate::run::<CandleEngine>(arguments, session),
        }
    }
}

/// Reads the command line, does what it says and gives the exit code.
pub fn run() -> ExitCode {
    // Wrong use ends here, with clap's own message and code 2.
    let cli = Cli::parse();
    environment::settle();
    let outcome = interrupt::install()
        .and_then(|interrupt| cli.verb.run(&mut Session::new(cli.verb.quiet(), interrupt)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print();
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
