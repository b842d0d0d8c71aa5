//! `keystep unlearn --local`: erases in this process.

use std::{collections::BTreeMap, path::Path};

use super::{LocalEngine, LocalModel};
use crate::{
    artifacts::{ErasedWeights as _, delta_metadata},
    cli::{
        CliError,
        arguments::needed,
        output::Staging,
        rescue::{Keeping, Spent, keep},
        result_folder::{EXPECTED, base_digest, check_before, write_evidence, write_model},
        session::{Session, cost, print_result},
        unlearn::UnlearnArguments,
    },
    outcome::{
        ErasureRecord, TimestepScores,
        result_layout::{CHECKPOINT, REPORT_PAGE},
    },
    report::{Cost, Evidence, RunReport},
    spec::{UnlearnSpec, Vocabulary},
};

/// Runs the erasure.
pub(super) fn run<E: LocalEngine>(
    arguments: &UnlearnArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let name = arguments.model.name()?;
    let out = needed(arguments.out.as_deref(), "--out", "--local")?;
    let concepts = arguments.concepts()?;
    let (mut method, preset_scope) = arguments.method.preset(arguments.kind()?, concepts.len() > 1);
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
    let staging = Staging::create(out, &EXPECTED, &session.interrupt)?;
    let compute = arguments.model.compute.settings().open()?;
    let variant = arguments.model.variant.as_deref();
    let mut base = LocalModel::<E>::open(name, variant, &compute, session)?;
    base.engine = base.engine.with_memory_limit(arguments.memory_limit);
    spec.vocabulary = arguments.vocabulary.words(base.engine.vocabulary())?;
    spec.validate()?;
    let spec = spec.canonical();
    if let Some(scores) = &given
        && scores.model_digest != base.engine.unet_digest()?
    {
        return Err(CliError::Usage(format!(
            "the scores are of another model than {name}; score this one"
        )));
    }
    check_before(&base, &spec, &staging)?;

    let (erased, erasing) = session.work(|context| base.engine.unlearn(&spec, context))?;
    let files = base.files.as_ref();
    let metadata = delta_metadata(files.location(), &base_digest(files)?, &spec);
    let finished = Finished { base: &base, erased, spec, metadata, given, erasing, earlier: 0.0 };
    let report = finished
        .write(session, staging)
        .map_err(|error| finished.keep(error, out, variant, session))?;
    tell(&report, session, out);
    Ok(())
}

/// An erasure that is done, and not yet written.
pub(super) struct Finished<'a, E: LocalEngine> {
    pub(super) base: &'a LocalModel<E>,
    pub(super) erased: E::Erased,
    pub(super) spec: UnlearnSpec,
    /// What its delta says of itself.
    pub(super) metadata: BTreeMap<String, String>,
    /// The scores that were given, where the run did not measure its own.
    pub(super) given: Option<TimestepScores>,
    /// Seconds that the engine worked.
    pub(super) erasing: f64,
    /// Seconds of the process that trained, where that was an earlier one.
    pub(super) earlier: f64,
}

impl<E: LocalEngine> Finished<'_, E> {
    /// Writes the whole result and gives it its name. The folder goes with the failure, so that
    /// there is room for what is kept.
    pub(super) fn write(
        &self,
        session: &Session,
        mut staging: Staging,
    ) -> Result<RunReport, CliError> {
        let Self { base, erased, spec, .. } = self;
        let left_out = write_model(base, erased, &self.metadata, &mut staging)?;
        let measured = E::scores(erased);
        let scoring = cost(measured.iter().map(|scores| scores.unet_evaluations).sum(), 0.0);
        let scores = if measured.is_empty() { self.given.as_slice() } else { measured };
        let log = E::log(erased);
        let evidence = Evidence {
            model: base.files.location(),
            spec,
            log,
            scores,
            judged: &[],
            cost: Cost {
                scoring,
                erasing: cost(log.unet_evaluations, self.erasing),
                judging: cost(0, 0.0),
            },
            seconds: Some(self.seconds(session)),
            peak_rss_bytes: None,
            versions: BTreeMap::new(),
            digests: BTreeMap::new(),
            left_out,
        };
        let report = write_evidence(base.files.as_ref(), evidence, &mut staging)?;
        staging.commit()?;
        Ok(report)
    }

    fn seconds(&self, session: &Session) -> f64 {
        self.earlier + session.seconds()
    }

    /// Keeps what cost hours, for `--resume`.
    fn keep(
        &self,
        failed: CliError,
        out: &Path,
        variant: Option<&str>,
        session: &Session,
    ) -> CliError {
        let unet_digest = match self.base.engine.unet_digest() {
            Ok(digest) => digest,
            Err(error) => return error.into(),
        };
        let record = ErasureRecord {
            spec: self.spec.clone(),
            log: E::log(&self.erased).clone(),
            scores: E::scores(&self.erased).to_vec(),
        };
        let keeping = Keeping {
            unet_digest,
            variant,
            record,
            given: self.given.as_ref(),
            spent: Spent { erasing: self.erasing, whole: self.seconds(session) },
            metadata: &self.metadata,
        };
        keep(failed, out, keeping, &|metadata, file| self.erased.write_delta(metadata, file))
    }
}

/// Says what came out and where it lies.
pub(super) fn tell(report: &RunReport, session: &Session, out: &Path) {
    print_result(&format!(
        "{} updates, {} U-Net evaluations, {:.0} s; of the concept's guidance {:.2} is left\n\
         The edited model: {}\nThe report: {}\n",
        report.training.updates,
        report.unet_evaluations,
        report.seconds.unwrap_or_else(|| session.seconds()),
        report.training.erase_measure,
        out.join(CHECKPOINT).display(),
        out.join(REPORT_PAGE).display(),
    ));
}
