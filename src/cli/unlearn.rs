//! `keystep unlearn`: erases concepts from a model.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;

use super::{
    CliError,
    arguments::{
        LocalArguments, MethodArguments, ModelArguments, QuietArguments, VocabularyArguments,
        WindowArguments, kind_parser,
    },
    local::{LocalEngine, LocalModel},
    result_folder::{CHECKPOINT, EXPECTED, write_evidence, write_model},
    session::{Session, cost, print_result},
    staging::Staging,
};
use crate::{
    report::{Cost, Evidence},
    spec::{Concept, ConceptKind, Scope, UnlearnSpec},
};

/// Erases one or several concepts from a model and writes the edited model.
#[derive(Debug, Args)]
#[command(after_help = "\
The folder then holds checkpoint/ (a diffusers folder), delta.safetensors (the edited tensors \
alone, with the spec in their metadata), report.json, report.html, training.json, and scores.json \
and scores.png where a window was measured.

Examples:
  keystep unlearn --local --model builtin:emoji-canvas --concept cat --kind object --out no-cat
  keystep unlearn --local --model sd14 --concept \"Van Gogh\" --kind style --replace-with Monet \\
      --preserve \"a painting by Rembrandt\" --out no-van-gogh
  keystep unlearn --local --model sd14 --concept neon --kind style \\
      --scores neon-scores/scores.json --out no-neon")]
pub(super) struct UnlearnArguments {
    #[command(flatten)]
    pub(super) local: LocalArguments,
    #[command(flatten)]
    pub(super) model: ModelArguments,
    /// What to erase: bare words, no sentence. Give it again for several concepts (at most 32).
    #[arg(long, value_name = "TEXT", required = true)]
    pub(super) concept: Vec<String>,
    /// What sort of thing the concepts are; decides presets and sentences.
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    pub(super) kind: ConceptKind,
    /// What shall appear in their place [default: nothing in particular].
    #[arg(long, value_name = "TEXT")]
    pub(super) replace_with: Option<String>,
    /// A prompt whose pictures must not change, beside those drawn from the vocabulary. Give it
    /// again for several (at most 1024).
    #[arg(long, value_name = "PROMPT")]
    pub(super) preserve: Vec<String>,
    #[command(flatten)]
    pub(super) vocabulary: VocabularyArguments,
    #[command(flatten)]
    pub(super) method: MethodArguments,
    /// Which tensors are trained: cross-attention, cross-attention-key-value, non-cross-attention,
    /// all, or name:TEXT for those whose name contains TEXT [default: the method's].
    #[arg(long, value_name = "SCOPE")]
    pub(super) scope: Option<Scope>,
    #[command(flatten)]
    pub(super) window: WindowArguments,
    /// Drives every draw of the run; the same seed on the same device gives the same bytes.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Folder to make; must not exist.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) quiet: QuietArguments,
}

impl UnlearnArguments {
    fn concepts(&self) -> Vec<Concept> {
        self.concept
            .iter()
            .map(|text| Concept {
                text: text.clone(),
                kind: self.kind,
                replacement: self.replace_with.clone(),
            })
            .collect()
    }
}

/// Runs the erasure.
pub(super) fn run<E: LocalEngine>(
    arguments: &UnlearnArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    arguments.local.check()?;
    let concepts = arguments.concepts();
    let (mut method, preset_scope) = arguments.method.preset(arguments.kind, concepts.len() > 1);
    let given = arguments.window.apply(&mut method, &concepts)?;
    let mut spec = UnlearnSpec {
        concepts,
        method,
        scope: arguments.scope.clone().unwrap_or(preset_scope),
        preserve: arguments.preserve.clone(),
        vocabulary: arguments.vocabulary.words(&crate::spec::Vocabulary::default())?,
        seed: arguments.seed,
    };
    // Once before the model is opened, so that a slip is told at once.
    spec.validate()?;
    let mut staging = Staging::create(&arguments.out, &EXPECTED, &session.interrupt)?;
    let mut base =
        LocalModel::<E>::open(&arguments.model.model, arguments.model.variant.as_deref())?;
    spec.vocabulary = arguments.vocabulary.words(base.engine.vocabulary())?;
    spec.validate()?;
    if let Some(scores) = &given
        && scores.model_digest != base.engine.unet_digest()?
    {
        return Err(CliError::Usage(format!(
            "the scores are of another model than {}; score this one",
            arguments.model.model
        )));
    }

    let (erased, seconds) = session.work(|context| base.engine.unlearn(&spec, context))?;
    write_model(&base, &erased, &spec, &mut staging)?;
    let measured = E::scores(&erased);
    let scoring = cost(measured.iter().map(|scores| scores.unet_evaluations).sum(), 0.0);
    let scores: Vec<_> =
        if measured.is_empty() { given.into_iter().collect() } else { measured.to_vec() };
    let log = E::log(&erased);
    let evidence = Evidence {
        model: base.files.location(),
        spec: &spec,
        log,
        scores: &scores,
        judged: &[],
        cost: Cost { scoring, erasing: cost(log.unet_evaluations, seconds), judging: cost(0, 0.0) },
        seconds: Some(session.seconds()),
        peak_rss_bytes: None,
        versions: BTreeMap::new(),
        digests: BTreeMap::new(),
    };
    let report = write_evidence(base.files.as_ref(), evidence, &mut staging)?;
    staging.commit()?;
    print_result(&format!(
        "{} updates, {} U-Net evaluations, {:.0} s; of the concept's guidance {:.2} is left\n\
         The edited model: {}\nThe report: {}\n",
        report.training.updates,
        report.unet_evaluations,
        session.seconds(),
        report.training.erase_measure,
        arguments.out.join(CHECKPOINT).display(),
        arguments.out.join("report.html").display(),
    ));
    Ok(())
}
