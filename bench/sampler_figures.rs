//! What each sampler draws of an erased concept: one erasure a concept on the emoji canvas, judged under
//! every sampler, as a Markdown table with Wilson's 95 % intervals:
//!
//! ```sh
//! cargo run --release --example sampler_figures -- cat neon
//! cargo run --example sampler_figures -- cat --window=-3:-2 --updates 4 --steps 2 --words 2
//! ```

use std::{error::Error, io::Write};

use clap::Parser;
use keystep::{
    artifacts::open_model,
    engine::{CandleEngine, RunContext, evaluate::PicturesInMemory},
    outcome::{JudgeReport, Phase, Progress, Verdict},
    spec::{
        Concept, ConceptKind, JudgeSpec, KeySteps, LogSnrWindow, Method, MethodName, SamplerKind,
        UnlearnSpec, Vocabulary, find_word, same_words,
    },
};

#[derive(Debug, Parser)]
struct Options {
    /// Words of the canvas.
    #[arg(default_values_t = ["cat".to_owned(), "neon".to_owned()])]
    concepts: Vec<String>,
    /// What draws; every sampler by default. Give it again for several.
    #[arg(long)]
    sampler: Vec<SamplerKind>,
    /// Updates of the erasure, instead of the preset's.
    #[arg(long)]
    updates: Option<usize>,
    /// Instead of the measured window, LOW:HIGH in log-SNR.
    #[arg(long, allow_hyphen_values = true)]
    window: Option<String>,
    /// Denoising steps of the judged pictures.
    #[arg(long)]
    steps: Option<usize>,
    /// Tries this program: erases with few trajectories and small batches, and judges the first so many
    /// objects and styles alone, beside the concept.
    #[arg(long)]
    words: Option<usize>,
    /// Drives the erasure.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// A concept and the model without it.
struct Erased {
    word: String,
    judging: JudgeSpec,
    model: CandleEngine,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let files = open_model("builtin:emoji-canvas")?;
    let engine = CandleEngine::load(files.as_ref(), None)?;
    let mut erased = Vec::new();
    for word in &options.concepts {
        eprintln!("{word}: erasing");
        erased.push(erase(&engine, word, &options)?);
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| concept | sampler | judge | UA [95 %] | base [95 %] | IRA [95 %] | base [95 %] | CRA [95 %] | base [95 %] |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    let samplers = match options.sampler.as_slice() {
        [] => SamplerKind::ALL,
        given => given,
    };
    // The base model draws most of the grid alike for every concept.
    let mut pictures = PicturesInMemory::default();
    for &sampler in samplers {
        for Erased { word, judging, model } in &erased {
            eprintln!("{word}: judging with {}", sampler.name());
            let spec = JudgeSpec { sampler: Some(sampler), ..judging.clone() };
            let mut report = progress_report();
            let mut context = RunContext::reporting(&mut report);
            let judged = engine.judge_keeping(&spec, model, &mut pictures, &mut context)?;
            write_rows(&mut out, word, &judged)?;
        }
    }
    Ok(())
}

/// Progress of training on stderr.
fn progress_report() -> impl FnMut(Progress) {
    |progress| {
        if let (Phase::Train, Some(update)) = (progress.phase, &progress.update)
            && update.update.is_multiple_of(25)
        {
            eprintln!("  {} loss {:.4}", update.update, update.loss);
        }
    }
}

/// Erases a concept with `keystep`'s defaults, which walk with DDIM.
fn erase(engine: &CandleEngine, word: &str, options: &Options) -> Result<Erased, Box<dyn Error>> {
    let vocabulary = engine.vocabulary().clone();
    let kind = match find_word(&vocabulary.styles, word) {
        Some(_) => ConceptKind::Style,
        None => ConceptKind::Object,
    };
    let concept = Concept::new(word, kind);
    let (mut method, scope) = Method::preset(MethodName::Keystep, kind, false);
    if let Method::Keystep(settings) = &mut method {
        settings.updates = options.updates.unwrap_or(settings.updates);
        if options.words.is_some() {
            settings.concept_trajectories = 2;
            settings.anchor_trajectories = 2;
            settings.preserve_trajectories = 4;
            settings.erase_batch = 2;
            settings.preserve_batch = 2;
        }
        if let Some(window) = &options.window {
            let (low, high) = window.split_once(':').ok_or("give LOW:HIGH")?;
            let window = LogSnrWindow { low: low.parse()?, high: high.parse()? };
            settings.key_steps = KeySteps::Window(window);
        }
    }
    let spec = UnlearnSpec {
        concepts: vec![concept.clone()],
        method,
        scope,
        preserve: Vec::new(),
        vocabulary: vocabulary.clone(),
        seed: options.seed,
    };
    let mut report = progress_report();
    let mut context = RunContext::reporting(&mut report);
    let erased = engine.unlearn(&spec, &mut context)?;
    let judged = match options.words {
        None => vocabulary,
        Some(most) => first_words(vocabulary, most, word),
    };
    let mut judging = JudgeSpec::new(concept, judged);
    judging.steps = options.steps.unwrap_or(judging.steps);
    Ok(Erased { word: word.to_owned(), judging, model: engine.with_erased(&erased)? })
}

/// The first words of either domain, and the concept's.
fn first_words(vocabulary: Vocabulary, most: usize, word: &str) -> Vocabulary {
    let first = |words: Vec<String>| {
        let wanted = words.into_iter().enumerate();
        wanted.filter(|(n, it)| *n < most || same_words(it, word)).map(|(_, it)| it).collect()
    };
    Vocabulary {
        objects: first(vocabulary.objects),
        styles: first(vocabulary.styles),
        anything: vocabulary.anything,
    }
}

fn write_rows(out: &mut impl Write, word: &str, judged: &JudgeReport) -> std::io::Result<()> {
    let target = judged.pictures.iter().filter(|picture| picture.is_target).count();
    let rest = judged.pictures.len() - target;
    for verdict in &judged.verdicts {
        let Verdict { edited, base, .. } = verdict;
        let cells = [
            share(edited.ua, target),
            share(base.ua, target),
            share(edited.ira, rest),
            share(base.ira, rest),
            share(edited.cra, rest),
            share(base.cra, rest),
        ];
        let (sampler, judge) = (verdict.sampler.name(), &verdict.judge);
        writeln!(out, "| {word} | {sampler} | {judge} | {} |", cells.join(" | "))?;
    }
    out.flush()
}

/// A share with Wilson's interval and what it is a share of, such as `0.969 [0.843, 0.994] of 32`.
fn share(share: f64, count: usize) -> String {
    const Z: f64 = 1.959_964;
    if count == 0 {
        return "–".to_owned();
    }
    let n = count as f64;
    let scale = 1.0 + Z * Z / n;
    let middle = (share + Z * Z / (2.0 * n)) / scale;
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    format!(
        "{share:.3} [{:.3}, {:.3}] of {count}",
        (middle - half).max(0.0),
        (middle + half).min(1.0)
    )
}
