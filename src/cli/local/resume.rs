//! `keystep unlearn --local --resume`: writes the result of an erasure that was kept, since it could
//! not be written when it was done.

use std::path::Path;

use super::{
    LocalEngine, LocalModel,
    unlearn::{Finished, tell},
};
use crate::{
    artifacts::ErasedWeights as _,
    cli::{
        CliError,
        arguments::needed,
        output::Staging,
        rescue::KeptFile,
        result_folder::{EXPECTED, check_before},
        session::Session,
        unlearn::UnlearnArguments,
    },
};

/// Writes the result as the run would have. Where that fails once more, the file stays as it is.
pub(super) fn run<E: LocalEngine>(
    file: &Path,
    arguments: &UnlearnArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let out = needed(arguments.out.as_deref(), "--out", "--local")?;
    let kept = KeptFile::open(file)?;
    let erasure = &kept.erasure;
    let name = match &arguments.model.model {
        Some(name) => name,
        None => kept.base()?,
    };
    let staging = Staging::create(out, &EXPECTED, &session.interrupt)?;
    let compute = arguments.model.compute.settings().open()?;
    let variant = arguments.model.variant.as_deref().or(erasure.variant.as_deref());
    let base = LocalModel::<E>::open(name, variant, &compute, session)?;
    let found = base.engine.unet_digest()?;
    if found != erasure.unet_digest {
        return Err(CliError::Usage(format!(
            "{} is of another model than {name}, whose U-Net has the digest {found}, not {}; give \
             the one that was erased from with --model",
            file.display(),
            erasure.unet_digest
        )));
    }
    check_before(&base, &erasure.record.spec, &staging)?;
    let erased = kept.restore(
        |file, reader, length| {
            base.engine.restore_erased(erasure.record.clone(), file, reader, length)
        },
        |erased, delta| erased.write_delta(&kept.metadata, delta),
    )?;
    let finished = Finished {
        base: &base,
        erased,
        spec: erasure.record.spec.clone(),
        metadata: kept.metadata.clone(),
        given: erasure.given.clone(),
        erasing: erasure.spent.erasing,
        earlier: erasure.spent.whole,
    };
    let report = finished.write(session, staging)?;
    tell(&report, session, out);
    session.note(&format!("{} is needed no longer", file.display()));
    Ok(())
}
