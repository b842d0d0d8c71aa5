//! The library in one file: erases "cat" from the built-in model, draws the same prompts and seeds
//! before and after, and writes the edited model as a folder that diffusers opens.
//!
//! ```sh
//! cargo run --release --example erase             # writes no-cat/
//! cargo run --release --example erase -- FOLDER   # must not exist
//! ```

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use keystep::{
    artifacts::{StagedFolder, diffusers::write_checkpoint, open_model, refuse_erased_weights},
    engine::{CancelFlag, CandleEngine, RunContext},
    outcome::{Phase, Picture, Progress},
    report::{PictureNotes, encode_png, picture_grid},
    spec::{Concept, ConceptKind, GenerateSpec, Method, MethodName, UnlearnSpec},
};

/// A folder's path does as well.
const MODEL: &str = "builtin:emoji-canvas";

/// The parts of the result; without one of them the folder never gets its name.
const UNET: &str = "pipeline/unet/diffusion_pytorch_model.safetensors";
const DELTA: &str = "delta.safetensors";
const SHEET: &str = "before-after.png";

/// Enough to see the cat go; without this the method runs up to 100.
const UPDATES: usize = 30;

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("no-cat"), PathBuf::from);
    // Before the work, so that a name that is taken costs none. Dropped uncommitted, it removes
    // what was written.
    let mut folder = StagedFolder::create(&out, &[UNET, DELTA, SHEET])?;

    let files = open_model(MODEL)?;
    let base = CandleEngine::load(files.as_ref(), None)?;
    let spec = erasure(&base);

    let mut report = |progress: Progress| {
        if let (Phase::Train, Some(update)) = (progress.phase, &progress.update) {
            eprintln!("update {} of {}: loss {:.4}", progress.done, progress.total, update.loss);
        }
    };
    // Another thread can set a clone of `cancel`; with `saving` a later process could take the run
    // up where this one left it.
    let mut context =
        RunContext { report: &mut report, cancel: CancelFlag::default(), saving: None };
    // An error where the run did nothing to speak of, or wrecked the model.
    let erased = base.unlearn(&spec, &mut context)?;
    // Shares every tensor with the base but for the edited ones.
    let edited = base.with_erased(&erased)?;

    let mut pictures = draw(&base, &mut context)?;
    pictures.extend(draw(&edited, &mut context)?);
    let sheet = encode_png(&picture_grid(&pictures)?, &PictureNotes::default())?;

    folder.within("pipeline", |folder| {
        write_checkpoint(folder, files.as_ref(), |out| Ok(erased.write_unet(out)?))
    })?;
    let metadata = BTreeMap::from([
        ("keystep.base".to_owned(), files.location().to_owned()),
        ("keystep.spec".to_owned(), serde_json::to_string(&erased.spec)?),
    ]);
    folder.write(DELTA, |out| Ok(erased.write_delta(&metadata, out)?))?;
    folder.write(SHEET, |out| out.write_all(&sheet))?;
    // No other file of the result may bring back what was erased.
    refuse_erased_weights(folder.unfinished(), &erased.erased_stretches()?, &[UNET, DELTA])?;
    folder.commit()?;

    let log = &erased.log;
    writeln!(
        io::stdout(),
        "{} updates; of the concept's guidance {:.2} is left\n{}",
        log.updates.len(),
        log.erase_measure,
        out.display()
    )?;
    Ok(())
}

/// What is asked: the preset of the method for objects, with fewer updates.
fn erasure(model: &CandleEngine) -> UnlearnSpec {
    let kind = ConceptKind::Object;
    let (mut method, scope) = Method::preset(MethodName::Keystep, kind, false);
    if let Method::Keystep(settings) = &mut method {
        settings.updates = UPDATES;
    }
    UnlearnSpec {
        concepts: vec![Concept::new("cat", kind)],
        method,
        scope,
        preserve: Vec::new(),
        // The words that the model draws: contexts of the concept, and neighbours to hold.
        vocabulary: model.vocabulary().clone(),
        seed: 0,
    }
}

/// The concept and a neighbour, with the same seed each time.
fn draw(
    model: &CandleEngine,
    context: &mut RunContext<'_>,
) -> Result<Vec<Picture>, Box<dyn Error>> {
    let prompts = ["a cat in neon style", "a dog in neon style"];
    let spec = GenerateSpec::new(prompts.map(|prompt| (prompt.to_owned(), 7)).to_vec(), 25, 5.0);
    Ok(model.generate(&spec, context)?)
}
