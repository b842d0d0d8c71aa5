//! `keystep generate --local`: draws in this process.

use std::path::Path;

use super::{LocalEngine, LocalModel};
use crate::{
    cli::{
        CliError,
        arguments::needed,
        generate::GenerateArguments,
        output::{check_target, write_whole},
        session::{Session, print_result},
    },
    engine::RunContext,
    outcome::{Drawn, Progress},
    report::{PictureLimits, PictureNotes, encode_png, picture_grid, read_png},
    spec::{Field, GenerateSpec, InitImage, SpecError},
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
        sampler: arguments.sampler.sampler,
        init_image: arguments
            .init_image
            .as_deref()
            .map(|path| init_image(path, arguments))
            .transpose()?,
    };
    spec.validate()?;
    check_target("--out", out, "png")?;
    let compute = arguments.model.compute.settings().open()?;
    let engine =
        LocalModel::<E>::open(name, arguments.model.variant.as_deref(), &compute, session)?.engine;
    let mut pictures = Vec::new();
    let mut hand_over = |drawn| {
        if let Drawn::Picture { picture, .. } = drawn {
            pictures.push(picture);
        }
    };
    let ((), seconds) = session.work(|context| {
        // The engine counts the steps of all pictures; samplers differ in how many they take.
        let mut report = |progress: Progress| {
            let total = spec.pictures.len();
            let done = progress.done * total / progress.total.max(1);
            (context.report)(Progress { done, total, ..progress });
        };
        let mut counted =
            RunContext { report: &mut report, cancel: context.cancel.clone(), saving: None };
        engine.generate(&spec, None, &mut hand_over, &mut counted)
    })?;
    let mut notes = PictureNotes::drawn(&arguments.prompt, arguments.seed);
    if !arguments.negative_prompt.is_empty() {
        notes.entries.push(("negative prompt", arguments.negative_prompt.clone()));
    }
    notes.entries.push(("steps", arguments.steps.to_string()));
    notes.entries.push(("guidance scale", arguments.guidance_scale.to_string()));
    if let Some(sampler) = arguments.sampler.sampler {
        notes.entries.push(("sampler", sampler.name().to_owned()));
    }
    if let Some(image) = &spec.init_image {
        notes.entries.push(("strength", image.strength.to_string()));
    }
    let png = encode_png(&picture_grid(&pictures)?, &notes)?;
    write_whole(&[(out, &png)], &session.interrupt)?;
    print_result(&format!("{} ({seconds:.1} s)\n", out.display()));
    Ok(())
}

/// The picture of a file, held to its limits before it is unpacked.
fn init_image(path: &Path, arguments: &GenerateArguments) -> Result<InitImage, CliError> {
    let png =
        std::fs::read(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
    let most = *InitImage::SIDES.end();
    let limits = PictureLimits { sides: InitImage::SIDES, pixels: most * most };
    let picture = read_png(&png, &limits)
        .map_err(|error| SpecError::one(Field::InitImage, format!("{} {error}", path.display())))?;
    Ok(InitImage {
        width: picture.width,
        height: picture.height,
        rgb: picture.rgb,
        strength: arguments.strength.unwrap_or(InitImage::STRENGTH),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{
        artifacts::open_model,
        engine::{CancelFlag, CandleEngine, RunContext},
        spec::SamplerKind,
    };

    #[test]
    fn every_sampler_draws_the_picture_of_diffusers() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/samplers/pictures.safetensors");
        let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
        let files = open_model("builtin:emoji-canvas").unwrap();
        let engine = CandleEngine::load(files.as_ref(), None).unwrap();
        for &kind in SamplerKind::ALL {
            let spec = GenerateSpec {
                pictures: vec![
                    ("a cat in neon style".to_owned(), 11),
                    ("a rocket".to_owned(), u64::from(u32::MAX)),
                ],
                negative_prompt: String::new(),
                steps: 3,
                guidance_scale: 2.0,
                size: None,
                sampler: Some(kind),
                init_image: None,
            };
            let mut context =
                RunContext { report: &mut |_| (), cancel: CancelFlag::default(), saving: None };
            let pictures = engine.generate(&spec, &mut context).unwrap();
            let drawn: Vec<u8> = pictures.into_iter().flat_map(|picture| picture.rgb).collect();
            let wanted = golden[kind.name()].flatten_all().unwrap().to_vec1::<u8>().unwrap();
            assert_eq!(drawn.len(), wanted.len());
            // A value halfway between two may round to either.
            let off = drawn.iter().zip(&wanted).map(|(got, want)| got.abs_diff(*want));
            let (most, differ) = off
                .fold((0, 0), |(most, differ), off| (off.max(most), differ + usize::from(off > 0)));
            assert!(
                most <= 1 && differ < wanted.len() / 100,
                "{kind:?}: {differ} differ by {most}"
            );
        }
    }
}
