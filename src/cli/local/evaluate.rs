//! `keystep evaluate --local`: judges in this process.

use super::{LocalEngine, LocalModel};
use crate::{
    cli::{
        CliError,
        arguments::needed,
        attack_table::attack_table,
        evaluate::EvaluateArguments,
        output::{check_target, write_whole},
        session::{Session, print_result},
        suite_table::suite_table,
        verdict_table::verdict_table,
    },
    run::{self, EvaluateRequest},
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
    let suites = arguments.suites.suites()?;
    let compute = arguments.model.compute.settings().open()?;
    let base = LocalModel::<E>::open(&arguments.base, None, &compute, session)?;
    let base = base.with_judges(&arguments.judging.judge, session)?.engine;
    let vocabulary = arguments.judging.vocabulary.words(base.vocabulary())?;
    let mut spec = JudgeSpec::new(concept, vocabulary);
    arguments.judging.adjust(&mut spec);
    if let Some(show) = arguments.show {
        spec = spec.showing(show);
    }
    spec.distances = arguments.distances;
    spec.suites = suites;
    spec.probes = arguments.suites.probes();
    spec.attacks.clone_from(&arguments.attacks);
    spec.validate()?;
    let spec = spec.canonical();
    // Before the edited model is read.
    base.judge_sampler(&spec)?;
    base.check_judges(&spec)?;
    let edited =
        LocalModel::<E>::open(name, arguments.model.variant.as_deref(), &compute, session)?.engine;
    let request = EvaluateRequest {
        base_model: &arguments.base,
        edited_model: name,
        spec: &spec,
        judge_bytes: 0,
    };
    let measurements = session.measurements(0.0);
    let judgement = session
        .run(&measurements, false, |ports| run::evaluate(&request, &base, &edited, ports))?;
    let json = judgement.report.to_json()?;
    let sheet = arguments
        .sheet
        .as_ref()
        .map(|path| judgement.sheet().map(|png| (path, png)))
        .transpose()?;
    let mut files = vec![(out, json.as_slice())];
    files.extend(sheet.as_ref().map(|(path, png)| (path.as_path(), png.as_slice())));
    write_whole(&files, &session.interrupt)?;
    let (verdicts, evaluation) = (&judgement.report.judges, &judgement.report.evaluation);
    let tables = [
        verdict_table(verdicts, &evaluation.distances),
        suite_table(&evaluation.suites),
        attack_table(&evaluation.attacks),
    ];
    print_result(&tables.concat());
    Ok(())
}
