//! The flags of `keystep evaluate`, which judges a model that was erased earlier.

#[cfg(feature = "server")]
use std::path::PathBuf;

use clap::Args;

use super::{
    arguments::{
        JudgingArguments, ModelArguments, PlaceArguments, QuietArguments, kind_parser, parse_shown,
    },
    remote::SubmitArguments,
    suites::SuiteArguments,
};
use crate::spec::{AttackSpec, ConceptKind};

/// Judges an erased model beside its base: what is forgotten (UA), what is kept in the same domain
/// (IRA) and in the other one (CRA).
#[derive(Debug, Args)]
#[cfg_attr(
    feature = "server",
    command(after_help = "\
Both models draw the same prompts from the same seeds with the same sampler, and the base model's \
judges name what the pictures show. With --server, the job is queued, watched, and goes on when this program ends.

Examples:
  keystep evaluate --local --model no-cat/pipeline --base builtin:emoji-canvas \\
      --concept cat --kind object --out no-cat.json --sheet no-cat.png
  keystep evaluate --local --model no-cat/pipeline --base builtin:emoji-canvas \\
      --concept cat --kind object --attack relearning-benign --attack completion --out no-cat.json
  keystep evaluate --server http://127.0.0.1:50051 --model checkpoints/0192 \\
      --base emoji-canvas --concept cat --kind object")
)]
#[cfg_attr(
    not(feature = "server"),
    command(after_help = "\
Both models draw the same prompts from the same seeds with the same sampler, and the base model's \
judges name what the pictures show. The job is queued, watched, and goes on when this program ends.

Examples:
  keystep evaluate --server http://127.0.0.1:50051 --model checkpoints/0192 \\
      --base emoji-canvas --concept cat --kind object")
)]
pub(super) struct EvaluateArguments {
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// The model before the erasure, which holds the judges; named as --model is.
    #[arg(long, visible_alias = "base-model", value_name = "DIR|NAME")]
    pub(super) base: String,
    /// What should be gone; a word of the vocabulary.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) concept: String,
    /// What sort of thing the concept is.
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    pub(super) kind: ConceptKind,
    #[command(flatten)]
    pub(super) judging: JudgingArguments,
    /// Share of its pictures without the concept that the judgement shall be able to show, 0.5 to
    /// 0.999: draws so many that none with it proves as much, 73 for 0.95 [default: not asked].
    #[arg(long, value_name = "SHARE", value_parser = parse_shown, conflicts_with = "target_seeds")]
    pub(super) show: Option<f64>,
    /// Measure distances of the pictures too: CMMD, KID, CLIP score and picture distance. The base
    /// model draws the pictures without the concept once more for it, from other seeds.
    #[arg(long)]
    pub(super) distances: bool,
    #[command(flatten)]
    pub(super) suites: SuiteArguments,
    /// Then seek the concept in the edited model, beside controls on the base: concept-inversion,
    /// unlearn-diff-atk, ring-a-bell, p4d, completion, noise, image-to-image, inpainting,
    /// relearning-benign or relearning-few-shot; after a colon its settings, such as
    /// concept-inversion:guided,budget=4000,seed=1,pictures=16. May be given several times.
    #[arg(long = "attack", value_name = "NAME[:SETTINGS]")]
    pub(super) attacks: Vec<AttackSpec>,
    /// JSON file to write; must not exist. --local alone, and needed there.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "FILE.json", conflicts_with = "server")]
    pub(super) out: Option<PathBuf>,
    /// Also write a contact sheet, before above after; must not exist. --local alone.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "FILE.png", conflicts_with = "server")]
    pub(super) sheet: Option<PathBuf>,
    #[command(flatten)]
    pub(super) submit: SubmitArguments,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}
