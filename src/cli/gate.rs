//! `keystep gate`: holds an erased model against a policy. Its flags, and what all its ways share.

mod figures;
mod outputs;

use std::{
    path::{Component, Path, PathBuf},
    time::UNIX_EPOCH,
};

use clap::Args;

pub(super) use figures::GateFigures;
pub(super) use outputs::GateOutputs;

use super::{
    CliError,
    arguments::{JudgingArguments, ModelArguments, QuietArguments, kind_parser, needed},
    remote::{AddressArguments, SubmitArguments, print},
    timing,
};
use crate::{
    gate::{Circumstances, Date, Decision, GateVerdict, Measure, Policy, RuleResult},
    spec::{AttackSpec, Concept, ConceptKind, JudgeSpec},
};

/// Holds an erased model against a policy: passed, rejected or undecided.
///
/// Judges the model, unless --report names figures that exist already, and decides each rule of the
/// policy by the interval of its figure. Where pictures are too few to decide, twice as many are drawn,
/// as often as the policy allows.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 passed, 3 rejected, 4 undecided, 1 the work failed, 2 wrong use or a wrong policy, 69 the \
server is away, 77 not permitted, 130 interrupted.

Examples:
  keystep gate --report no-cat.json --policy policy.toml --junit gate.xml
  keystep gate --server http://127.0.0.1:50051 --checkpoint checkpoints/0192 \\
      --base emoji-canvas --concept cat --kind object --policy policy.toml --sarif gate.sarif")]
pub(super) struct GateArguments {
    /// Judge in this process, without a server.
    #[cfg(feature = "server")]
    #[arg(long, conflicts_with_all = [
        "server", "token_file", "ca_file", "client_certificate", "client_key", "checkpoint",
    ])]
    pub(super) local: bool,
    /// Judge nothing, and read the figures of an earlier judgement: the report.json of `evaluate` or
    /// of an erasure of one concept.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = [
        "server", "checkpoint", "model", "base", "judge", "vocabulary", "target_seeds", "retain_seeds",
    ])]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    pub(super) report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) server: AddressArguments,
    /// The policy, in TOML; docs/gate.md has its keys.
    #[arg(long, value_name = "FILE.toml")]
    pub(super) policy: PathBuf,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// The erased model's name in the server's catalogue; the same as --model.
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(super) checkpoint: Option<String>,
    /// The model before the erasure, which holds the judges; named as --model is.
    #[arg(long, visible_alias = "base-model", value_name = "DIR|NAME")]
    pub(super) base: Option<String>,
    /// What should be gone; a word of the vocabulary.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) concept: Option<String>,
    /// What sort of thing the concept is.
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    pub(super) kind: Option<ConceptKind>,
    #[command(flatten)]
    pub(super) judging: JudgingArguments,
    #[command(flatten)]
    pub(super) outputs: GateOutputs,
    #[command(flatten)]
    pub(super) submit: SubmitArguments,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}

impl GateArguments {
    /// The concept, for ways that judge.
    pub(super) fn concept(&self, place: &str) -> Result<Concept, CliError> {
        let text = needed(self.concept.as_deref(), "--concept", place)?;
        let kind = needed(self.kind.as_ref(), "--kind", place)?;
        let concept = Concept::new(text, *kind);
        concept.validate()?;
        Ok(concept)
    }

    /// The erased model's name, for ways that judge.
    pub(super) fn edited(&self) -> Result<&str, CliError> {
        self.checkpoint.as_deref().map_or_else(|| self.model.name(), Ok)
    }
}

/// A policy that was read, and outputs that can be written.
#[derive(Debug)]
pub(super) struct Gate<'a> {
    policy: Policy,
    /// Its path, as outputs name it.
    policy_file: String,
    outputs: &'a GateOutputs,
    today: Date,
}

impl<'a> Gate<'a> {
    /// Reads the policy and checks every output, before any work.
    pub(super) fn prepare(arguments: &'a GateArguments) -> Result<Self, CliError> {
        let path = &arguments.policy;
        // A policy that is not there is a wrong flag, and no work that failed.
        let bytes = std::fs::read(path).map_err(|error| {
            CliError::Usage(format!("--policy {} cannot be read: {error}", path.display()))
        })?;
        let policy = Policy::parse(&bytes)
            .map_err(|source| CliError::Policy { path: path.clone(), source })?;
        arguments.outputs.check()?;
        let now = timing::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            policy,
            policy_file: shown_path(path),
            outputs: &arguments.outputs,
            today: Date::of_unix_seconds(now.as_secs()),
        })
    }

    /// Whether a rule reads distances of pictures, which are measured only where they are asked for.
    pub(super) fn reads_distances(&self) -> bool {
        let mut rules = self.policy.rules.iter();
        rules.any(|rule| matches!(rule.measure, Measure::Cmmd | Measure::ClipScore))
    }

    /// The attacks that rules ask for.
    pub(super) fn attacks(&self) -> Vec<AttackSpec> {
        self.policy.attacks()
    }

    /// What the policy says at a look, from 1.
    pub(super) fn decide(&self, figures: &GateFigures, look: usize) -> GateVerdict {
        let at = Circumstances { policy_file: &self.policy_file, today: self.today, look };
        figures.decide(&self.policy, at)
    }

    /// Whether another look could help: one is allowed, nothing rejects, and more pictures would
    /// decide a rule that counts.
    pub(super) fn looks_again(&self, verdict: &GateVerdict) -> bool {
        // Attacks have pictures of their own, which another look does not draw.
        let is_of_grid = |rule: &&RuleResult| {
            !matches!(rule.measure, Measure::AttackSuccess | Measure::Relearning)
        };
        let mut rows = (verdict.rules.iter())
            .filter(|rule| rule.counts)
            .filter(is_of_grid)
            .flat_map(|rule| &rule.rows);
        verdict.verdict == Decision::Undecided
            && verdict.look < self.policy.looks
            && rows.any(|row| row.more_pictures.is_some())
    }

    /// Prints and writes a verdict; fails where it is not passed.
    pub(super) fn conclude(&self, verdict: &GateVerdict) -> Result<(), CliError> {
        print(crate::gate::table(verdict).trim_end());
        self.outputs.write(verdict)?;
        match verdict.verdict {
            Decision::Passed => Ok(()),
            decision => Err(CliError::Gate(decision)),
        }
    }
}

/// The pictures of a look: twice as many as at the one before; none where there would be too many.
pub(super) fn spec_of_look(first: &JudgeSpec, look: usize) -> Option<JudgeSpec> {
    let times = 1_usize.checked_shl(u32::try_from(look.checked_sub(1)?).ok()?)?;
    let spec = JudgeSpec {
        target_seeds: first.target_seeds.checked_mul(times)?,
        retain_seeds: first.retain_seeds.checked_mul(times)?,
        // They have pictures of their own, and have run at the first look.
        attacks: if look == 1 { first.attacks.clone() } else { Vec::new() },
        ..first.clone()
    };
    spec.validate().is_ok().then_some(spec)
}

/// A path as outputs name it: from the working folder on where it lies below, with `/` between parts.
fn shown_path(path: &Path) -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(folder).unwrap_or(path);
    let parts = path.components().filter_map(|part| match part {
        Component::CurDir => None,
        Component::RootDir => Some(String::new()),
        other => Some(other.as_os_str().to_string_lossy().into_owned()),
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Gates figures that exist already.
pub(super) fn run(arguments: &GateArguments) -> Result<(), CliError> {
    let report = needed(arguments.report.as_deref(), "--report", "this")?;
    let gate = Gate::prepare(arguments)?;
    let figures = GateFigures::read(report, arguments.concept.as_deref())?;
    gate.conclude(&gate.decide(&figures, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Vocabulary;

    #[test]
    fn pictures_double_from_look_to_look_until_there_are_too_many() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let vocabulary = Vocabulary {
            objects: words(&["cat", "dog"]),
            styles: words(&["neon"]),
            ..Vocabulary::default()
        };
        let concept = Concept::new("cat", ConceptKind::Object);
        let first =
            JudgeSpec { target_seeds: 32, retain_seeds: 1, ..JudgeSpec::new(concept, vocabulary) };
        let of =
            |look| spec_of_look(&first, look).map(|spec| (spec.target_seeds, spec.retain_seeds));
        assert_eq!([1, 2, 3].map(of), [Some((32, 1)), Some((64, 2)), Some((128, 4))]);
        assert_eq!([0, 6, 64, usize::MAX].map(of), [None, None, None, None]);
    }

    #[test]
    fn a_policys_path_is_that_of_the_repository() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(shown_path(&here.join("ci/policy.toml")), "ci/policy.toml");
        assert_eq!(shown_path(Path::new("./ci/policy.toml")), "ci/policy.toml");
        assert_eq!(shown_path(Path::new("../policy.toml")), "../policy.toml");
    }
}
