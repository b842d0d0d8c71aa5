//! `keystep generate --local`: draws in this process.

use super::{LocalEngine, LocalModel};
use crate::{
    cli::{
        CliError,
        files::{check_target, write_whole},
        generate::GenerateArguments,
        place::needed,
        session::{Session, print_result},
    },
    engine::Drawn,
    report::{PictureNotes, encode_png, picture_grid},
    spec::GenerateSpec,
};

/// Runs the drawing.
pub(in crate::cli) fn run<E: LocalEngine>(
    arguments: &GenerateArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let name = arguments.model.name()?;
    let out = needed(arguments.out.as_deref(), "--out", "--local")?;
    let pictures = (0..arguments.count)
        .map(|index| (arguments.prompt.clone(), arguments.seed.wrapping_add(u64::from(index))))
        .collect();
    let spec = GenerateSpec {
        pictures,
        negative_prompt: arguments.negative_prompt.clone(),
        steps: arguments.steps as usize,
        guidance_scale: arguments.guidance_scale,
        size: arguments
            .width
            .zip(arguments.height)
            .map(|(width, height)| (width as usize, height as usize)),
    };
    spec.validate()?;
    check_target(out)?;
    let compute = arguments.model.compute.settings().open()?;
    let engine = LocalModel::<E>::open(name, arguments.model.variant.as_deref(), &compute)?.engine;
    let mut pictures = Vec::new();
    let mut hand_over = |drawn| {
        if let Drawn::Picture { picture, .. } = drawn {
            pictures.push(picture);
        }
    };
    let ((), seconds) =
        session.work(|context| engine.generate(&spec, None, &mut hand_over, context))?;
    let mut notes = PictureNotes::drawn(&arguments.prompt, arguments.seed);
    if !arguments.negative_prompt.is_empty() {
        notes.entries.push(("negative prompt", arguments.negative_prompt.clone()));
    }
    notes.entries.push(("steps", arguments.steps.to_string()));
    notes.entries.push(("guidance scale", arguments.guidance_scale.to_string()));
    let png = encode_png(&picture_grid(&pictures)?, &notes)?;
    write_whole(&[(out, &png)], &session.interrupt)?;
    print_result(&format!("{} ({seconds:.1} s)\n", out.display()));
    Ok(())
}
