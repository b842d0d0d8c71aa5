//! `keystep gate --local`: judges in this process, as often as a policy allows, and holds the figures
//! against it.

use super::{LocalEngine, LocalModel};
use crate::{
    cli::{
        CliError,
        arguments::needed,
        gate::{Gate, GateArguments, GateFigures, spec_of_look},
        session::Session,
    },
    run::{self, EvaluateRequest},
    spec::JudgeSpec,
};

/// Runs the judgements, and gives the policy's verdict.
pub(in crate::cli) fn run<E: LocalEngine>(
    arguments: &GateArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let edited_name = arguments.edited()?;
    let base_name = needed(arguments.base.as_deref(), "--base", "--local")?;
    let concept = arguments.concept("--local")?;
    let gate = Gate::prepare(arguments)?;
    let compute = arguments.model.compute.settings().open()?;
    let base = LocalModel::<E>::open(base_name, None, &compute, session)?;
    let base = base.with_judges(&arguments.judging.judge, session)?.engine;
    let vocabulary = arguments.judging.vocabulary.words(base.vocabulary())?;
    let mut first = JudgeSpec::new(concept, vocabulary);
    arguments.judging.adjust(&mut first);
    first.distances = gate.reads_distances();
    first.attacks = gate.attacks();
    first.validate()?;
    let first = first.canonical();
    // Before the edited model is read.
    base.judge_sampler(&first)?;
    base.check_judges(&first)?;
    let variant = arguments.model.variant.as_deref();
    let edited = LocalModel::<E>::open(edited_name, variant, &compute, session)?.engine;
    let measurements = session.measurements(0.0);
    let mut spec = first.clone();
    let mut look = 1;
    let mut attacks = Vec::new();
    let verdict = loop {
        let request = EvaluateRequest {
            base_model: base_name,
            edited_model: edited_name,
            spec: &spec,
            judge_bytes: 0,
        };
        let report = session
            .run(&measurements, false, |ports| run::evaluate(&request, &base, &edited, ports))?
            .report;
        let mut figures = GateFigures {
            model: report.model,
            base: report.base,
            concept: report.spec.concept.text,
            judges: report.judges.into_iter().map(|it| (it.judge, it.measures)).collect(),
            evaluation: report.evaluation,
        };
        if look == 1 {
            attacks.clone_from(&figures.evaluation.attacks);
        } else {
            figures.evaluation.attacks.clone_from(&attacks);
        }
        let verdict = gate.decide(&figures, look);
        match spec_of_look(&first, look + 1) {
            Some(more) if gate.looks_again(&verdict) => spec = more,
            _ => break verdict,
        }
        look += 1;
        session.note(&format!(
            "undecided after {} pictures a prompt of the concept; look {look} draws twice as many",
            spec.target_seeds / 2
        ));
    };
    session.interrupt.check()?;
    gate.conclude(&verdict)
}
