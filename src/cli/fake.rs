//! A scripted engine, and tests that run the verbs with it from end to end.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use super::{
    CliError,
    interrupt::Interrupt,
    local::{LocalEngine, erase_or_resume, evaluate, gate, generate, score},
    session::Session,
};
use crate::{
    artifacts::ArtifactError,
    device::EngineSource,
    engine::{Compute, EngineError},
    outcome::ErasureRecord,
    spec::{ModelFiles, ReadSeek},
    worker::testing::{FakeEngine, FakeScript, FakeSource, Fault, FaultKind},
};

/// The model that comes with the program.
const BUILTIN_MODEL: &str = "builtin:emoji-canvas";

const UNET: &str = "pipeline/unet/diffusion_pytorch_model.safetensors";

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

    fn restore_erased(
        &self,
        record: ErasureRecord,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self::Erased, EngineError> {
        self.restored(record, file, reader, length)
    }
}

/// Parses a line as the program does, and runs its verb with the made-up engine.
fn run(line: &[&str]) -> Result<(), CliError> {
    use clap::Parser;
    let line = std::iter::once("keystep").chain(line.iter().copied());
    let mut session = Session::new(true, Interrupt::default());
    match super::Cli::try_parse_from(line).unwrap().verb {
        super::Verb::Unlearn(arguments) => erase_or_resume::<FakeEngine>(&arguments, &mut session),
        super::Verb::Score(arguments) => score::run::<FakeEngine>(&arguments, &mut session),
        super::Verb::Generate(arguments) => generate::run::<FakeEngine>(&arguments, &mut session),
        super::Verb::Evaluate(arguments) => evaluate::run::<FakeEngine>(&arguments, &mut session),
        super::Verb::Gate(arguments) => gate::run::<FakeEngine>(&arguments, &mut session),
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

/// `unlearn --local` of a cat, and the updates that it made.
fn erase(model: &str, out: &Path, script: FakeScript) -> (Result<(), CliError>, usize) {
    erase_with(&["--model", model], out, script)
}

/// The same with further flags.
fn erase_with(flags: &[&str], out: &Path, script: FakeScript) -> (Result<(), CliError>, usize) {
    SCRIPT.set(Arc::new(script));
    let out = out.to_str().unwrap();
    let line = ["unlearn", "--local", "--concept", "cat", "--kind", "object", "--out", out];
    let done = run(&[&line[..], flags].concat());
    (done, SCRIPT.with_borrow(|script| script.updates_made.load(Ordering::SeqCst)))
}

/// The same on the built-in model, killed before an update; the program is gone, and not what it
/// would have removed.
fn kill(flags: &[&str], out: &Path, at: usize, script: FakeScript) {
    script.set_fault(Fault { at, kind: FaultKind::Panic, times: 1 });
    let flags = [&["--model", BUILTIN_MODEL], flags].concat();
    let erase = AssertUnwindSafe(|| erase_with(&flags, out, script));
    assert!(catch_unwind(erase).is_err());
}

#[test]
fn a_killed_erasure_goes_on_where_it_was() {
    let parent = tempfile::tempdir().unwrap();
    let (out, undisturbed) = (parent.path().join("out"), parent.path().join("never"));
    let script = || FakeScript { updates: 70, ..script() };
    kill(&[], &out, 60, script());
    assert_eq!(names_in(parent.path()), ["out.state"]);
    let (done, updates) = erase(BUILTIN_MODEL, &out, script());
    done.unwrap();
    // The last save was after the 50th.
    assert_eq!(updates, 20);
    erase(BUILTIN_MODEL, &undisturbed, script()).0.unwrap();
    assert_eq!(names_in(parent.path()), ["never", "out"]);
    for name in ["delta.safetensors", "training.json", UNET, "before-after.png"] {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(&out) == read(&undisturbed), "{name}");
    }

    // From a folder that was asked for, whatever the result is called.
    let state = parent.path().join("elsewhere");
    let asked = ["--state-folder", state.to_str().unwrap()];
    kill(&asked, &parent.path().join("one"), 30, script());
    let flags = [&["--model", BUILTIN_MODEL], &asked[..]].concat();
    let (done, updates) = erase_with(&flags, &parent.path().join("two"), script());
    done.unwrap();
    assert_eq!((updates, state.exists()), (45, false));
}

#[test]
fn an_interruption_leaves_the_state_that_was_asked_for_alone() {
    let parent = tempfile::tempdir().unwrap();
    let (out, state) = (parent.path().join("out"), parent.path().join("mine"));
    let interrupted = |flags: &[&str]| {
        let script = FakeScript { updates: 70, ..script() };
        script.set_fault(Fault { at: 60, kind: FaultKind::Cancelled, times: 1 });
        let flags = [&["--model", BUILTIN_MODEL], flags].concat();
        let error = erase_with(&flags, &out, script).0.unwrap_err();
        assert_eq!(error.exit_code(), 130);
    };
    interrupted(&[]);
    assert!(names_in(parent.path()).is_empty());
    interrupted(&["--state-folder", state.to_str().unwrap()]);
    assert_eq!(names_in(parent.path()), ["mine"]);
    assert_eq!(names_in(&state), ["training.safetensors"]);

    // What no further run can use goes with the run that made it.
    let script = FakeScript { updates: 70, ..script() };
    script.set_fault(Fault { at: 60, kind: FaultKind::NotFinite, times: 1 });
    assert_eq!(erase(BUILTIN_MODEL, &out, script).0.unwrap_err().exit_code(), 1);
    assert_eq!(names_in(parent.path()), ["mine"]);
}

#[test]
fn a_result_is_judged_as_it_was_asked_for() {
    let parent = tempfile::tempdir().unwrap();
    let path = |name: &str| parent.path().join(name);
    let erase = |flags: &[&str], name: &str, script: FakeScript| {
        erase_with(&[&["--model", BUILTIN_MODEL], flags].concat(), &path(name), script)
    };
    erase(&["--sampler", "lcm"], "judged", script()).0.unwrap();
    let report = json(path("judged/report.json"));
    assert_eq!((&report["ua"], &report["judges"][0]["sampler"]), (&1.0.into(), &"lcm".into()));
    assert_eq!(report["cost"]["judging"]["unet_evaluations"], 500);
    assert!(report["cost"]["judging"]["seconds"].is_f64());
    assert!(path("judged/before-after.png").exists());
    let digests = report["digests"].as_object().unwrap();
    assert!(digests.contains_key("base") && digests.contains_key(UNET), "{digests:?}");

    erase(&["--no-evaluate"], "unjudged", script()).0.unwrap();
    assert!(json(path("unjudged/report.json")).get("ua").is_none());
    assert!(!path("unjudged/before-after.png").exists());

    let judgeless = || FakeScript { can_judge: false, ..script() };
    erase(&[], "judgeless", judgeless()).0.unwrap();
    assert!(json(path("judgeless/report.json")).get("ua").is_none());
    let (done, updates) = erase(&["--evaluate"], "none", judgeless());
    let error = done.unwrap_err();
    assert!(error.to_string().contains("no judge"), "{error}");
    assert_eq!((error.exit_code(), updates, path("none").exists()), (1, 0, false));
}

#[test]
fn what_cannot_be_written_is_reported_before_the_first_update() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let script = FakeScript { edited_bytes: 1 << 60, ..script() };
    let (done, updates) = erase(BUILTIN_MODEL, &out, script);
    let error = done.unwrap_err();
    assert!(matches!(error, CliError::Artifact(ArtifactError::TooLittleRoom { .. })), "{error}");
    assert_eq!((updates, error.exit_code()), (0, 1));

    #[cfg(unix)]
    {
        let model = parent.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("model_index.json"), "{}").unwrap();
        std::os::unix::fs::symlink("nowhere", model.join("README.md")).unwrap();
        let (done, updates) = erase(model.to_str().unwrap(), &out, self::script());
        let error = done.unwrap_err();
        assert!(error.to_string().contains("README.md"), "{error}");
        assert_eq!(updates, 0);
        std::fs::remove_dir_all(&model).unwrap();
    }
    assert!(names_in(parent.path()).is_empty());
}

#[test]
fn a_disk_that_fills_leaves_the_edited_tensors() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let (done, updates) = erase(BUILTIN_MODEL, &out, FakeScript { disk_is_full: true, ..script() });
    let error = done.unwrap_err();
    assert_eq!((updates, error.exit_code()), (1, 1));
    let names = names_in(parent.path());
    assert!(matches!(&names[..], [name] if name.starts_with("out-delta-")), "{names:?}");
    assert!(error.to_string().contains(&names[0]), "{error}");
    let kept = parent.path().join(&names[0]);

    // Elsewhere there is room: the result is that of a run that met none of this.
    let resume = |kept: &Path, out: &Path, script: FakeScript| {
        SCRIPT.set(Arc::new(script));
        let (kept, out) = (kept.to_str().unwrap(), out.to_str().unwrap());
        let done = run(&["unlearn", "--local", "--resume", kept, "--out", out]);
        (done, SCRIPT.with_borrow(|script| script.updates_made.load(Ordering::SeqCst)))
    };
    let (elsewhere, undisturbed) = (parent.path().join("elsewhere"), parent.path().join("never"));
    let (done, updates) = resume(&kept, &elsewhere, script());
    done.unwrap();
    assert_eq!(updates, 0);
    erase(BUILTIN_MODEL, &undisturbed, script()).0.unwrap();
    for name in ["delta.safetensors", "training.json", "pipeline/model_index.json", UNET] {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(&elsewhere) == read(&undisturbed), "{name}");
    }

    // Nor is there room the second time: what was kept stays, and nothing is kept twice.
    let full = FakeScript { disk_is_full: true, ..script() };
    let error = resume(&kept, &parent.path().join("again"), full).0.unwrap_err();
    assert!(matches!(error, CliError::Artifact(ArtifactError::DiskFull { .. })), "{error}");
    assert_eq!(names_in(parent.path()), ["elsewhere", "never", names[0].as_str()]);

    // A finished result has nothing to be taken up.
    let delta = elsewhere.join("delta.safetensors");
    let error = resume(&delta, &parent.path().join("again"), script()).0.unwrap_err();
    assert!(matches!(error, CliError::NotKept { .. }), "{error}");
    // Another last weight; they come last in the file.
    let mut bytes = std::fs::read(&kept).unwrap();
    let last = bytes.last_chunk_mut::<4>().unwrap();
    *last = (255.0 - f32::from_le_bytes(*last)).to_le_bytes();
    std::fs::write(&kept, bytes).unwrap();
    let error = resume(&kept, &parent.path().join("again"), script()).0.unwrap_err();
    assert!(matches!(error, CliError::DamagedKept { .. }), "{error}");
    assert_eq!(names_in(parent.path()).len(), 3);
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
    assert_eq!((&report["judge"], &report["ua"]), (&"cnn".into(), &1.0.into()));

    let other = ["--concept", "dog", "--kind", "object", "--scores", &scores, "--out", "x"];
    assert!(matches!(
        run(&[&["unlearn"], &model[..], &other].concat()),
        Err(CliError::Usage(message)) if message.contains("not to be erased")
    ));

    let (pipeline, judged, sheet) =
        (path("erased/pipeline"), path("judged.json"), path("sheet.png"));
    let files = ["--out", &judged, "--sheet", &sheet, "--sampler", "lcm"];
    let models = ["--local", "--model", &pipeline, "--base", BUILTIN_MODEL];
    run(&[&["evaluate"], &models[..], &cat, &files].concat()).unwrap();
    let report = json(PathBuf::from(&judged));
    assert_eq!(report["base_ua"], 0.0);
    assert_eq!(
        (&report["spec"]["sampler"], &report["judges"][0]["sampler"]),
        (&"lcm".into(), &"lcm".into())
    );
    assert!(std::fs::read(&sheet).unwrap().starts_with(b"\x89PNG"));

    let drawn = path("cats.png");
    let prompt = ["--prompt", "a cat", "--count", "3", "--out", &drawn];
    run(&[&["generate"], &model[..], &prompt].concat()).unwrap();
    assert!(std::fs::read(&drawn).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn a_text_may_begin_with_a_hyphen() {
    let parent = tempfile::tempdir().unwrap();
    let drawn = parent.path().join("cats.png");
    let out = drawn.to_str().unwrap();
    let line = ["generate", "--local", "--model", BUILTIN_MODEL, "--out", out];
    let texts = ["--prompt", "-cat", "--negative-prompt", "-blurry"];
    run(&[&line[..], &texts].concat()).unwrap();
    assert!(drawn.is_file());
}

#[test]
fn what_work_here_cannot_do_without_is_reported() {
    for (line, missing) in [
        (&["generate", "--local", "--model", "m", "--prompt", "a cat"][..], "--out"),
        (&["score", "--local", "--concept", "cat", "--kind", "object", "--out", "x"], "--model"),
    ] {
        assert!(matches!(run(line), Err(CliError::Usage(text)) if text.contains(missing)));
    }
}

/// All of 32 pictures show less than 0.95, and so do all of 64; all of 128 show it.
#[test]
fn the_gate_draws_twice_as_much_until_a_policy_is_decided() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let policy = |looks: usize, limit: f64| {
        let rule = format!("[[rule]]\nid = \"a\"\nmeasure = \"ua\"\nat_least = {limit}\n");
        let text = format!("schema = 1\nname = \"x\"\nlooks = {looks}\n{rule}");
        std::fs::write(at("policy.toml"), text).unwrap();
    };
    let (file, verdict) = (at("policy.toml"), at("verdict.json"));
    let line = [
        "gate", "--local", "--model", BUILTIN_MODEL, "--base", BUILTIN_MODEL, "--concept", "cat",
        "--kind", "object", "--policy", &file, "--json", &verdict, "--overwrite",
    ];
    let grids = |counts| {
        SCRIPT.set(Arc::new(FakeScript { counts, ..script() }));
        let done = run(&line).map_err(|error| error.exit_code());
        (done, SCRIPT.with_borrow(|script| script.base_grids.load(Ordering::SeqCst)))
    };
    policy(3, 0.95);
    assert_eq!(grids(true), (Ok(()), 3));
    let said = json(PathBuf::from(&verdict));
    assert_eq!((&said["verdict"], &said["look"]), (&"passed".into(), &3.into()));
    assert_eq!(said["rules"][0]["rows"][0]["pictures"], 128);
    policy(2, 0.95);
    assert_eq!(grids(true), (Err(4), 2));
    assert_eq!(json(PathBuf::from(&verdict))["verdict"], "undecided");
    // Decided at once, and where no number of pictures helps: one look is enough.
    policy(3, 0.8);
    assert_eq!(grids(true), (Ok(()), 1));
    assert_eq!(grids(false), (Err(4), 1));
    // Nothing is drawn where the policy is wrong.
    policy(3, 1.5);
    assert_eq!(grids(true), (Err(2), 0));
}
