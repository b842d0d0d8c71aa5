//! `keystep demo`: scores, erases, draws and judges on the built-in model. It starts the daemon of
//! `keystep serve` in this process, asks it as any client does, and shuts it down.

mod demo_run;
mod embedded;
mod result;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    CliError,
    arguments::{ComputeArguments, MethodArguments, QuietArguments, kind_parser},
    output::{Staging, name_part},
    session::{Session, print_result},
    verdict_table::verdict_table,
};
use crate::{
    device::EngineSource,
    outcome::result_layout::{PIPELINE, REPORT_PAGE},
    report::RunReport,
    spec::{Concept, ConceptKind},
};
use demo_run::DemoRun;
use result::EXPECTED;

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
  pipeline/          the edited model, a diffusers folder
  delta.safetensors  the edited tensors alone

Examples:
  keystep demo
  keystep demo --concept neon --kind style
  keystep demo --concept cat --replace-with dog --out cat-to-dog
  keystep demo --method kscu")]
pub(super) struct DemoArguments {
    /// The word to forget, one of the model's.
    #[arg(long, value_name = "TEXT", default_value = "cat", allow_hyphen_values = true)]
    pub(super) concept: String,
    /// What sort of thing the concept is.
    #[arg(long, value_name = "KIND", default_value = "object", value_parser = kind_parser())]
    pub(super) kind: ConceptKind,
    /// What shall appear in its place, such as dog [default: nothing in particular].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
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
    pub(super) compute: ComputeArguments,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}

/// Runs the demo, with engines of this source.
pub(super) fn run(
    arguments: &DemoArguments,
    source: impl EngineSource,
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
    concept.validate()?;
    let concept = concept.canonical();
    let demo_run = DemoRun::new(concept, &arguments.method, arguments.seed)?;
    let mut staging = Staging::create(&out, &EXPECTED, &session.interrupt)?;
    let (concept, method) = (&arguments.concept, arguments.method.method.name());
    session.note(&format!("forgetting \"{concept}\" with {method}, seed {}", arguments.seed));
    // Within the unfinished folder, so that whatever removes that leaves nothing of the daemon.
    let daemon_folder = staging.path().join(embedded::FOLDER);
    let answers = embedded::ask_own_daemon(source, &daemon_folder, &demo_run, session)?;
    let report = result::write(&answers, &session.measurements(0.0), &mut staging)?;
    std::fs::remove_dir_all(&daemon_folder)
        .map_err(|source| CliError::Remove { path: daemon_folder, source })?;
    staging.commit()?;
    print_result(&summary(&report, &out));
    Ok(())
}

/// The short table and where to look.
fn summary(report: &RunReport, out: &Path) -> String {
    let concept = report.spec.concepts.first().map_or("", |concept| concept.text.as_str());
    let peak = report
        .peak_rss_bytes
        .map_or_else(String::new, |bytes| format!(", peak memory {} MiB", bytes >> 20));
    format!(
        "\"{concept}\" forgotten by {}\n\n{}\n{} U-Net evaluations to erase, {:.0} s in all{peak}\n\n\
         Look at:\n  {}\n  {}\n  {}\nThe edited model: {}\n",
        report.spec.method.name().name(),
        verdict_table(&report.judges, &report.evaluation.distances),
        report.unet_evaluations,
        report.seconds.unwrap_or_default(),
        out.join(REPORT_PAGE).display(),
        out.join("before-after.png").display(),
        out.join("scores.png").display(),
        out.join(PIPELINE).display(),
    )
}
