//! The flags of `keystep generate`, which draws pictures.

use std::path::PathBuf;

use clap::Args;

use super::arguments::{ModelArguments, PlaceArguments, QuietArguments, SamplerArguments};

/// Draws pictures of a prompt; the same seed gives diffusers' picture.
#[derive(Debug, Args)]
#[cfg_attr(
    feature = "server",
    command(after_help = "\
Prompt and seed are kept in the PNG's text chunks. With --server, the work ends with this program.

Examples:
  keystep generate --local --model builtin:emoji-canvas --prompt \"a cat in neon style\" \\
      --seed 7 --out cat.png
  keystep generate --local --model no-cat/checkpoint --prompt \"a cat\" --count 9 \\
      --out cats.png
  keystep generate --local --model builtin:emoji-canvas --prompt \"a dog\" --init-image cat.png \\
      --strength 0.6 --out dog.png
  keystep generate --server http://127.0.0.1:50051 --model emoji-canvas --prompt \"a cat\" \\
      --count 9 --output cats")
)]
#[cfg_attr(
    not(feature = "server"),
    command(after_help = "\
Prompt and seed are kept in the PNG's text chunks. The work ends with this program.

Examples:
  keystep generate --server http://127.0.0.1:50051 --model emoji-canvas --prompt \"a cat\" \\
      --count 9 --output cats")
)]
pub(super) struct GenerateArguments {
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// What to draw; may be empty.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) prompt: String,
    /// What to steer away from [default: nothing].
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub(super) negative_prompt: String,
    /// Seed of the first picture; the next ones count up.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Pictures, 1 to 256; with --local, several are laid side by side in one file.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) count: u32,
    /// Denoising steps, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub(super) steps: u32,
    /// Classifier-free guidance, 0 to 100; 1 or less turns it off.
    #[arg(long, value_name = "SCALE", default_value_t = 5.0)]
    pub(super) guidance_scale: f64,
    #[command(flatten)]
    pub(super) sampler: SamplerArguments,
    /// PNG file to begin with in place of noise; pictures have its size, down to what the model takes.
    #[arg(long, value_name = "FILE.png", conflicts_with_all = ["width", "height"])]
    pub(super) init_image: Option<PathBuf>,
    /// How far to go from --init-image, 0 to 1: the share of the steps that are taken [default: 0.8].
    #[arg(long, value_name = "SHARE", requires = "init_image", allow_negative_numbers = true)]
    pub(super) strength: Option<f64>,
    /// Width in pixels, a multiple of 8 [default: the model's].
    #[arg(long, value_name = "PIXELS", requires = "height")]
    pub(super) width: Option<u32>,
    /// Height in pixels, a multiple of 8 [default: the model's].
    #[arg(long, value_name = "PIXELS", requires = "width")]
    pub(super) height: Option<u32>,
    /// PNG file to write; must not exist. --local alone, and needed there.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "FILE.png", conflicts_with = "server")]
    pub(super) out: Option<PathBuf>,
    /// Folder for the server's pictures, one PNG each; is made where there is none.
    #[arg(long, value_name = "DIR")]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    pub(super) output: Option<PathBuf>,
    /// Replace pictures that are in the folder already.
    #[arg(long)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    pub(super) overwrite: bool,
    /// Also keep a small preview of each unfinished picture, anew after every N steps.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    pub(super) preview_every: u32,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}
