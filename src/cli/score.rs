//! `keystep score`: measures which denoising steps decide a concept.

use std::path::PathBuf;

use clap::Args;

use super::{
    CliError,
    arguments::{LocalArguments, ModelArguments, QuietArguments, VocabularyArguments, kind_parser},
    files::json_bytes,
    local::{LocalEngine, LocalModel},
    session::{Session, print_result},
    staging::Staging,
};
use crate::{
    report::score_plot,
    spec::{Concept, ConceptKind, Scope, ScoreSpec, Vocabulary},
};

/// Measures which denoising steps decide a concept, and recommends where to train.
#[derive(Debug, Args)]
#[command(after_help = "\
The folder then holds scores.json (for `keystep unlearn --scores`) and scores.png.

Examples:
  keystep score --local --model builtin:emoji-canvas --concept cat --kind object --out cat-scores
  keystep score --local --model sd14 --concept neon --kind style --no-switch-curve \\
      --trajectories 4 --out neon-scores")]
pub(super) struct ScoreArguments {
    #[command(flatten)]
    pub(super) local: LocalArguments,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// What to measure: bare words, no sentence.
    #[arg(long, value_name = "TEXT")]
    pub(super) concept: String,
    /// What sort of thing the concept is.
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    pub(super) kind: ConceptKind,
    #[command(flatten)]
    pub(super) vocabulary: VocabularyArguments,
    /// Steps of the schedule that is scored, 4 to 1000.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) steps: usize,
    /// Trajectories, each with its own seed, that are averaged over, 2 to 1024.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(super) trajectories: usize,
    /// Leave out the switch curve, which draws many pictures and needs the model to have a judge.
    #[arg(long)]
    pub(super) no_switch_curve: bool,
    /// The tensors whose gradients are compared; see `keystep unlearn --help`.
    #[arg(long, value_name = "SCOPE", default_value = "cross-attention")]
    pub(super) scope: Scope,
    /// First seed; trajectory N uses this plus N.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Folder to make; must not exist.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}

/// Runs the measurement.
pub(super) fn run<E: LocalEngine>(
    arguments: &ScoreArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    arguments.local.check()?;
    let mut spec = ScoreSpec {
        steps: arguments.steps,
        trajectories: arguments.trajectories,
        switch_curve: !arguments.no_switch_curve,
        scope: arguments.scope.clone(),
        seed: arguments.seed,
        ..ScoreSpec::new(
            Concept::new(&arguments.concept, arguments.kind),
            arguments.vocabulary.words(&Vocabulary::default())?,
        )
    };
    spec.validate()?;
    let expected = ["scores.json", "scores.png"];
    let mut staging = Staging::create(&arguments.out, &expected, &session.interrupt)?;
    let mut engine =
        LocalModel::<E>::open(&arguments.model.model, arguments.model.variant.as_deref())?.engine;
    spec.vocabulary = arguments.vocabulary.words(engine.vocabulary())?;
    spec.validate()?;
    let (scores, _) = session.work(|context| engine.score_timesteps(&spec, context))?;
    staging.write("scores.json", &json_bytes(&scores)?)?;
    staging.write("scores.png", &score_plot(&scores)?)?;
    staging.commit()?;
    print_result(&format!(
        "Recommended window: log-SNR {:.3}:{:.3}, steps {} to {} of {}\n{}\nLook at {}\n",
        scores.window.low,
        scores.window.high,
        scores.window_steps.0.0,
        scores.window_steps.1.0,
        scores.steps.len(),
        scores.rule,
        arguments.out.join("scores.png").display(),
    ));
    Ok(())
}
