//! The flags of `keystep unlearn`, which erases concepts from a model.

#[cfg(feature = "server")]
use std::path::PathBuf;

use clap::Args;

#[cfg(feature = "server")]
use super::arguments::parse_shown;
use super::{
    CliError,
    arguments::{
        MethodArguments, ModelArguments, PlaceArguments, QuietArguments, VocabularyArguments,
        WindowArguments, kind_parser,
    },
    remote::SubmitArguments,
};
#[cfg(feature = "server")]
use crate::jobs::Evaluation;
use crate::{
    proto::keystep::v1::OutputFormat,
    spec::{Concept, ConceptKind, SamplerKind, Scope},
};

/// Erases one or several concepts from a model; the edited model is written here or published by
/// the server.
#[derive(Debug, Args)]
#[cfg_attr(
    feature = "server",
    command(after_help = "\
With --local, the folder then holds pipeline/ (a diffusers folder), delta.safetensors (the edited \
tensors alone, with the spec in their metadata), report.json, report.html, training.json, \
scores.json and scores.png where a window was measured, and before-after.png where the result was \
judged. A run that is killed goes on where it was when the same command is given again. Where the \
disk fills or the folder is taken meanwhile, what was trained is kept in a file that the error \
names, for --resume.

With --server, the job is queued, watched, and goes on when this program ends; the server publishes \
the same to its object storage, with a manifest.

Examples:
  keystep unlearn --local --model builtin:emoji-canvas --concept cat --kind object --out no-cat
  keystep unlearn --local --model sd14 --concept \"Van Gogh\" --kind style --replace-with Monet \\
      --preserve \"a painting by Rembrandt\" --out no-van-gogh
  keystep unlearn --local --model sd14 --concept neon --kind style \\
      --scores neon-scores/scores.json --out no-neon
  keystep unlearn --local --resume no-neon-delta-x3Kq9a.safetensors --out elsewhere/no-neon
  keystep unlearn --local --model sd14 --concept cat --kind object --out no-cat \\
      --signing-key signer.key --builder-id https://models.example/workstation
  keystep unlearn --server http://127.0.0.1:50051 --base-model emoji-canvas --concept cat \\
      --kind object --label ticket=4711")
)]
#[cfg_attr(
    not(feature = "server"),
    command(after_help = "\
The job is queued, watched, and goes on when this program ends; the server publishes the edited \
model to its object storage, with a manifest.

Examples:
  keystep unlearn --server http://127.0.0.1:50051 --base-model emoji-canvas --concept cat \\
      --kind object --label ticket=4711")
)]
pub(super) struct UnlearnArguments {
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// The model to edit, by its name in the server's catalogue; the same as --model there.
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    pub(super) base_model: Option<String>,
    /// What to erase: bare words, no sentence. Give it again for several concepts (at most 32).
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[cfg_attr(feature = "server", arg(required_unless_present = "resume"))]
    #[cfg_attr(not(feature = "server"), arg(required = true))]
    pub(super) concept: Vec<String>,
    /// What sort of thing the concepts are; decides presets and sentences.
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    #[cfg_attr(feature = "server", arg(required_unless_present = "resume"))]
    #[cfg_attr(not(feature = "server"), arg(required = true))]
    pub(super) kind: Option<ConceptKind>,
    /// What shall appear in their place [default: nothing in particular].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) replace_with: Option<String>,
    /// A prompt whose pictures must not change, beside those drawn from the vocabulary. Give it
    /// again for several (at most 1024).
    #[arg(long, value_name = "PROMPT", allow_hyphen_values = true)]
    pub(super) preserve: Vec<String>,
    /// A word of the vocabulary that the training leaves out, so that the result shows what becomes
    /// of words that nothing held. Give it again for several.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(super) hold_out: Vec<String>,
    #[command(flatten)]
    pub(super) vocabulary: VocabularyArguments,
    #[command(flatten)]
    pub(super) method: MethodArguments,
    /// Which tensors are trained: cross-attention, cross-attention-key-value, non-cross-attention,
    /// all, or name:TEXT for those whose name contains TEXT [default: the method's].
    #[arg(long, value_name = "SCOPE")]
    pub(super) scope: Option<Scope>,
    #[command(flatten)]
    pub(super) window: WindowArguments,
    /// Drives every draw of the run; the same seed on the same device gives the same bytes.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Most memory that this process may take, such as 800MiB or 12GiB: it then computes parts of
    /// the network twice and runs fewer passes side by side, with the same result; --local alone
    /// [default: no limit].
    #[cfg(feature = "server")]
    #[arg(long, value_name = "SIZE", conflicts_with = "server", value_parser = parse_size)]
    pub(super) memory_limit: Option<u64>,
    /// Folder to make; must not exist. --local alone, and needed there.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    pub(super) out: Option<PathBuf>,
    /// Folder in which the run saves how far it is, and looks for where an earlier one was killed;
    /// removed when the result stands. Ctrl-C leaves it where it is named, and removes the default.
    /// --local alone [default: beside --out, with its name and .state].
    #[cfg(feature = "server")]
    #[arg(long, value_name = "DIR", requires = "local", conflicts_with = "server")]
    pub(super) state_folder: Option<PathBuf>,
    /// Write the result of an erasure that is done and could not be written: the file in which it
    /// was kept, as the error named it. What was asked lies in it, the model too unless --model is
    /// given (it may have moved); nothing is trained again. --local alone.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "FILE", requires = "local", conflicts_with_all = [
        "concept", "kind", "replace_with", "preserve", "hold_out", "vocabulary", "method", "learning_rate",
        "updates", "scope", "window", "scores", "seed", "memory_limit", "state_folder", "server",
    ])]
    pub(super) resume: Option<PathBuf>,
    /// Sign the result with this key, a PEM file without a passphrase (ECDSA P-256 or Ed25519), for
    /// `keystep verify`; needs --builder-id. --local alone: a server signs with its own key.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "FILE", requires_all = ["local", "builder_id"], conflicts_with = "server")]
    pub(super) signing_key: Option<PathBuf>,
    /// URI that stands for you, or for this machine, in what is signed.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "URI", requires = "signing_key")]
    pub(super) builder_id: Option<String>,
    /// What the server publishes: delta, unet or pipeline. Give it again for several [default:
    /// unet and delta].
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    pub(super) output_format: Vec<OutputFormat>,
    /// Have the result judged, and fail where no judge knows the concepts [default: judged where
    /// one does].
    #[arg(long, conflicts_with = "no_evaluate")]
    pub(super) evaluate: bool,
    /// Have the result not judged.
    #[arg(long)]
    pub(super) no_evaluate: bool,
    /// Folder of a judge to ask beside the model's own, which docs/judges.md describes; the result is
    /// then judged, or the run fails. Give it again for several; --local alone.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["server", "no_evaluate"])]
    pub(super) judge: Vec<String>,
    /// What the judged pictures are drawn with, as `keystep evaluate` draws them; measuring and
    /// training keep to DDIM [default: the sampler that the model's folder names].
    #[arg(long, value_name = "NAME", conflicts_with = "no_evaluate")]
    pub(super) sampler: Option<SamplerKind>,
    /// Share of a concept's pictures without it that the judgement shall be able to show, 0.5 to
    /// 0.999, as `keystep evaluate` draws them; --local alone [default: not asked].
    #[cfg(feature = "server")]
    #[arg(long, value_name = "SHARE", value_parser = parse_shown, conflicts_with_all = ["no_evaluate", "server"])]
    pub(super) show: Option<f64>,
    /// Measure distances of the judged pictures too, as `keystep evaluate` does; --local alone.
    #[cfg(feature = "server")]
    #[arg(long, conflicts_with_all = ["no_evaluate", "server"])]
    pub(super) distances: bool,
    #[command(flatten)]
    pub(super) submit: SubmitArguments,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}

impl UnlearnArguments {
    /// What sort of thing the concepts are.
    pub(super) fn kind(&self) -> Result<ConceptKind, CliError> {
        self.kind.ok_or_else(|| CliError::Usage("--kind is missing".to_owned()))
    }

    /// Whether the result is judged, where that was said.
    #[cfg(feature = "server")]
    pub(super) fn evaluation(&self) -> Option<Evaluation> {
        match (self.evaluate || !self.judge.is_empty(), self.no_evaluate) {
            (true, _) => Some(Evaluation::Required),
            (false, true) => Some(Evaluation::Skipped),
            (false, false) => None,
        }
    }

    /// The concepts, all of one kind and with one replacement.
    pub(super) fn concepts(&self) -> Result<Vec<Concept>, CliError> {
        let kind = self.kind()?;
        let concept = |text: &String| Concept {
            text: text.clone(),
            kind,
            replacement: self.replace_with.clone(),
        };
        Ok(self.concept.iter().map(concept).collect())
    }
}

/// Bytes, with or without a binary unit.
#[cfg(feature = "server")]
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err("give bytes, or a size in KiB, MiB, GiB or TiB, such as 12GiB".to_owned()),
    };
    let bytes = digits.trim().parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("\"{text}\" is no size; give a whole number, such as 12GiB"))
}

fn parse_format(text: &str) -> Result<OutputFormat, String> {
    match text {
        "delta" => Ok(OutputFormat::Delta),
        "unet" => Ok(OutputFormat::Unet),
        "pipeline" => Ok(OutputFormat::Pipeline),
        _ => Err("not a format; use delta, unet or pipeline".to_owned()),
    }
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        assert_eq!(parse_size("1024"), Ok(1_024));
        assert_eq!(parse_size("800MiB"), Ok(800 << 20));
        assert_eq!(parse_size("12 gib"), Ok(12 << 30));
        for wrong in ["", "GiB", "-1", "1.5GiB", "12GB", "0", "99999999TiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
