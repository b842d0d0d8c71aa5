//! Everything that ends a verb, with its exit code and its lines on stderr.

#[cfg(feature = "server")]
use std::path::Path;
use std::{error::Error, io::Write, path::PathBuf};

use super::remote::{RemoteError, flag_and_path};
#[cfg(feature = "server")]
use crate::{
    artifacts::ArtifactError,
    daemon::StartError,
    engine::EngineError,
    provenance::{KeyError, SealError},
    publishing::VerifyError,
    report::ReportError,
    run::RunError,
};
use crate::{
    gate::{Decision, PolicyError},
    spec::{SpecError, SuiteFileError},
};

/// Why a verb did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The server could not be asked, or said no.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Wrong use; the message has the remedy.
    #[error("{0}")]
    Usage(String),
    /// The request breaks rules.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A policy cannot be used.
    #[error("{} is no policy: {source}", .path.display())]
    Policy {
        /// Path of the file.
        path: PathBuf,
        /// Everything that is wrong with it.
        source: PolicyError,
    },
    /// A policy does not let the model through.
    #[error("the policy does not let this model through: it is {0}")]
    Gate(Decision),
    #[cfg(feature = "server")]
    /// The engine could not do it.
    #[error(transparent)]
    Engine(EngineError),
    #[cfg(feature = "server")]
    /// The daemon within this process does not start.
    #[error("cannot start the daemon within this process")]
    Daemon(#[from] StartError),
    #[cfg(feature = "server")]
    /// A model folder could not be opened or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[cfg(feature = "server")]
    /// A plot, sheet or report could not be made.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A file that the user named could not be read.
    #[error("cannot read {}", .path.display())]
    File {
        /// Path of the file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    #[cfg(feature = "server")]
    /// An intermediate file or folder cannot be removed.
    #[error("cannot remove {}", .path.display())]
    Remove {
        /// Path of the file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file does not say what it should.
    #[error("{} is not {expected}", .path.display())]
    Json {
        /// Path of the file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// A file holds no suite of prompts.
    #[error("{} is no suite of prompts", .path.display())]
    Suite {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        source: SuiteFileError,
    },
    /// A file that the user named could not be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Path of the file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    #[cfg(feature = "server")]
    /// The erasure is done, and its result could not be written.
    #[error("the result could not be written after the training; {}", remedy(kept.as_deref()))]
    NotWritten {
        /// Where the edited tensors are, if there was room for them anywhere.
        kept: Option<PathBuf>,
        /// The error beneath.
        source: Box<CliError>,
    },
    #[cfg(feature = "server")]
    /// The file for `--resume` is not one that a run kept.
    #[error(
        "{}: {message}; give --resume the file that `unlearn --local` named when it could not write \
         its result",
        .path.display()
    )]
    NotKept {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    #[cfg(feature = "server")]
    /// A file that a run kept was changed since.
    #[error(
        "no result can be made of {}; copy it anew from where it was kept, or erase again",
        .path.display()
    )]
    DamagedKept {
        /// Path of the file.
        path: PathBuf,
        /// The error beneath.
        source: Box<EngineError>,
    },
    #[cfg(feature = "server")]
    /// A run gave no result for a reason of its own.
    #[error(transparent)]
    Run(RunError),
    #[cfg(feature = "server")]
    /// A key that does not fit.
    #[error("{} {source}", .path.display())]
    Key {
        /// Path of the file.
        path: PathBuf,
        /// What it is instead, and what helps.
        source: KeyError,
    },
    #[cfg(feature = "server")]
    /// The result cannot be signed.
    #[error("the result cannot be signed")]
    Unsigned(#[from] SealError),
    #[cfg(feature = "server")]
    /// A result is not what was signed, or could not be looked at.
    #[error("{place} {}", if source.is_untrue() { "is not what was signed" } else { "cannot be verified" })]
    Verify {
        /// Where it lies.
        place: String,
        /// What is wrong with which file.
        source: VerifyError,
    },
    #[cfg(feature = "server")]
    /// Tasks cannot be run.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    #[cfg(feature = "server")]
    /// The signal handler could not be set.
    #[error("cannot listen for Ctrl-C")]
    Signals(#[source] ctrlc::Error),
    #[cfg(feature = "server")]
    /// Stopped by a signal.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

/// Violations of a spec that are listed, a line each; the rest is counted.
const MOST_VIOLATIONS: usize = 20;

/// How to use the edited tensors, where they were kept.
#[cfg(feature = "server")]
fn remedy(kept: Option<&Path>) -> String {
    match kept {
        Some(path) => format!(
            "what was trained is kept: `keystep unlearn --local --resume {0} --out DIR` writes the \
             result elsewhere, without training again",
            quoted(path)
        ),
        None => "the edited tensors are lost, since neither the result's folder nor that for \
                 temporary files has room for them"
            .to_owned(),
    }
}

/// A path as a shell takes it.
#[cfg(feature = "server")]
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(feature = "server")]
impl From<EngineError> for CliError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Spec(error) => Self::Spec(error),
            EngineError::Cancelled => Self::Interrupted,
            error => Self::Engine(error),
        }
    }
}

#[cfg(feature = "server")]
impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Engine(error) => error.into(),
            RunError::Artifact(error) => error.into(),
            RunError::Report(error) => error.into(),
            error => Self::Run(error),
        }
    }
}

impl CliError {
    /// 1 the work failed, 2 wrong use, 3 rejected or not so as it was signed, 4 undecided by a policy, 130
    /// interrupted (128 and SIGINT's number).
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Remote(error) => error.exit_code(),
            Self::Usage(_) | Self::Spec(_) | Self::Policy { .. } | Self::Suite { .. } => 2,
            Self::Gate(Decision::Passed) => 0,
            Self::Gate(Decision::Rejected) => 3,
            Self::Gate(Decision::Undecided) => 4,
            // How many tokens a prompt has is known to the model alone, and still wrong use.
            #[cfg(feature = "server")]
            Self::Engine(EngineError::PromptTooLong { .. })
            | Self::Artifact(
                ArtifactError::TargetExists { .. }
                | ArtifactError::BadTarget { .. }
                | ArtifactError::UnknownBuiltin { .. }
                | ArtifactError::UnsupportedScheme { .. }
                | ArtifactError::BadUrl { .. },
            ) => 2,
            #[cfg(feature = "server")]
            Self::Key { .. } => 2,
            #[cfg(feature = "server")]
            Self::Verify { source, .. } if source.is_untrue() => 3,
            #[cfg(feature = "server")]
            Self::Interrupted => 130,
            _ => 1,
        }
    }

    /// The lines of the message: each violation of a spec, else the error and its sources.
    fn lines(&self) -> Vec<String> {
        if let Self::Remote(RemoteError::Refused(refusal)) = self {
            return refusal.lines();
        }
        if let Self::Spec(error) = self {
            let shown = error.violations.iter().take(MOST_VIOLATIONS);
            let mut lines: Vec<_> = shown
                .map(|violation| {
                    format!(
                        "error: {}: {}",
                        flag_and_path(&violation.field.to_string()),
                        violation.message
                    )
                })
                .collect();
            match error.violations.len().saturating_sub(MOST_VIOLATIONS) {
                0 => {}
                more => lines.push(format!("error: and {more} more")),
            }
            return lines;
        }
        if let Self::Policy { path, source } = self {
            let violations = source.violations.iter();
            return violations
                .map(|violation| one_line(&format!("error: {}: {violation}", path.display())))
                .collect();
        }
        let mut said = one_line(&self.to_string());
        let mut lines = vec![format!("error: {said}")];
        let mut source = self.source();
        while let Some(error) = source {
            let text = one_line(&error.to_string());
            // Some messages quote their source already.
            if !said.contains(&text) {
                lines.push(format!("  caused by: {text}"));
                said = text;
            }
            source = error.source();
        }
        lines
    }

    /// Prints the lines to stderr.
    pub(super) fn print(&self) {
        let mut stderr = std::io::stderr().lock();
        for line in self.lines() {
            // A closed stderr leaves nothing to report to.
            let _ = writeln!(stderr, "{line}");
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests {
    use super::*;
    use crate::spec::{Field, Violation};

    #[test]
    fn the_whole_chain_is_printed_once() {
        let error = CliError::File {
            path: PathBuf::from("out/x.json"),
            source: std::io::Error::other("the disk\nis gone"),
        };
        assert_eq!(
            error.lines(),
            ["error: cannot read out/x.json", "  caused by: the disk is gone"]
        );
        assert_eq!(error.exit_code(), 1);
        // This message quotes its source itself.
        let quoted = CliError::from(ArtifactError::DiskFull {
            path: PathBuf::from("out"),
            source: std::io::Error::other("no space left"),
        });
        assert_eq!(quoted.lines().len(), 1);
        assert_eq!(quoted.exit_code(), 1);
        let taken = ArtifactError::TargetExists { path: PathBuf::from("out") };
        assert_eq!(CliError::from(taken).exit_code(), 2);
    }

    #[test]
    fn wrong_use_and_interruption_have_their_codes() {
        let spec = SpecError::one(Field::Seed, "is odd");
        let error = CliError::from(EngineError::Spec(spec));
        let lines = vec!["error: --seed: is odd".to_owned()];
        assert_eq!((error.lines(), error.exit_code()), (lines, 2));
        assert_eq!(CliError::from(EngineError::Cancelled).exit_code(), 130);
        let one = Violation { field: Field::Seed.into(), message: "is odd".to_owned() };
        let many = CliError::Spec(SpecError { violations: vec![one; 990] }).lines();
        assert_eq!((many.len(), many[20].as_str()), (21, "error: and 970 more"));
        let long = EngineError::PromptTooLong { tokens: 90, limit: 77 };
        assert_eq!(CliError::from(long).exit_code(), 2);
        let damage = EngineError::WreckedModel { value: 2.0, limit: 1.0 };
        assert_eq!(CliError::from(damage).exit_code(), 1);
    }
}
