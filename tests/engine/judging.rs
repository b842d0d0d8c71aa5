//! Judging on the built-in model: which sampler draws, and what is drawn once.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use keystep::{
    artifacts::open_model,
    engine::{
        CancelFlag, CandleEngine, EngineError, RunContext, check_judgement_sampler,
        evaluate::{KeptPictures, NoPictures, PictureStore, PicturesInMemory},
    },
    outcome::{JudgeReport, Phase, Progress},
    spec::{Concept, ConceptKind, GenerateSpec, JudgeSpec, SamplerKind, Vocabulary},
};

use crate::altered_model::AlteredModel;

const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// The built-in model, whose folder names a scheduler of another class.
fn of_class(class: &str) -> AlteredModel {
    AlteredModel::builtin().with_json(SCHEDULER, |config| {
        assert_eq!(config["_class_name"], "DDIMScheduler");
        config["_class_name"] = class.into();
    })
}

fn builtin() -> CandleEngine {
    CandleEngine::load(open_model("builtin:emoji-canvas").unwrap().as_ref(), None).unwrap()
}

/// Two cells of one picture each.
fn small(sampler: Option<SamplerKind>) -> JudgeSpec {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let vocabulary = Vocabulary {
        anything: "emoji".to_owned(),
        objects: words(&["cat", "dog"]),
        styles: words(&["neon"]),
    };
    let concept = Concept::new("cat", ConceptKind::Object);
    JudgeSpec { target_seeds: 1, steps: 2, sampler, ..JudgeSpec::new(concept, vocabulary) }
}

/// The judgement of a model against itself, and the progress of drawing.
fn judge(engine: &CandleEngine, spec: &JudgeSpec) -> (JudgeReport, Vec<Progress>) {
    judge_keeping(engine, spec, &mut NoPictures)
}

fn judge_keeping(
    engine: &CandleEngine,
    spec: &JudgeSpec,
    store: &mut dyn PictureStore,
) -> (JudgeReport, Vec<Progress>) {
    let mut reports = Vec::new();
    let mut report = |progress: Progress| {
        if progress.phase == Phase::Draw {
            reports.push(progress);
        }
    };
    let mut context = RunContext::reporting(&mut report);
    let judged = engine.judge_keeping(spec, engine, store, &mut context).unwrap();
    (judged, reports)
}

#[test]
fn both_models_draw_with_the_sampler_asked_for() {
    let engine = builtin();
    let (own, _) = judge(&engine, &small(None));
    for kind in [SamplerKind::Ddim, SamplerKind::Pndm, SamplerKind::EulerAncestral] {
        let (judged, reports) = judge(&engine, &small(Some(kind)));
        assert!(judged.verdicts.iter().all(|verdict| verdict.sampler == kind));
        let asked = GenerateSpec {
            pictures: judged
                .pictures
                .iter()
                .map(|picture| (picture.prompt.sentence("emoji"), picture.seed))
                .collect(),
            negative_prompt: String::new(),
            steps: 2,
            guidance_scale: judged.spec.guidance_scale,
            size: None,
            init_image: None,
            sampler: Some(kind),
        };
        let mut context =
            RunContext { report: &mut |_| (), cancel: CancelFlag::default(), saving: None };
        let drawn = engine.generate(&asked, &mut context).unwrap();
        for (judged, drawn) in judged.pictures.iter().zip(&drawn) {
            assert!(judged.before == *drawn && judged.after == *drawn, "{kind:?}");
        }
        assert_eq!(judged.pictures == own.pictures, kind == SamplerKind::Ddim, "{kind:?}");
        // PNDM evaluates one step twice; progress counts pictures all the same.
        let evaluated = if kind == SamplerKind::Pndm { 3 } else { 2 };
        assert_eq!(judged.unet_evaluations, 2 * 2 * evaluated * 2);
        assert!(
            reports.iter().all(|progress| progress.total == 4 && progress.done <= 4),
            "{reports:?}"
        );
        assert_eq!(reports.last().unwrap().done, 4);
    }
}

#[test]
fn the_folders_own_sampler_draws_where_none_is_asked_for() {
    assert_eq!(builtin().judge_sampler(&small(None)).unwrap(), SamplerKind::Ddim);
    for (class, kind) in [
        ("EulerDiscreteScheduler", SamplerKind::Euler),
        // Of another's class there is none.
        ("HeunDiscreteScheduler", SamplerKind::Ddim),
    ] {
        let engine = of_class(class).load();
        let (judged, _) = judge(&engine, &small(None));
        assert!(judged.verdicts.iter().all(|verdict| verdict.sampler == kind), "{class}");
        assert_eq!(judged.spec.sampler, None);
        let (asked, _) = judge(&engine, &small(Some(kind)));
        assert!(asked.pictures == judged.pictures, "{class}");
    }
}

#[test]
fn a_sampler_that_cannot_take_the_steps_is_refused_before_anything_is_drawn() {
    let files = of_class("LCMScheduler");
    let engine = CandleEngine::load(&files, None).unwrap();
    let of = |sampler, steps| JudgeSpec { steps, ..small(sampler) };
    assert!(engine.judge_sampler(&of(None, 50)).is_ok());
    assert!(check_judgement_sampler(&files, &of(None, 50)).is_ok());
    for refused in [
        engine.judge_sampler(&of(None, 51)).map(drop),
        check_judgement_sampler(&files, &of(None, 51)),
        check_judgement_sampler(&files, &of(Some(SamplerKind::Lcm), 51)),
    ] {
        let Err(EngineError::Spec(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.violations[0].field.to_string(), "steps");
    }
    assert!(check_judgement_sampler(&files, &of(Some(SamplerKind::Ddim), 51)).is_ok());
}

/// A grid of 32 cells, which are drawn together, and one more picture of each of the concept's own.
fn wide(concept: &str) -> JudgeSpec {
    let objects = [
        "cat", "dog", "rabbit", "fish", "turtle", "penguin", "car", "airplane", "bicycle",
        "sailboat", "rocket", "house", "tree", "flower", "cactus", "apple",
    ];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let vocabulary = Vocabulary {
        anything: "emoji".to_owned(),
        objects: words(&objects),
        styles: words(&["neon", "comic"]),
    };
    let concept = Concept::new(concept, ConceptKind::Object);
    let drawn = JudgeSpec::new(concept, vocabulary);
    JudgeSpec { target_seeds: 2, steps: 1, guidance_scale: 1.0, ..drawn }
}

#[test]
fn the_base_model_draws_what_concepts_share_once() {
    let engine = builtin();
    let mut store = PicturesInMemory::default();
    // 34 pictures of a step without guidance, by both models.
    let (first, reports) = judge_keeping(&engine, &wide("cat"), &mut store);
    assert_eq!((first.unet_evaluations, first.kept_evaluations), (68, 0));
    assert_eq!(reports.last().map(|last| (last.done, last.total)), Some((68, 68)));

    // The same again: half the work, and the same report.
    let (again, reports) = judge_keeping(&engine, &wide("cat"), &mut store);
    assert_eq!((again.unet_evaluations, again.kept_evaluations), (68, 34));
    assert!(
        reports.iter().all(|progress| progress.total == 34 && progress.done <= 34),
        "{reports:?}"
    );
    assert_eq!(reports.last().unwrap().done, 34);
    assert!(JudgeReport { kept_evaluations: 0, ..again } == first);

    // Another concept: the base model draws its two further pictures.
    let (other, reports) = judge_keeping(&engine, &wide("dog"), &mut store);
    assert_eq!((other.unet_evaluations, other.kept_evaluations), (68, 32));
    assert_eq!(reports.last().map(|last| (last.done, last.total)), Some((36, 36)));
    let (anew, _) = judge(&engine, &wide("dog"));
    assert!(JudgeReport { kept_evaluations: 0, ..other } == anew);
}

#[test]
fn pictures_are_kept_for_one_drawing_alone() {
    let engine = builtin();
    let mut store = PicturesInMemory::default();
    let of = |change: &dyn Fn(&mut JudgeSpec)| {
        let mut spec = JudgeSpec { steps: 1, guidance_scale: 1.0, ..small(None) };
        change(&mut spec);
        spec
    };
    let mut kept = |spec: &JudgeSpec| judge_keeping(&engine, spec, &mut store).0.kept_evaluations;
    let plain = of(&|_| ());
    assert_eq!((kept(&plain), kept(&plain)), (0, 2));
    // The folder's own sampler is DDIM: the same drawing.
    assert_eq!(kept(&of(&|spec| spec.sampler = Some(SamplerKind::Ddim))), 2);
    let others: [&dyn Fn(&mut JudgeSpec); 5] = [
        &|spec| spec.sampler = Some(SamplerKind::Euler),
        &|spec| spec.steps = 2,
        &|spec| spec.guidance_scale = 0.5,
        &|spec| spec.seed = 1,
        &|spec| spec.vocabulary.objects[1] = "car".to_owned(),
    ];
    for (index, change) in others.iter().enumerate() {
        assert_eq!(kept(&of(change)), 0, "{index}");
    }
    assert_eq!(kept(&plain), 2);
}

/// Gives what no drawing came to.
struct Lying(fn(&mut KeptPictures), PicturesInMemory);

impl PictureStore for Lying {
    fn load(&mut self, drawing: &str) -> Option<KeptPictures> {
        let mut kept = self.1.load(drawing)?;
        (self.0)(&mut kept);
        Some(kept)
    }

    fn save(&mut self, drawing: &str, kept: &KeptPictures) {
        self.1.save(drawing, kept);
    }
}

#[test]
fn pictures_of_another_shape_are_drawn_anew() {
    let engine = builtin();
    let spec = JudgeSpec { steps: 1, guidance_scale: 1.0, ..small(None) };
    let (first, _) = judge(&engine, &spec);
    let lies: [fn(&mut KeptPictures); 3] = [
        |kept| drop(kept.pictures.pop()),
        |kept| kept.pictures[0].width /= 2,
        |kept| kept.pictures[1].rgb.truncate(5),
    ];
    for lie in lies {
        let mut store = Lying(lie, PicturesInMemory::default());
        assert!(judge_keeping(&engine, &spec, &mut store).0 == first);
        assert!(judge_keeping(&engine, &spec, &mut store).0 == first);
    }
}
