//! The flags of `keystep score`, which measures the denoising steps that decide a concept.

use std::path::PathBuf;

use clap::Args;

use super::arguments::{
    ModelArguments, PlaceArguments, QuietArguments, VocabularyArguments, kind_parser,
};
use crate::spec::{ConceptKind, Scope};

/// Measures which denoising steps decide a concept, and recommends where to train.
#[derive(Debug, Args)]
#[cfg_attr(
    feature = "server",
    command(after_help = "\
The folder then holds scores.json (for `keystep unlearn --scores`) and, with --local, scores.png.

With --server, the scores are printed, and can be cited by their digest (`keystep unlearn \
--score-digest`); the work ends with this program.

Examples:
  keystep score --local --model builtin:emoji-canvas --concept cat --kind object --out cat-scores
  keystep score --local --model sd14 --concept neon --kind style --no-switch-curve \\
      --trajectories 4 --out neon-scores
  keystep score --server http://127.0.0.1:50051 --model emoji-canvas --concept cat --kind object")
)]
#[cfg_attr(
    not(feature = "server"),
    command(after_help = "\
The folder then holds scores.json (for `keystep unlearn --scores`); the scores can also be cited by \
their digest (`keystep unlearn --score-digest`). The work ends with this program.

Examples:
  keystep score --server http://127.0.0.1:50051 --model emoji-canvas --concept cat --kind object")
)]
pub(super) struct ScoreArguments {
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// What to measure: bare words, no sentence.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) concept: String,
    /// What sort of thing the concept is.
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    pub(super) kind: ConceptKind,
    #[command(flatten)]
    pub(super) vocabulary: VocabularyArguments,
    /// Steps of the schedule that is scored, 4 to 1000.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) steps: u32,
    /// Guidance of the trajectories, 0 to 100.
    #[arg(long, value_name = "SCALE", default_value_t = 5.0)]
    pub(super) guidance_scale: f64,
    /// Trajectories, each with its own seed, that are averaged over, 2 to 1024.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(super) trajectories: u32,
    /// Leave out the switch curve, which draws many pictures and needs the model to have a judge.
    #[arg(long)]
    pub(super) no_switch_curve: bool,
    /// The tensors whose gradients are compared; see `keystep unlearn --help`.
    #[arg(long, value_name = "SCOPE", default_value = "cross-attention")]
    pub(super) scope: Scope,
    /// First seed; trajectory N uses this plus N.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Folder to make; must not exist. Needed with --local.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}
