//! Draws the base model's pictures for a judgement, except those that a [`PictureStore`] has kept:
//! most of a grid is the same for every concept.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Evaluation;
use crate::{
    engine::{
        EngineError, Pipeline, RunContext, device,
        generate::{self, Decode, DrawingPolicy},
    },
    outcome::{DeviceKind, Phase, Picture, Progress},
    spec::GenerateSpec,
};

/// Pictures that were drawn together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPictures {
    /// In the order of the drawing.
    pub pictures: Vec<Picture>,
    /// Single-sample U-Net evaluations that they took.
    pub unet_evaluations: u64,
}

/// Where pictures of one model are kept from one judgement to the next. Nothing depends on it but
/// time: what it does not give is drawn.
pub trait PictureStore {
    /// The pictures of a drawing, to the last bit as they were saved; `None` where there are none, or
    /// where they were damaged. `drawing` names, beside prompts and seeds, everything that they
    /// depend on but the model.
    fn load(&mut self, drawing: &str) -> Option<KeptPictures>;

    /// Keeps the pictures of a drawing. A store that cannot keep them logs why; the judgement goes on.
    fn save(&mut self, drawing: &str, kept: &KeptPictures);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoPictures;

impl PictureStore for NoPictures {
    fn load(&mut self, _: &str) -> Option<KeptPictures> {
        None
    }

    fn save(&mut self, _: &str, _: &KeptPictures) {}
}

/// Keeps everything for as long as the process has it.
#[derive(Debug, Clone, Default)]
pub struct PicturesInMemory(BTreeMap<String, KeptPictures>);

impl PictureStore for PicturesInMemory {
    fn load(&mut self, drawing: &str) -> Option<KeptPictures> {
        self.0.get(drawing).cloned()
    }

    fn save(&mut self, drawing: &str, kept: &KeptPictures) {
        self.0.insert(drawing.to_owned(), kept.clone());
    }
}

/// Names pictures by all that their bits depend on but the model.
#[derive(Serialize)]
struct Drawing<'a> {
    engine: &'static str,
    device: DeviceKind,
    instructions: Vec<&'static str>,
    unet_type: &'static str,
    in_tiles: bool,
    pictures: &'a GenerateSpec,
}

/// Pictures that are drawn together. What else is drawn with a picture may turn its last bits, so
/// that groups are kept whole, as the generator makes them.
struct Group {
    spec: GenerateSpec,
    /// None where it has no name, and is not kept.
    drawing: Option<String>,
    kept: Option<KeptPictures>,
}

/// What is drawn.
#[derive(Debug)]
pub(in crate::engine) struct Drawings {
    /// By both models.
    pub(in crate::engine) both: GenerateSpec,
    /// By the base model alone.
    pub(in crate::engine) base_alone: Option<GenerateSpec>,
}

/// Both models' pictures of one drawing, and the base model's of another.
pub(super) struct DrawnPictures {
    pub(super) before: Vec<Picture>,
    pub(super) after: Vec<Picture>,
    /// What the base model drew alone.
    pub(super) alone: Vec<Picture>,
    /// Evaluations that they take, whether they were drawn now or before.
    pub(super) unet_evaluations: u64,
    /// Those of them that were spent before.
    pub(super) kept_evaluations: u64,
}

/// Draws with both models what is not kept, with progress in the pictures that are drawn now.
pub(super) fn draw(
    evaluation: Evaluation<'_>,
    drawings: &Drawings,
    store: &mut dyn PictureStore,
    context: &mut RunContext<'_>,
) -> Result<DrawnPictures, EngineError> {
    let Evaluation { base, edited, policy, .. } = evaluation;
    let drawing = &drawings.both;
    let mut groups = find(base, drawing, policy, store)?;
    if let Some(alone) = &drawings.base_alone {
        groups.extend(find(base, alone, policy, store)?);
    }
    let missing = groups.iter().filter(|group| group.kept.is_none());
    let missing: usize = missing.map(|group| group.spec.pictures.len()).sum();
    let total = missing + drawing.pictures.len();
    let mut counted = CountedDrawing { done: 0, total, policy, context };
    let mut drawn = DrawnPictures {
        before: Vec::with_capacity(drawing.pictures.len()),
        after: Vec::new(),
        alone: Vec::new(),
        unet_evaluations: 0,
        kept_evaluations: 0,
    };
    for group in groups {
        let kept = if let Some(kept) = group.kept {
            drawn.kept_evaluations += kept.unet_evaluations;
            kept
        } else {
            let kept = counted.draw(base, &group.spec)?;
            if let Some(drawing) = &group.drawing {
                store.save(drawing, &kept);
            }
            kept
        };
        drawn.unet_evaluations += kept.unet_evaluations;
        // Groups are whole, so that the drawing of both ends with one.
        let pictures = if drawn.before.len() < drawing.pictures.len() {
            &mut drawn.before
        } else {
            &mut drawn.alone
        };
        pictures.extend(kept.pictures);
    }
    let after = counted.draw(edited, drawing)?;
    drawn.unet_evaluations += after.unet_evaluations;
    drawn.after = after.pictures;
    Ok(drawn)
}

/// The groups of a drawing, with what is kept of them.
fn find(
    base: &Pipeline,
    drawing: &GenerateSpec,
    policy: DrawingPolicy,
    store: &mut dyn PictureStore,
) -> Result<Vec<Group>, EngineError> {
    let [_, height, width] = base.latent_shape(drawing.size)?;
    let factor = base.vae.factor();
    let whole = |picture: &Picture| {
        (picture.width, picture.height) == (width * factor, height * factor)
            && picture.rgb.len() == picture.width * picture.height * 3
    };
    let mut groups = Vec::new();
    for pictures in drawing.pictures.chunks(generate::group_size([height, width])) {
        let spec = GenerateSpec { pictures: pictures.to_vec(), ..drawing.clone() };
        let named = describe(base, &spec, policy);
        let kept = named.as_deref().and_then(|named| store.load(named)).filter(|kept| {
            kept.pictures.len() == pictures.len() && kept.pictures.iter().all(whole)
        });
        groups.push(Group { spec, drawing: named, kept });
    }
    Ok(groups)
}

fn describe(base: &Pipeline, pictures: &GenerateSpec, policy: DrawingPolicy) -> Option<String> {
    let drawing = Drawing {
        engine: env!("CARGO_PKG_VERSION"),
        device: base.device_kind(),
        instructions: device::instructions(),
        unet_type: base.unet_dtype.as_str(),
        in_tiles: policy.decode == Decode::Tiled,
        pictures,
    };
    serde_json::to_string(&drawing).ok()
}

/// Draws one drawing after another, with progress over all of them.
struct CountedDrawing<'a, 'b> {
    /// Pictures.
    done: usize,
    total: usize,
    policy: DrawingPolicy,
    context: &'a mut RunContext<'b>,
}

impl CountedDrawing<'_, '_> {
    fn draw(
        &mut self,
        pipeline: &Pipeline,
        drawing: &GenerateSpec,
    ) -> Result<KeptPictures, EngineError> {
        let (before, total, count) = (self.done, self.total, drawing.pictures.len());
        let context = &mut *self.context;
        let mut report = |progress: Progress| {
            // Samplers differ in how many evaluations a picture takes.
            let done = before + progress.done * count / progress.total.max(1);
            (context.report)(Progress { phase: Phase::Draw, done, total, ..progress });
        };
        // A judgement is not saved, so that nothing waits for a pause here.
        let mut counted =
            RunContext { report: &mut report, cancel: context.cancel.clone(), saving: None };
        let (pictures, unet_evaluations) =
            generate::generate(pipeline, drawing, self.policy, &mut counted)?;
        self.done += count;
        Ok(KeptPictures { pictures, unet_evaluations })
    }
}
