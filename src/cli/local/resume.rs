//! `keystep unlearn --local --resume`: writes the result of an erasure that was trained earlier and
//! could not be written then.

use std::path::Path;

use super::{
    LocalEngine, LocalModel,
    sealing::LocalSeal,
    unlearn::{EXPECTED, FORMATS, print_erased},
};
use crate::{
    artifacts::ErasedWeights as _,
    cli::{
        CliError, arguments::needed, output::Staging, rescue::KeptFile, session::Session,
        unlearn::UnlearnArguments,
    },
    jobs::Evaluation,
    run::{Trained, UnlearnRequest, write_trained},
};

/// Writes the result as the run would have. Where that fails once more, the file stays as it is.
pub(super) fn run<E: LocalEngine>(
    file: &Path,
    arguments: &UnlearnArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let out = needed(arguments.out.as_deref(), "--out", "--local")?;
    let seal = LocalSeal::of(arguments)?;
    let kept = KeptFile::open(file)?;
    let erasure = &kept.erasure;
    let name = match &arguments.model.model {
        Some(name) => name,
        None => kept.base()?,
    };
    let mut staging = Staging::create(out, &EXPECTED, &session.interrupt)?;
    let compute = arguments.model.compute.settings().open()?;
    let variant = arguments.model.variant.as_deref().or(erasure.variant.as_deref());
    let base = LocalModel::<E>::open(name, variant, &compute, session)?;
    let base = base.with_judges(&arguments.judge, session)?;
    let found = base.engine.unet_digest()?;
    if found != erasure.unet_digest {
        return Err(CliError::Usage(format!(
            "{} is of another model than {name}, whose U-Net has the digest {found}, not {}; give \
             the one that was erased from with --model",
            file.display(),
            erasure.unet_digest
        )));
    }
    let weights = kept.restore(
        |file, reader, length| {
            base.engine.restore_erased(erasure.record.clone(), file, reader, length)
        },
        |erased, delta| erased.write_delta(&kept.metadata, delta),
    )?;
    let evaluation =
        arguments.evaluation().or(erasure.evaluation).unwrap_or(Evaluation::WherePossible);
    let request = UnlearnRequest {
        base: base.files.as_ref(),
        // As the run named it, wherever it lies now.
        base_model: kept.base()?,
        base_digest: kept.base_digest()?,
        ancestors: &[],
        spec: &erasure.record.spec,
        work_digest: "",
        cited: erasure.given.as_slice(),
        formats: &FORMATS,
        evaluation,
        sampler: arguments.sampler.or(erasure.sampler),
        show: arguments.show,
        distances: arguments.distances,
    };
    let trained = Trained { weights, seconds: erasure.spent.erasing };
    let measurements = session.measurements(erasure.spent.whole);
    let folder = staging.folder()?;
    let written = session
        .run(&measurements, false, |ports| {
            write_trained(&request, &base.engine, trained, folder, ports)
        })
        .map_err(|unfinished| unfinished.error)?;
    if let Some(seal) = &seal {
        seal.seal(&request, &written.result, &mut staging)?;
    }
    staging.commit()?;
    print_erased(&written.report, evaluation, out);
    session.note(&format!("{} is needed no longer", file.display()));
    Ok(())
}
