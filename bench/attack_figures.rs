//! What attacks find in a model of the emoji canvas that a method erased a concept from, as a Markdown
//! table; 10 DDIM steps and guidance 5, seed 0:
//!
//! ```sh
//! cargo run --release --example attack_figures -- kscu cat --learning-rate 3e-5 \
//!     --attack concept-inversion:guided --attack relearning-benign
//! ```

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::{error::Error, io::Write, time::Instant};

use clap::Parser;
use keystep::{
    artifacts::open_model,
    engine::{CancelFlag, CandleEngine, RunContext},
    outcome::{AttackResult, Share},
    spec::{
        AttackName, AttackSpec, Concept, ConceptKind, JudgeSpec, Method, MethodName, UnlearnSpec,
    },
};

#[derive(Debug, Parser)]
struct Options {
    /// keystep, kscu or esd.
    method: MethodName,
    /// A word of the canvas.
    concept: String,
    /// Of the erasure, instead of the preset's: absolute for kscu and esd, relative for keystep.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// As `keystep evaluate` takes them; all that there are if none.
    #[arg(long = "attack")]
    attacks: Vec<AttackSpec>,
    /// Denoising steps of every picture.
    #[arg(long, default_value_t = 10)]
    steps: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let engine = CandleEngine::load(open_model("builtin:emoji-canvas")?.as_ref(), None)?;
    let vocabulary = engine.vocabulary().clone();
    let kind = if vocabulary.styles.contains(&options.concept) {
        ConceptKind::Style
    } else {
        ConceptKind::Object
    };
    let concept = Concept::new(options.concept.clone(), kind);
    let (mut method, scope) = Method::preset(options.method, kind, false);
    let rate = match &mut method {
        Method::Keystep(settings) => &mut settings.relative_rate,
        Method::Kscu(settings) => &mut settings.learning_rate,
        Method::Esd(settings) => &mut settings.learning_rate,
    };
    *rate = options.learning_rate.unwrap_or(*rate);
    let erasure = UnlearnSpec {
        concepts: vec![concept.clone()],
        method,
        scope,
        preserve: Vec::new(),
        held_out: Vec::new(),
        vocabulary: vocabulary.clone(),
        seed: 0,
    };
    let mut ignore = |_| {};
    let mut context =
        RunContext { report: &mut ignore, cancel: CancelFlag::default(), saving: None };
    let start = Instant::now();
    let edited = engine.with_erased(&engine.unlearn(&erasure, &mut context)?)?;
    eprintln!("erased in {:.0} s", start.elapsed().as_secs_f64());
    let attacks = if options.attacks.is_empty() {
        let plain = AttackName::ALL.iter().map(|attack| AttackSpec::new(*attack));
        let guided = AttackSpec { guided: true, ..AttackSpec::new(AttackName::ConceptInversion) };
        plain.chain([guided]).collect()
    } else {
        options.attacks
    };
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| attack | judge | plain | attacked | curve (control) | false alarms | ceiling | first | evaluations | s |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for attack in attacks {
        // The grid is not what is measured here: as few pictures of it as there may be.
        let judging = JudgeSpec {
            target_seeds: 1,
            steps: options.steps,
            attacks: vec![attack],
            ..JudgeSpec::new(concept.clone(), vocabulary.clone())
        };
        let start = Instant::now();
        let judged = engine.judge(&judging, &edited, &mut context)?;
        let seconds = start.elapsed().as_secs_f64();
        for result in &judged.evaluation.attacks {
            writeln!(out, "{} {seconds:.0} |", row(result))?;
            out.flush()?;
        }
    }
    Ok(())
}

fn row(result: &AttackResult) -> String {
    let rate = |share: Share| format!("{:.2}", share.rate());
    let optional = |share: Option<Share>| share.map_or("–".to_owned(), rate);
    let curve = result.curve.iter().map(|point| {
        let control = point.control.map_or(String::new(), |share| format!(" ({})", rate(share)));
        format!("{}: {}{control}", point.step, rate(point.attacked))
    });
    let first = |step: Option<u64>| step.map_or("–".to_owned(), |step| step.to_string());
    format!(
        "| {} {} | {} | {} | {} | {} | {} | {} | {}, control {} | {} + {}{} |",
        result.attack,
        result.variant,
        result.judge,
        rate(result.plain),
        rate(result.attacked),
        curve.collect::<Vec<_>>().join(", "),
        optional(result.false_alarms),
        optional(result.ceiling),
        first(result.first_success),
        first(result.control_first_success),
        result.forward_evaluations,
        result.backward_evaluations,
        if result.finished { "" } else { ", unfinished" },
    )
}
