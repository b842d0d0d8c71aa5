//! `keystep unlearn --local`: erases in this process.

use std::collections::BTreeMap;

use super::{LocalEngine, LocalModel};
use crate::{
    cli::{
        CliError,
        place::needed,
        result_folder::{CHECKPOINT, EXPECTED, write_evidence, write_model},
        session::{Session, cost, print_result},
        staging::Staging,
        unlearn::UnlearnArguments,
    },
    report::{Cost, Evidence},
    spec::{UnlearnSpec, Vocabulary},
};

/// Runs the erasure.
pub(in crate::cli) fn run<E: LocalEngine>(
    arguments: &UnlearnArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let name = arguments.model.name()?;
    let out = needed(arguments.out.as_deref(), "--out", "--local")?;
    let concepts = arguments.concepts();
    let (mut method, preset_scope) = arguments.method.preset(arguments.kind, concepts.len() > 1);
    let given = arguments.window.apply(&mut method, &concepts)?;
    let mut spec = UnlearnSpec {
        concepts,
        method,
        scope: arguments.scope.clone().unwrap_or(preset_scope),
        preserve: arguments.preserve.clone(),
        vocabulary: arguments.vocabulary.words(&Vocabulary::default())?,
        seed: arguments.seed,
    };
    // Once before the model is opened, so that a slip is told at once.
    spec.validate()?;
    let mut staging = Staging::create(out, &EXPECTED, &session.interrupt)?;
    let compute = arguments.model.compute.settings().open()?;
    let mut base = LocalModel::<E>::open(name, arguments.model.variant.as_deref(), &compute)?;
    base.engine = base.engine.with_memory_limit(arguments.memory_limit);
    spec.vocabulary = arguments.vocabulary.words(base.engine.vocabulary())?;
    spec.validate()?;
    if let Some(scores) = &given
        && scores.model_digest != base.engine.unet_digest()?
    {
        return Err(CliError::Usage(format!(
            "the scores are of another model than {name}; score this one"
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
        out.join(CHECKPOINT).display(),
        out.join("report.html").display(),
    ));
    Ok(())
}
