//! The command line: a file for each verb. Reads arguments, files and the clock, wires the other modules
//! and shows what comes out; holds no algorithm.

mod arguments;
mod attack_table;
#[cfg(feature = "server")]
mod demo;
mod error;
mod evaluate;
#[cfg(test)]
#[cfg(feature = "server")]
mod fake;
mod gate;
mod generate;
#[cfg(feature = "server")]
mod interrupt;
#[cfg(feature = "server")]
mod local;
#[cfg(feature = "server")]
mod measurements;
mod measures_table;
#[cfg(feature = "server")]
mod output;
#[cfg(feature = "server")]
mod process;
mod progress;
mod remote;
#[cfg(feature = "server")]
mod rescue;
mod score;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod session;
mod suite_table;
mod suites;
mod text_table;
mod timing;
#[cfg(feature = "server")]
mod token;
mod unlearn;
#[cfg(feature = "server")]
mod verdict_table;
#[cfg(feature = "server")]
mod verify;

use std::process::ExitCode;

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(feature = "server")]
use crate::{device::CandleSource, engine::CandleEngine};
use error::CliError;
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
    after_help = "Exit codes: 0 fine, 1 the work failed, 2 wrong use, 3 rejected by `gate` or refuted by \
                  `verify`, 4 undecided by `gate`, 64 wrong configuration, 69 the server is away, 77 \
                  not permitted, 130 interrupted.\n\
                  Progress and errors go to stderr, results to stdout."
)]
#[cfg_attr(
    feature = "server",
    command(
        before_help = "Start with `keystep demo`: it needs no download, no server and no GPU."
    )
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
    Token(token::TokenArguments),
    #[cfg(feature = "server")]
    Demo(demo::DemoArguments),
    Unlearn(Box<unlearn::UnlearnArguments>),
    Score(score::ScoreArguments),
    Generate(generate::GenerateArguments),
    Evaluate(Box<evaluate::EvaluateArguments>),
    Gate(Box<gate::GateArguments>),
    #[cfg(feature = "server")]
    Verify(verify::VerifyArguments),
    Jobs(remote::jobs::JobsArguments),
    Models(remote::models::ModelsArguments),
}

impl Verb {
    #[cfg(feature = "server")]
    fn run(&self) -> Result<(), CliError> {
        match self {
            Self::Token(arguments) => token::run(arguments),
            Self::Verify(arguments) => verify::run(arguments),
            Self::Demo(arguments) => {
                let source = CandleSource::new(arguments.compute.settings());
                demo::run(arguments, source, &mut session(arguments.quiet)?)
            }
            Self::Unlearn(arguments) if arguments.place.local => {
                local::erase_or_resume::<CandleEngine>(arguments, &mut session(arguments.quiet)?)
            }
            Self::Score(arguments) if arguments.place.local => {
                local::score::run::<CandleEngine>(arguments, &mut session(arguments.quiet)?)
            }
            Self::Generate(arguments) if arguments.place.local => {
                local::generate::run::<CandleEngine>(arguments, &mut session(arguments.quiet)?)
            }
            Self::Evaluate(arguments) if arguments.place.local => {
                local::evaluate::run::<CandleEngine>(arguments, &mut session(arguments.quiet)?)
            }
            Self::Gate(arguments) if arguments.local => {
                local::gate::run::<CandleEngine>(arguments, &mut session(arguments.quiet)?)
            }
            _ => self.ask(),
        }
    }

    #[cfg(not(feature = "server"))]
    fn run(&self) -> Result<(), CliError> {
        self.ask()
    }

    /// Lets a server do it.
    fn ask(&self) -> Result<(), CliError> {
        match self {
            #[cfg(feature = "server")]
            Self::Serve(_) | Self::Token(_) | Self::Demo(_) | Self::Verify(_) => Ok(()),
            Self::Unlearn(arguments) => remote::unlearn::run(arguments),
            Self::Score(arguments) => remote::score::run(arguments),
            Self::Generate(arguments) => remote::generate::run(arguments),
            Self::Evaluate(arguments) => remote::evaluate::run(arguments),
            Self::Gate(arguments) if arguments.report.is_some() => gate::run(arguments),
            Self::Gate(arguments) => remote::gate::run(arguments),
            Self::Jobs(arguments) => Ok(remote::jobs::run(arguments)?),
            Self::Models(arguments) => Ok(remote::models::run(arguments)?),
        }
    }
}

/// The command line, where a number below 0 is a wrong value of its flag and no flag of its own.
fn command() -> Command {
    fn with_numbers(command: Command) -> Command {
        command
            .mut_args(|argument| {
                let takes_values = argument.get_action().takes_values();
                argument.allow_negative_numbers(takes_values)
            })
            .mut_subcommands(with_numbers)
    }
    with_numbers(Cli::command())
}

/// What work in this process needs.
#[cfg(feature = "server")]
fn session(quiet: arguments::QuietArguments) -> Result<Session, CliError> {
    process::settle_environment(None);
    Ok(Session::new(quiet.quiet, interrupt::install()?))
}

/// Reads the command line, does what it says and gives the exit code.
pub fn run() -> ExitCode {
    // Wrong use ends here, with clap's own message and code 2.
    let cli = match Cli::from_arg_matches(&command().get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
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
        command().debug_assert();
    }

    #[test]
    fn a_number_below_zero_is_a_wrong_value() {
        for line in [
            &["generate", "--prompt", "cat", "--steps", "-1"][..],
            &["generate", "--prompt", "cat", "--seed", "-1"],
            &["score", "--concept", "cat", "--kind", "object", "--trajectories", "-1"],
            &["jobs", "watch", "operations/1", "--after-sequence", "-1"],
        ] {
            let whole = ["keystep"].iter().chain(line);
            let error = command().try_get_matches_from(whole).unwrap_err().to_string();
            let flag = line[line.len() - 2];
            assert!(error.contains(flag) && error.contains("invalid value '-1"), "{error}");
        }
        let fits = ["keystep", "generate", "--prompt", "cat", "--guidance-scale", "-1"];
        assert!(command().try_get_matches_from(fits).is_ok());
    }
}
