//! A made-up engine, and the verbs run with it from end to end.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    CliError,
    interrupt::Interrupt,
    local::{LocalEngine, evaluate, generate, score, unlearn},
    session::Session,
};
use crate::{
    engine::{Compute, EngineError},
    spec::ModelFiles,
    worker::{
        EngineSource,
        testing::{FakeEngine, FakeScript, FakeSource, Fault, FaultKind},
    },
};

/// The model that comes with the program.
const BUILTIN_MODEL: &str = "builtin:emoji-canvas";

thread_local! {
    /// What the engines do that this test's verbs load.
    static SCRIPT: RefCell<Arc<FakeScript>> = RefCell::new(Arc::new(script()));
}

fn script() -> FakeScript {
    FakeScript { updates: 1, can_judge: true, ..FakeScript::default() }
}

impl LocalEngine for FakeEngine {
    fn load(files: &dyn ModelFiles, _: Option<&str>, _: &Compute) -> Result<Self, EngineError> {
        FakeSource(SCRIPT.with_borrow(Arc::clone)).load(files)
    }

    fn with_memory_limit(self, _: Option<u64>) -> Self {
        self
    }

    fn unet_digest(&self) -> Result<String, EngineError> {
        // That of the scores it makes up.
        Ok("fake".to_owned())
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
    let fault = Fault { at: 0, kind: FaultKind::Cancelled, times: 1 };
    SCRIPT.with_borrow(|script| script.set_fault(fault));
    assert_eq!(unlearn(BUILTIN_MODEL, &cat).exit_code(), 130);
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
