//! `keystep evaluate`: judges a model that was erased earlier.

use std::path::PathBuf;

use clap::Args;

use super::{
    CliError,
    arguments::{LocalArguments, ModelArguments, QuietArguments, VocabularyArguments, kind_parser},
    files::{check_target, write_whole},
    local::{LocalEngine, LocalModel},
    memory::peak_rss_bytes,
    result_folder::{verdict_table, versions},
    session::{Session, print_result},
};
use crate::{
    report::{EvaluationReport, Headline, contact_sheet},
    spec::{Concept, ConceptKind, JudgeSpec},
};

/// Judges an erased model beside its base: what is forgotten (UA), what is kept in the same domain
/// (IRA) and in the other one (CRA).
#[derive(Debug, Args)]
#[command(after_help = "\
Both models draw the same prompts from the same seeds, and the base model's judges name what the \
pictures show.

Example:
  keystep evaluate --local --model no-cat/checkpoint --base builtin:emoji-canvas \\
      --concept cat --kind object --out no-cat.json --sheet no-cat.png")]
pub(super) struct EvaluateArguments {
    #[command(flatten)]
    pub(super) local: LocalArguments,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// The model before the erasure, which holds the judges: a diffusers folder, or
    /// builtin:emoji-canvas.
    #[arg(long, value_name = "DIR|NAME")]
    pub(super) base: String,
    /// What should be gone; a word of the vocabulary.
    #[arg(long, value_name = "TEXT")]
    pub(super) concept: String,
    /// What sort of thing the concept is.
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    pub(super) kind: ConceptKind,
    #[command(flatten)]
    pub(super) vocabulary: VocabularyArguments,
    /// Where the pictures' seeds start.
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub(super) seed: u64,
    /// Pictures of each prompt with the concept [default: so many that there are 32 or more].
    #[arg(long, value_name = "N")]
    pub(super) target_seeds: Option<usize>,
    /// Pictures of each prompt without it [default: 1].
    #[arg(long, value_name = "N")]
    pub(super) retain_seeds: Option<usize>,
    /// Denoising steps, 1 to 1000 [default: 20].
    #[arg(long, value_name = "N")]
    pub(super) steps: Option<usize>,
    /// JSON file to write; must not exist.
    #[arg(long, value_name = "FILE.json")]
    pub(super) out: PathBuf,
    /// Also write a contact sheet, before above after; must not exist.
    #[arg(long, value_name = "FILE.png")]
    pub(super) sheet: Option<PathBuf>,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}

/// Runs the judgement.
pub(super) fn run<E: LocalEngine>(
    arguments: &EvaluateArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    arguments.local.check()?;
    let concept = Concept::new(&arguments.concept, arguments.kind);
    concept.validate("concept")?;
    if arguments.sheet.as_ref() == Some(&arguments.out) {
        return Err(CliError::Usage("--out and --sheet name the same file".to_owned()));
    }
    for file in std::iter::once(&arguments.out).chain(&arguments.sheet) {
        check_target(file)?;
    }
    let mut base = LocalModel::<E>::open(&arguments.base, None)?.engine;
    let vocabulary = arguments.vocabulary.words(base.vocabulary())?;
    let mut spec = JudgeSpec::new(concept, vocabulary);
    spec.seed = arguments.seed;
    spec.target_seeds = arguments.target_seeds.unwrap_or(spec.target_seeds);
    spec.retain_seeds = arguments.retain_seeds.unwrap_or(spec.retain_seeds);
    spec.steps = arguments.steps.unwrap_or(spec.steps);
    spec.validate()?;
    let edited =
        LocalModel::<E>::open(&arguments.model.model, arguments.model.variant.as_deref())?.engine;
    let (judged, _) = session.work(|context| base.judge(&spec, &edited, context))?;
    let report = EvaluationReport {
        headline: Headline::of(&judged.verdicts),
        judges: judged.verdicts.clone(),
        unet_evaluations: judged.unet_evaluations,
        seconds: Some(session.seconds()),
        peak_rss_bytes: peak_rss_bytes(),
        model: arguments.model.model.clone(),
        base: arguments.base.clone(),
        spec: judged.spec.clone(),
        versions: versions(),
    };
    let sheet = arguments
        .sheet
        .as_ref()
        .map(|path| {
            contact_sheet(&judged.pictures, &spec.vocabulary, &spec.concept).map(|png| (path, png))
        })
        .transpose()?;
    let json = report.to_json()?;
    let mut files = vec![(arguments.out.as_path(), json.as_slice())];
    files.extend(sheet.as_ref().map(|(path, png)| (path.as_path(), png.as_slice())));
    write_whole(&files, &session.interrupt)?;
    print_result(&verdict_table(&report.judges));
    Ok(())
}
