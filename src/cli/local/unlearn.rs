//! `keystep unlearn --local`: erases in this process.

use std::{path::Path, time::Duration};

use super::{LocalEngine, LocalModel, saved_state::SavedState, sealing::LocalSeal};
use crate::{
    artifacts::{
        ErasedWeights as _, delta_metadata,
        model_digest::{model_digest, read_model_files},
    },
    cli::{
        CliError,
        arguments::needed,
        output::Staging,
        rescue::{Keeping, Spent, keep},
        session::{Session, print_result},
        unlearn::UnlearnArguments,
        verdict_table::verdict_table,
    },
    jobs::{Clock, Evaluation},
    outcome::{
        ErasureRecord,
        result_layout::{DELTA, PIPELINE, REPORT, REPORT_PAGE},
    },
    report::RunReport,
    run::{self, Measurements as _, Saving, Trained, UnlearnRequest},
    spec::{OutputFormat, UnlearnSpec, Vocabulary},
};

/// What a result must hold to be one.
pub(super) const EXPECTED: [&str; 5] = [
    "pipeline/model_index.json",
    "pipeline/unet/diffusion_pytorch_model.safetensors",
    DELTA,
    REPORT,
    REPORT_PAGE,
];

/// What is written of the edited model.
pub(super) const FORMATS: [OutputFormat; 2] = [OutputFormat::Pipeline, OutputFormat::Delta];

/// Updates from one save of the state to the next.
const SAVE_EVERY: usize = 25;
/// Least time from one save to the next, where no updates are counted.
const SAVE_AFTER: Duration = Duration::from_secs(30);

/// Runs the erasure, from the state of an earlier one that was killed where there is such.
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
        held_out: Vec::new(),
        vocabulary: arguments.vocabulary.words(&Vocabulary::default())?,
        seed: arguments.seed,
    };
    // Once before the model is opened, so that a mistake is reported at once.
    spec.validate()?;
    let seal = LocalSeal::of(arguments)?;
    let staging = Staging::create(out, &EXPECTED, &session.interrupt)?;
    let compute = arguments.model.compute.settings().open()?;
    let variant = arguments.model.variant.as_deref();
    let base = LocalModel::<E>::open(name, variant, &compute, session)?;
    let mut base = base.with_judges(&arguments.judge, session)?;
    base.engine = base.engine.with_memory_limit(arguments.memory_limit);
    spec.vocabulary = arguments.vocabulary.words(base.engine.vocabulary())?;
    spec.held_out.clone_from(&arguments.hold_out);
    spec.validate()?;
    let spec = spec.canonical();
    if let Some(scores) = &given
        && scores.model_digest != base.engine.unet_digest()?
    {
        return Err(CliError::Usage(format!(
            "the scores are of another model than {name}; score this one"
        )));
    }
    let files = base.files.as_ref();
    let base_digest = model_digest(&read_model_files(files)?);
    let request = UnlearnRequest {
        base: files,
        base_model: files.location(),
        base_digest: &base_digest,
        ancestors: &[],
        spec: &spec,
        work_digest: "",
        cited: given.as_slice(),
        formats: &FORMATS,
        evaluation: arguments.evaluation().unwrap_or(Evaluation::WherePossible),
        sampler: arguments.sampler,
        show: arguments.show,
        distances: arguments.distances,
    };
    let mut state = SavedState::of(arguments.state_folder.as_deref(), out, &session.interrupt);
    let asked = Asked { arguments, request: &request, seal: seal.as_ref() };
    let erased = erase(&asked, &base.engine, (staging, &mut state), session);
    state.settle(erased.as_ref().err(), session);
    let report = erased?;
    print_erased(&report, request.evaluation, out);
    Ok(())
}

/// What is erased, and how its result is written.
struct Asked<'a> {
    arguments: &'a UnlearnArguments,
    request: &'a UnlearnRequest<'a>,
    seal: Option<&'a LocalSeal>,
}

/// Erases and writes the result. What is trained and cannot be written is kept for `--resume`.
fn erase<E: LocalEngine>(
    asked: &Asked<'_>,
    engine: &E,
    (mut staging, state): (Staging, &mut SavedState),
    session: &mut Session,
) -> Result<RunReport, CliError> {
    let Asked { arguments, request, seal } = *asked;
    let out = staging.target().to_owned();
    let measurements = session.measurements(0.0);
    let saving =
        Saving { store: state, every: SAVE_EVERY, after: SAVE_AFTER, clock: Clock::System };
    let folder = staging.folder()?;
    let erased = session.run(&measurements, arguments.memory_limit.is_some(), |ports| {
        run::unlearn(request, engine, folder, saving, ports)
    });
    let (failed, trained) = match erased {
        Ok(erasure) => {
            let sealed = seal
                .map_or(Ok(()), |seal| seal.seal(request, &erasure.result, &mut staging))
                .and_then(|()| staging.commit());
            match sealed {
                Ok(()) => return Ok(erasure.report),
                Err(error) => (error, Some(erasure.trained)),
            }
        }
        Err(unfinished) => {
            // There is room then for what is kept.
            drop(staging);
            (unfinished.error.into(), unfinished.trained)
        }
    };
    let Some(Trained { weights, seconds }) = trained else { return Err(failed) };
    let keeping = Keeping {
        unet_digest: engine.unet_digest()?,
        variant: arguments.model.variant.as_deref(),
        record: ErasureRecord {
            spec: request.spec.clone(),
            log: E::log(&weights).clone(),
            scores: E::scores(&weights).to_vec(),
        },
        given: request.cited.first(),
        evaluation: request.evaluation,
        sampler: request.sampler,
        spent: Spent { erasing: seconds, whole: measurements.seconds() },
        metadata: &delta_metadata(request.base_model, request.base_digest, request.spec),
    };
    let write_delta =
        |metadata: &_, file: &mut dyn std::io::Write| weights.write_delta(metadata, file);
    Err(keep(failed, &out, keeping, &write_delta))
}

/// Prints what came out and where it lies.
pub(super) fn print_erased(report: &RunReport, evaluation: Evaluation, out: &Path) {
    let verdicts = match (report.judges.as_slice(), evaluation) {
        ([], Evaluation::Skipped) => String::new(),
        ([], _) => "Not judged: the model has no judge that knows what was erased, or its own \
                    sampler cannot draw what is judged\n"
            .to_owned(),
        (judges, _) => verdict_table(judges, &report.evaluation.distances) + "\n",
    };
    print_result(&format!(
        "{verdicts}{} updates, {} U-Net evaluations, {:.0} s; of the concept's guidance {:.2} is \
         left\nThe edited model: {}\nThe report: {}\n",
        report.training.updates,
        report.unet_evaluations,
        report.seconds.unwrap_or_default(),
        report.training.figures.erase_measure,
        out.join(PIPELINE).display(),
        out.join(REPORT_PAGE).display(),
    ));
}
