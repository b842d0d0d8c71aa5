//! A made-up engine, and the verbs run with it from end to end.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    CliError,
    interrupt::Interrupt,
    local::{LocalEngine, evaluate, generate, score, unlearn},
    session::Session,
};
use crate::{
    engine::{EngineError, RunContext},
    outcome::{
        Estimate, Figures, JudgeReport, JudgedPicture, Phase, Picture, StepScore, TimestepScores,
        TrainingLog, UpdateRecord, Verdict,
    },
    spec::{
        GenerateSpec, JudgeSpec, KeySteps, KeystepSettings, LogSnrWindow, Method, ModelFiles,
        Prompt, ScoreSpec, StepIndex, Timestep, UnlearnSpec, Vocabulary,
    },
};

/// The model that comes with the program.
const BUILTIN_MODEL: &str = "builtin:emoji-canvas";

#[derive(Debug)]
struct FakeEngine {
    vocabulary: Vocabulary,
}

fn picture() -> Picture {
    Picture { width: 8, height: 8, rgb: vec![120; 192] }
}

fn given_window(spec: &UnlearnSpec) -> Option<LogSnrWindow> {
    match &spec.method {
        Method::Keystep(KeystepSettings { key_steps: KeySteps::Window(window), .. }) => {
            Some(*window)
        }
        _ => None,
    }
}

impl LocalEngine for FakeEngine {
    type Erased = (TrainingLog, Vec<TimestepScores>);

    fn load(_: &dyn ModelFiles, _: Option<&str>) -> Result<Self, EngineError> {
        Ok(Self {
            vocabulary: Vocabulary {
                anything: "emoji".to_owned(),
                objects: vec!["cat".to_owned(), "dog".to_owned()],
                styles: vec!["neon".to_owned()],
            },
        })
    }

    fn unet_digest(&self) -> Result<String, EngineError> {
        Ok(String::new())
    }

    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn score_timesteps(
        &mut self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError> {
        context.advance(Phase::Score, 1, 1)?;
        let estimate = Estimate { mean: 0.5, standard_error: 0.1 };
        let steps = (0..spec.steps).map(|step| StepScore {
            step: StepIndex(step),
            timestep: Timestep(981 - step),
            log_snr: step as f64 - 5.0,
            guidance_energy: estimate,
            guidance_effect: estimate,
            concept_until: None,
            concept_from: None,
            gradient_share: Some(estimate),
        });
        Ok(TimestepScores {
            spec: spec.clone(),
            model_digest: String::new(),
            steps: steps.collect(),
            window: LogSnrWindow { low: -4.0, high: -1.0 },
            window_steps: (StepIndex(1), StepIndex(4)),
            rule: "made up".to_owned(),
            unet_evaluations: 100,
        })
    }

    fn unlearn(
        &mut self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Self::Erased, EngineError> {
        spec.validate()?;
        if spec.seed == 13 {
            context.cancel.cancel();
        }
        context.advance(Phase::Train, 1, 1)?;
        let update = UpdateRecord {
            update: 0,
            step: StepIndex(1),
            timestep: Timestep(980),
            loss: 1.0,
            gradient_norm: 1.0,
            unet_evaluations: 23,
        };
        let log = TrainingLog {
            updates: vec![update],
            key_steps: vec![StepIndex(1)],
            unet_evaluations: 23,
            stopped_early: false,
            erase_measure: -0.5,
            damage_measure: 0.01,
            weight_change: 0.02,
            learning_rate: 1e-4,
            window: given_window(spec),
            ..TrainingLog::default()
        };
        Ok((log, Vec::new()))
    }

    fn generate(
        &mut self,
        spec: &GenerateSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Vec<Picture>, EngineError> {
        context.advance(Phase::Draw, 1, 1)?;
        Ok(vec![picture(); spec.pictures.len()])
    }

    fn judge(
        &mut self,
        spec: &JudgeSpec,
        _: &Self,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        context.advance(Phase::Judge, 1, 1)?;
        let figures = |ua| Figures { ua, ira: 0.9, cra: 0.95 };
        let judged = JudgedPicture {
            prompt: Prompt::of(&spec.concept.text, spec.concept.kind),
            seed: spec.seed,
            is_target: true,
            before: picture(),
            after: picture(),
        };
        Ok(JudgeReport {
            spec: spec.clone(),
            verdicts: vec![Verdict {
                judge: "cnn".to_owned(),
                edited: figures(1.0),
                base: figures(0.0),
            }],
            pictures: vec![judged],
            unet_evaluations: 500,
        })
    }

    fn log(erased: &Self::Erased) -> &TrainingLog {
        &erased.0
    }

    fn scores(erased: &Self::Erased) -> &[TimestepScores] {
        &erased.1
    }

    fn write_unet(_: &Self::Erased, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"edited")
    }

    fn write_delta(
        _: &Self::Erased,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        write!(out, "{metadata:?}")
    }
}

/// Parses a line as the program does, and runs its verb with the made-up engine.
fn run(line: &[&str]) -> Result<(), CliError> {
    use clap::Parser;
    let line = std::iter::once("keystep").chain(line.iter().copied());
    let mut session = Session::new(true, Interrupt::default());
    match super::Cli::try_parse_from(line).unwrap().verb {
        super::Verb::Unlearn(arguments) => unlearn::run::<FakeEngine>(&arguments, &mut session),
        super::Verb::Score(arguments) => score::run::<FakeEngine>(&arguments, &mut session),
        super::Verb::Generate(arguments) => generate::run::<FakeEngine>(&arguments, &mut session),
        super::Verb::Evaluate(arguments) => evaluate::run::<FakeEngine>(&arguments, &mut session),
        other => panic!("{other:?} works in no engine of this process's own"),
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn nothing_is_left_of_a_run_that_failed_or_was_interrupted() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let out = out.to_str().unwrap();
    let unlearn = |model: &str, rest: &[&str]| {
        let line = ["unlearn", "--local", "--model", model, "--kind", "object", "--out", out];
        run(&[&line[..], rest].concat()).unwrap_err()
    };
    let cat = ["--concept", "cat"];
    let interrupted = unlearn(BUILTIN_MODEL, &[&cat[..], &["--seed", "13"]].concat());
    assert_eq!(interrupted.exit_code(), 130);
    let wrong = unlearn(BUILTIN_MODEL, &[&cat[..], &["--replace-with", "cat"]].concat());
    assert_eq!(wrong.exit_code(), 2);
    assert_eq!(unlearn("nowhere", &cat).exit_code(), 1);
    assert!(names_in(parent.path()).is_empty());
}

#[test]
fn the_verbs_hang_together() {
    let parent = tempfile::tempdir().unwrap();
    let path = |name: &str| parent.path().join(name).to_str().unwrap().to_owned();
    let (scored, erased) = (path("scored"), path("erased"));
    let cat = ["--concept", "cat", "--kind", "object"];
    let model = ["--local", "--model", BUILTIN_MODEL];
    run(&[&["score"], &model[..], &cat, &["--steps", "8", "--out", &scored]].concat()).unwrap();
    assert_eq!(names_in(Path::new(&scored)), ["scores.json", "scores.png"]);

    let scores = path("scored/scores.json");
    let window = ["--scores", &scores, "--out", &erased];
    run(&[&["unlearn"], &model[..], &cat, &window].concat()).unwrap();
    let report = json(Path::new(&erased).join("report.json"));
    assert_eq!(report["window"]["low"], -4.0);
    assert!(report.get("ua").is_none());

    let other = ["--concept", "dog", "--kind", "object", "--scores", &scores, "--out", "x"];
    assert!(matches!(
        run(&[&["unlearn"], &model[..], &other].concat()),
        Err(CliError::Usage(message)) if message.contains("not to be erased")
    ));

    let (checkpoint, judged, sheet) =
        (path("erased/checkpoint"), path("judged.json"), path("sheet.png"));
    let files = ["--out", &judged, "--sheet", &sheet];
    let models = ["--local", "--model", &checkpoint, "--base", BUILTIN_MODEL];
    run(&[&["evaluate"], &models[..], &cat, &files].concat()).unwrap();
    assert_eq!(json(PathBuf::from(&judged))["base_ua"], 0.0);
    assert!(std::fs::read(&sheet).unwrap().starts_with(b"\x89PNG"));

    let drawn = path("cats.png");
    let prompt = ["--prompt", "a cat", "--count", "3", "--out", &drawn];
    run(&[&["generate"], &model[..], &prompt].concat()).unwrap();
    assert!(std::fs::read(&drawn).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn what_work_here_cannot_do_without_is_told() {
    for (line, missing) in [
        (&["generate", "--local", "--model", "m", "--prompt", "a cat"][..], "--out"),
        (&["score", "--local", "--concept", "cat", "--kind", "object", "--out", "x"], "--model"),
    ] {
        assert!(matches!(run(line), Err(CliError::Usage(text)) if text.contains(missing)));
    }
}
