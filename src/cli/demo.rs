//! `keystep demo`: the whole main job on the model that comes with the program.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;

use super::{
    CliError,
    arguments::{MethodArguments, QuietArguments, kind_parser},
    files::name_part,
    local::{BUILTIN_MODEL, LocalEngine, LocalModel},
    result_folder::{CHECKPOINT, EXPECTED, verdict_table, write_evidence, write_model},
    session::{Session, cost, print_result},
    staging::Staging,
};
use crate::{
    report::{Cost, Evidence, RunReport},
    spec::{Concept, ConceptKind, JudgeSpec, KeySteps, Method, ScoreSpec, UnlearnSpec},
};

/// Makes the built-in model forget a concept: score, erase, draw before and after, judge, write.
///
/// Needs no download, no server and no GPU, and takes some minutes on two cores.
#[derive(Debug, Args)]
#[command(after_help = "\
The model draws emoji. Objects: cat, dog, rabbit, fish, turtle, penguin, car, airplane, bicycle, \
sailboat, rocket, house, tree, flower, cactus, apple, banana, mushroom, heart, star. \
Styles: flat, comic, glossy, stencil, blueprint, neon, pixel, sketch.

The folder then holds:
  report.html        everything on one page; start here
  before-after.png   pictures of both models for the same prompts and seeds
  scores.png         which denoising steps decide the concept (numbers in scores.json)
  report.json        figures, cost, spec, digests (every update in training.json)
  checkpoint/        the edited model, a diffusers folder
  delta.safetensors  the edited tensors alone

Examples:
  keystep demo
  keystep demo --concept neon --kind style
  keystep demo --concept cat --replace-with dog --out cat-to-dog
  keystep demo --method kscu")]
pub(super) struct DemoArguments {
    /// The word to forget, one of the model's.
    #[arg(long, value_name = "TEXT", default_value = "cat")]
    pub(super) concept: String,
    /// What sort of thing the concept is.
    #[arg(long, value_name = "KIND", default_value = "object", value_parser = kind_parser())]
    pub(super) kind: ConceptKind,
    /// What shall appear in its place, such as dog [default: nothing in particular].
    #[arg(long, value_name = "TEXT")]
    pub(super) replace_with: Option<String>,
    #[command(flatten)]
    pub(super) method: MethodArguments,
    /// Drives every draw of scoring and training; the pictures that are judged have fixed seeds.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Folder to make; must not exist [default: keystep-demo-CONCEPT].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}

/// Runs the demo.
pub(super) fn run<E: LocalEngine>(
    arguments: &DemoArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let out = arguments.out.clone().unwrap_or_else(|| {
        PathBuf::from(format!("keystep-demo-{}", name_part(&arguments.concept)))
    });
    let concept = Concept {
        text: arguments.concept.clone(),
        kind: arguments.kind,
        replacement: arguments.replace_with.clone(),
    };
    concept.validate("concept")?;
    let (mut method, scope) = arguments.method.preset(arguments.kind, false);
    if arguments.method.learning_rate.is_none() {
        set_canvas_rate(&mut method, arguments.kind);
    }
    method.validate()?;
    let mut staging = Staging::create(&out, &EXPECTED, &session.interrupt)?;
    let name = method.name().name();
    session.note(&format!("forgetting \"{}\" with {name}, seed {}", concept.text, arguments.seed));

    let mut base = LocalModel::<E>::open(BUILTIN_MODEL, None)?;
    let vocabulary = base.engine.vocabulary().clone();
    let mut spec = UnlearnSpec {
        concepts: vec![concept.clone()],
        method,
        scope: scope.clone(),
        preserve: Vec::new(),
        vocabulary: vocabulary.clone(),
        seed: arguments.seed,
    };
    let score_spec = ScoreSpec {
        scope,
        seed: arguments.seed,
        ..ScoreSpec::new(concept.clone(), vocabulary.clone())
    };
    let judge_spec = JudgeSpec::new(concept, vocabulary);
    // All of it before any work, so that a wrong word costs no minutes.
    spec.validate()?;
    score_spec.validate()?;
    judge_spec.validate()?;

    let (scores, seconds) =
        session.work(|context| base.engine.score_timesteps(&score_spec, context))?;
    let scoring = cost(scores.unet_evaluations, seconds);
    if let Method::Keystep(settings) = &mut spec.method {
        settings.key_steps = KeySteps::Window(scores.window);
    }
    let (erased, seconds) = session.work(|context| base.engine.unlearn(&spec, context))?;
    let erasing = cost(E::log(&erased).unet_evaluations, seconds);

    write_model(&base, &erased, &spec, &mut staging)?;
    // The model is judged as it was written: read back from its folder.
    let checkpoint = staging.path().join(CHECKPOINT);
    let edited = LocalModel::<E>::open(&checkpoint.to_string_lossy(), None)?;
    let (judged, seconds) =
        session.work(|context| base.engine.judge(&judge_spec, &edited.engine, context))?;
    let judging = cost(judged.unet_evaluations, seconds);

    let evidence = Evidence {
        model: base.files.location(),
        spec: &spec,
        log: E::log(&erased),
        scores: std::slice::from_ref(&scores),
        judged: std::slice::from_ref(&judged),
        cost: Cost { scoring, erasing, judging },
        seconds: Some(session.seconds()),
        peak_rss_bytes: None,
        versions: BTreeMap::new(),
        digests: BTreeMap::new(),
    };
    let report = write_evidence(base.files.as_ref(), evidence, &mut staging)?;
    staging.commit()?;
    print_result(&summary(&report, &out));
    Ok(())
}

/// The published rate of 1e-5 hardly moves so small a model: the published methods run at the best
/// of the rates that were tried on it (`docs/figures.md`). Keystep derives its own.
fn set_canvas_rate(method: &mut Method, kind: ConceptKind) {
    match method {
        Method::Keystep(_) => {}
        Method::Kscu(settings) => {
            settings.learning_rate = if kind == ConceptKind::Style { 3e-4 } else { 3e-5 };
        }
        Method::Esd(settings) => {
            settings.learning_rate = if kind == ConceptKind::Style { 1e-3 } else { 3e-4 };
        }
    }
}

/// The short table and where to look.
fn summary(report: &RunReport, out: &std::path::Path) -> String {
    let concept = report.spec.concepts.first().map_or("", |concept| concept.text.as_str());
    let peak = report
        .peak_rss_bytes
        .map_or_else(String::new, |bytes| format!(", peak memory {} MiB", bytes >> 20));
    format!(
        "\"{concept}\" forgotten by {}\n\n{}\n{} U-Net evaluations to erase, {:.0} s in all{peak}\n\n\
         Look at:\n  {}\n  {}\n  {}\nThe edited model: {}\n",
        report.spec.method.name().name(),
        verdict_table(&report.judges),
        report.unet_evaluations,
        report.seconds.unwrap_or_default(),
        out.join("report.html").display(),
        out.join("before-after.png").display(),
        out.join("scores.png").display(),
        out.join(CHECKPOINT).display(),
    )
}
