//! `keystep score --local`: measures in this process.

use super::{LocalEngine, LocalModel};
use crate::{
    cli::{
        CliError,
        arguments::needed,
        output::Staging,
        score::ScoreArguments,
        session::{Session, print_result},
    },
    report::{score_plot, to_json},
    spec::{Concept, ScoreSpec, Vocabulary},
};

/// Runs the measurement.
pub(in crate::cli) fn run<E: LocalEngine>(
    arguments: &ScoreArguments,
    session: &mut Session,
) -> Result<(), CliError> {
    let name = arguments.model.name()?;
    let out = needed(arguments.out.as_deref(), "--out", "--local")?;
    let mut spec = ScoreSpec {
        steps: arguments.steps as usize,
        guidance_scale: arguments.guidance_scale,
        trajectories: arguments.trajectories as usize,
        switch_curve: !arguments.no_switch_curve,
        scope: arguments.scope.clone(),
        seed: arguments.seed,
        ..ScoreSpec::new(
            Concept::new(&arguments.concept, arguments.kind),
            arguments.vocabulary.words(&Vocabulary::default())?,
        )
    };
    spec.validate()?;
    let expected = ["scores.json", "scores.png"];
    let mut staging = Staging::create(out, &expected, &session.interrupt)?;
    let compute = arguments.model.compute.settings().open()?;
    let engine =
        LocalModel::<E>::open(name, arguments.model.variant.as_deref(), &compute, session)?.engine;
    spec.vocabulary = arguments.vocabulary.words(engine.vocabulary())?;
    spec.validate()?;
    let spec = spec.canonical();
    let (scores, _) = session.work(|context| engine.score_timesteps(&spec, context))?;
    staging.write("scores.json", &to_json(&scores)?)?;
    staging.write("scores.png", &score_plot(&scores)?)?;
    staging.commit()?;
    print_result(&format!(
        "Recommended window: log-SNR {:.3}:{:.3}, steps {} to {} of {}\n{}\nLook at {}\n",
        scores.window.low,
        scores.window.high,
        scores.window_steps.0.0,
        scores.window_steps.1.0,
        scores.steps.len(),
        scores.rule,
        out.join("scores.png").display(),
    ));
    Ok(())
}
