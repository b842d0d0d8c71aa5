//! UA, IRA and CRA of a method over several concepts of the emoji canvas, as a Markdown table:
//!
//! ```sh
//! cargo run --release --example canvas_figures -- keystep cat dog neon sketch
//! cargo run --release --example canvas_figures -- kscu --learning-rate 1e-4 cat
//! ```

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::{collections::BTreeMap, error::Error, io::Write, time::Instant};

use clap::Parser;
use keystep::{
    artifacts::open_model,
    engine::{
        CandleEngine, RunContext,
        evaluate::{ConceptSeeds, PicturesInMemory, bootstrap},
        schedule::NoiseSource,
    },
    outcome::{Compared, Confidence, Measures, Phase, Progress},
    spec::{
        Concept, ConceptKind, JudgeSpec, KeySteps, LogSnrWindow, Method, MethodName, Scope,
        UnlearnSpec,
    },
};

#[derive(Debug, Parser)]
struct Options {
    /// keystep, kscu or esd.
    method: MethodName,
    /// Words of the canvas; every one of the four styles and five objects of the README if none.
    concepts: Vec<String>,
    /// Instead of the preset's: absolute for kscu and esd, relative for keystep.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Instead of the preset's.
    #[arg(long)]
    updates: Option<usize>,
    /// Instead of the preset's.
    #[arg(long)]
    scope: Option<Scope>,
    /// Instead of the measured window, LOW:HIGH in log-SNR.
    #[arg(long)]
    window: Option<String>,
    /// Other settings of keystep as JSON, merged over the defaults.
    #[arg(long)]
    settings: Option<String>,
    /// Pictures a cell of the concept's own row.
    #[arg(long)]
    target_seeds: Option<usize>,
    /// Drives the erasure.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the judged cells' seeds start.
    #[arg(long)]
    judge_seed: Option<u64>,
}

const CONCEPTS: [&str; 9] =
    ["cat", "dog", "car", "rocket", "apple", "neon", "sketch", "blueprint", "comic"];

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let files = open_model("builtin:emoji-canvas")?;
    let engine = CandleEngine::load(files.as_ref(), None)?;
    let vocabulary = engine.vocabulary().clone();
    let concepts: Vec<String> = if options.concepts.is_empty() {
        CONCEPTS.iter().map(|concept| (*concept).to_owned()).collect()
    } else {
        options.concepts.clone()
    };
    // The base model draws most of the grid alike for every concept.
    let mut pictures = PicturesInMemory::default();
    let mut out = std::io::stdout();
    let mut counted: BTreeMap<String, Vec<Measures>> = BTreeMap::new();
    writeln!(
        out,
        "| concept | judge | UA | IRA (base) | CRA (base) | U-Net evaluations | erasure s |\n\
         | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for word in concepts {
        let kind = if vocabulary.styles.contains(&word) {
            ConceptKind::Style
        } else {
            ConceptKind::Object
        };
        let concept = Concept::new(word.clone(), kind);
        let (method, scope) = method(&options, kind)?;
        let spec = UnlearnSpec {
            concepts: vec![concept.clone()],
            method,
            scope: options.scope.clone().unwrap_or(scope),
            preserve: Vec::new(),
            held_out: Vec::new(),
            vocabulary: vocabulary.clone(),
            seed: options.seed,
        };
        let mut report = |progress: Progress| {
            if let (Phase::Train, Some(update)) = (progress.phase, &progress.update)
                && update.update.is_multiple_of(25)
            {
                eprintln!("  {} loss {:.4}", update.update, update.loss);
            }
        };
        let mut context = RunContext::reporting(&mut report);
        let start = Instant::now();
        let erased = match engine.unlearn(&spec, &mut context) {
            Ok(erased) => erased,
            Err(error) => {
                writeln!(out, "| {word} | – | {error} | | | | |")?;
                continue;
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        let mut judging = JudgeSpec::new(concept, vocabulary.clone());
        judging.target_seeds = options.target_seeds.unwrap_or(judging.target_seeds);
        judging.seed = options.judge_seed.unwrap_or(judging.seed);
        let start = Instant::now();
        let edited = engine.with_erased(&erased)?;
        let judged = engine.judge_keeping(&judging, &edited, &mut pictures, &mut context)?;
        eprintln!(
            "{word}: erase {:.3} damage {:.3} weights {:.3} rate {:.2e} steps {:?} updates {} judged in {:.0} s",
            erased.log.erase_measure,
            erased.log.damage_measure,
            erased.log.weight_change,
            erased.log.learning_rate,
            erased.log.key_steps.iter().map(|step| step.0).collect::<Vec<_>>(),
            erased.log.updates.len(),
            start.elapsed().as_secs_f64()
        );
        for verdict in &judged.verdicts {
            let (edited, base) = (verdict.edited, verdict.base);
            counted.entry(verdict.judge.clone()).or_default().extend(verdict.measures.clone());
            writeln!(
                out,
                "| {word} | {} | {:.3} | {:.3} ({:.3}) | {:.3} ({:.3}) | {} | {seconds:.0} |",
                verdict.judge,
                edited.ua,
                edited.ira,
                base.ira,
                edited.cra,
                base.cra,
                erased.log.unet_evaluations
                    + erased.scores.iter().map(|scores| scores.unet_evaluations).sum::<u64>(),
            )?;
        }
    }
    writeln!(out)?;
    write_means(&mut out, &counted, options.seed)?;
    Ok(())
}

/// One of a judgement's three accuracies.
type Part = fn(&Measures) -> Compared;

/// Means over the concepts, by each judge.
fn write_means(
    out: &mut impl Write,
    counted: &BTreeMap<String, Vec<Measures>>,
    seed: u64,
) -> std::io::Result<()> {
    for (judge, measures) in counted {
        let parts: [(&str, Part); 3] =
            [("UA", |it| it.ua), ("IRA", |it| it.ira), ("CRA", |it| it.cra)];
        for (name, part) in parts {
            let concepts: Vec<_> =
                measures.iter().map(|it| ConceptSeeds::of_pictures(part(it).edited)).collect();
            let mut noise = NoiseSource::new(seed);
            if let Some(pooled) = bootstrap(&concepts, Confidence::DEFAULT, &mut noise) {
                writeln!(
                    out,
                    "Mean {name} of {} concepts by {judge}: {:.3}, {:.3} to {:.3}",
                    concepts.len(),
                    pooled.mean,
                    pooled.interval.low,
                    pooled.interval.high
                )?;
            }
        }
    }
    Ok(())
}

fn method(options: &Options, kind: ConceptKind) -> Result<(Method, Scope), Box<dyn Error>> {
    let (mut method, scope) = Method::preset(options.method, kind, false);
    match &mut method {
        Method::Keystep(settings) => {
            if let Some(json) = &options.settings {
                let mut all = serde_json::to_value(&*settings)?;
                let some: serde_json::Value = serde_json::from_str(json)?;
                for (key, value) in some.as_object().into_iter().flatten() {
                    all[key] = value.clone();
                }
                *settings = serde_json::from_value(all)?;
            }
            settings.updates = options.updates.unwrap_or(settings.updates);
            settings.relative_rate = options.learning_rate.unwrap_or(settings.relative_rate);
            if let Some(window) = &options.window {
                let (low, high) = window.split_once(':').ok_or("give LOW:HIGH")?;
                let window = LogSnrWindow { low: low.parse()?, high: high.parse()? };
                settings.key_steps = KeySteps::Window(window);
            }
        }
        Method::Kscu(settings) => {
            settings.updates = options.updates.unwrap_or(settings.updates);
            settings.learning_rate = options.learning_rate.unwrap_or(settings.learning_rate);
        }
        Method::Esd(settings) => {
            settings.updates = options.updates.unwrap_or(settings.updates);
            settings.learning_rate = options.learning_rate.unwrap_or(settings.learning_rate);
        }
    }
    Ok((method, scope))
}
