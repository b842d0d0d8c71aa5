//! `keystep generate`: draws pictures.

use std::path::PathBuf;

use clap::Args;

use super::{
    CliError,
    arguments::{LocalArguments, ModelArguments, QuietArguments},
    files::{check_target, write_whole},
    local::{LocalEngine, LocalModel},
    session::{Session, print_result},
};
use crate::{
    report::{PictureNotes, encode_png, picture_grid},
    spec::GenerateSpec,
};

/// Draws pictures of a prompt; the same seed gives diffusers' picture.
#[derive(Debug, Args)]
#[command(after_help = "\
Prompt and seed are kept in the PNG's text chunks.

Examples:
  keystep generate --local --model builtin:emoji-canvas --prompt \"a cat in neon style\" \\
      --seed 7 --out cat.png
  keystep generate --local --model no-cat/checkpoint --prompt \"a cat\" --count 9 \\
      --out cats.png")]
pub(super) struct GenerateArguments {
    #[command(flatten)]
    pub(super) local: LocalArguments,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// What to draw; may be empty.
    #[arg(long, value_name = "TEXT")]
    pub(super) prompt: String,
    /// What to steer away from [default: nothing].
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) negative_prompt: String,
    /// Seed of the first picture; the next ones count up.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Pictures; several are laid side by side in one file, 1 to 256.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(super) count: u64,
    /// Denoising steps, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub(super) steps: usize,
    /// Classifier-free guidance, 0 to 100; 1 or less turns it off.
    #[arg(long, value_name = "SCALE", default_value_t = 5.0)]
    pub(super) guidance_scale: f64,
    /// Width in pixels, a multiple of 8 [default: the model's].
    #[arg(long, value_name = "PIXELS", requires = "height")]
    pub(super) width: Option<usize>,
    /// Height in pixels, a multiple of 8 [default: the model's].
    #[arg(long, value_name = "PIXELS", requires = "width")]
    pub(super) height: Option<usize>,
    /// PNG file to write; must not exist.
    #[arg(long, value_name = "FILE.png")]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}

/// Runs the drawing.
pub(super) fn run<E: LocalEngine>(
    arguments: &GenerateArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    arguments.local.check()?;
    let pictures = (0..arguments.count)
        .map(|index| (arguments.prompt.clone(), arguments.seed.wrapping_add(index)))
        .collect();
    let spec = GenerateSpec {
        pictures,
        negative_prompt: arguments.negative_prompt.clone(),
        steps: arguments.steps,
        guidance_scale: arguments.guidance_scale,
        size: arguments.width.zip(arguments.height),
    };
    spec.validate()?;
    check_target(&arguments.out)?;
    let mut engine =
        LocalModel::<E>::open(&arguments.model.model, arguments.model.variant.as_deref())?.engine;
    let (pictures, seconds) = session.work(|context| engine.generate(&spec, context))?;
    let mut notes = PictureNotes::drawn(&arguments.prompt, arguments.seed);
    if !arguments.negative_prompt.is_empty() {
        notes.entries.push(("negative prompt", arguments.negative_prompt.clone()));
    }
    notes.entries.push(("steps", arguments.steps.to_string()));
    notes.entries.push(("guidance scale", arguments.guidance_scale.to_string()));
    let png = encode_png(&picture_grid(&pictures)?, &notes)?;
    write_whole(&[(&arguments.out, &png)], &session.interrupt)?;
    print_result(&format!("{} ({seconds:.1} s)\n", arguments.out.display()));
    Ok(())
}
