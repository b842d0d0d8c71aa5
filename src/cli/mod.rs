//! The command line: one file a verb. Reads arguments, files and the clock, wires the other modules
//! and shows what comes out; holds no algorithm.

#[cfg(feature = "server")]
mod arguments;
#[cfg(feature = "server")]
mod demo;
#[cfg(feature = "server")]
mod environment;
#[cfg(feature = "server")]
mod evaluate;
mod failure;
#[cfg(all(test, feature = "server"))]
mod fake;
#[cfg(feature = "server")]
mod files;
#[cfg(feature = "server")]
mod generate;
#[cfg(feature = "server")]
mod interrupt;
#[cfg(feature = "server")]
mod local;
#[cfg(feature = "server")]
mod memory;
#[cfg(feature = "server")]
mod progress;
mod remote;
#[cfg(feature = "server")]
mod result_folder;
#[cfg(feature = "server")]
mod score;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod session;
#[cfg(feature = "server")]
mod staging;
#[cfg(feature = "server")]
mod stopwatch;
#[cfg(feature = "server")]
mod unlearn;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "server")]
use crate::engine::CandleEngine;
use failure::CliError;
#[cfg(feature = "server")]
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
                  Exit codes: 0 fine, 1 the work failed, 2 wrong use, 64 wrong configuration, \
                  69 the server is away, 77 not permitted, 130 interrupted.\n\
                  Progress and errors go to stderr, results to stdout."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[cfg(feature = "server")]
    Serve(serve::ServeArguments),
    #[cfg(feature = "server")]
    Demo(demo::DemoArguments),
    #[cfg(feature = "server")]
    Unlearn(unlearn::UnlearnArguments),
    #[cfg(feature = "server")]
    Score(score::ScoreArguments),
    #[cfg(feature = "server")]
    Generate(generate::GenerateArguments),
    #[cfg(feature = "server")]
    Evaluate(evaluate::EvaluateArguments),
    Jobs(remote::jobs::JobsArguments),
    Models(remote::models::ModelsArguments),
}

#[cfg(feature = "server")]
impl Verb {
    fn quiet(&self) -> bool {
        match self {
            Self::Demo(arguments) => arguments.quiet.quiet,
            Self::Unlearn(arguments) => arguments.quiet.quiet,
            Self::Score(arguments) => arguments.quiet.quiet,
            Self::Generate(arguments) => arguments.quiet.quiet,
            Self::Evaluate(arguments) => arguments.quiet.quiet,
            Self::Serve(_) | Self::Jobs(_) | Self::Models(_) => false,
        }
    }

    fn run(&self) -> Result<(), CliError> {
        // Signals keep their own effect for these: nothing is unfinished here, and the server's
        // work goes on.
        match self {
            Self::Jobs(arguments) => return Ok(remote::jobs::run(arguments)?),
            Self::Models(arguments) => return Ok(remote::models::run(arguments)?),
            _ => environment::settle(None),
        }
        let session = &mut Session::new(self.quiet(), interrupt::install()?);
        match self {
            Self::Demo(arguments) => demo::run::<CandleEngine>(arguments, session),
            Self::Unlearn(arguments) => unlearn::run::<CandleEngine>(arguments, session),
            Self::Score(arguments) => score::run::<CandleEngine>(arguments, session),
            Self::Generate(arguments) => generate::run::<CandleEngine>(arguments, session),
            Self::Evaluate(arguments) => evaluate::run::<CandleEngine>(arguments, session),
            Self::Serve(_) | Self::Jobs(_) | Self::Models(_) => Ok(()),
        }
    }
}

#[cfg(not(feature = "server"))]
impl Verb {
    fn run(&self) -> Result<(), CliError> {
        match self {
            Self::Jobs(arguments) => Ok(remote::jobs::run(arguments)?),
            Self::Models(arguments) => Ok(remote::models::run(arguments)?),
        }
    }
}

/// Reads the command line, does what it says and gives the exit code.
pub fn run() -> ExitCode {
    // Wrong use ends here, with clap's own message and code 2.
    let cli = Cli::parse();
    // A daemon has its own signals, log and exit codes.
    #[cfg(feature = "server")]
    if let Verb::Serve(arguments) = &cli.verb {
        return serve::run(arguments);
    }
    match cli.verb.run() {
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
