//! `keystep evaluate --local`: judges in this process.

use super::{LocalEngine, LocalModel};
use crate::{
    cli::{
        CliError,
        evaluate::EvaluateArguments,
        files::{check_target, write_whole},
        memory::peak_rss_bytes,
        place::needed,
        result_folder::{verdict_table, versions},
        session::{Session, print_result},
    },
    engine::evaluate::NoPictures,
    report::{EvaluationReport, Headline, contact_sheet},
    spec::{Concept, JudgeSpec},
};

/// Runs the judgement.
pub(in crate::cli) fn run<E: LocalEngine>(
    arguments: &EvaluateArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let name = arguments.model.name()?;
    let out = needed(arguments.out.as_deref(), "--out", "--local")?;
    let concept = Concept::new(&arguments.concept, arguments.kind);
    concept.validate()?;
    if arguments.sheet.as_deref() == Some(out) {
        return Err(CliError::Usage("--out and --sheet name the same file".to_owned()));
    }
    check_target("--out", out, "json")?;
    if let Some(sheet) = &arguments.sheet {
        check_target("--sheet", sheet, "png")?;
    }
    let compute = arguments.model.compute.settings().open()?;
    let base = LocalModel::<E>::open(&arguments.base, None, &compute, session)?.engine;
    let vocabulary = arguments.vocabulary.words(base.vocabulary())?;
    let mut spec = JudgeSpec::new(concept, vocabulary);
    spec.seed = arguments.seed;
    spec.target_seeds = arguments.target_seeds.map_or(spec.target_seeds, |given| given as usize);
    spec.retain_seeds = arguments.retain_seeds.map_or(spec.retain_seeds, |given| given as usize);
    spec.steps = arguments.steps.map_or(spec.steps, |given| given as usize);
    spec.guidance_scale = arguments.guidance_scale.unwrap_or(spec.guidance_scale);
    spec.sampler = arguments.sampler.sampler;
    spec.validate()?;
    let spec = spec.canonical();
    // Before the edited model is read.
    base.judge_sampler(&spec)?;
    let edited =
        LocalModel::<E>::open(name, arguments.model.variant.as_deref(), &compute, session)?.engine;
    let (judged, _) =
        session.work(|context| base.judge(&spec, &edited, &mut NoPictures, context))?;
    let report = EvaluationReport {
        headline: Headline::of(&judged.verdicts),
        judges: judged.verdicts.clone(),
        unet_evaluations: judged.unet_evaluations,
        seconds: Some(session.seconds()),
        peak_rss_bytes: peak_rss_bytes(),
        model: name.to_owned(),
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
    let mut files = vec![(out, json.as_slice())];
    files.extend(sheet.as_ref().map(|(path, png)| (path.as_path(), png.as_slice())));
    write_whole(&files, &session.interrupt)?;
    print_result(&verdict_table(&report.judges));
    Ok(())
}
