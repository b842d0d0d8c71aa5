//! The demo from end to end, with the daemon and a made-up engine.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::Parser;

use super::DemoArguments;
use crate::{
    cli::{CliError, interrupt::Interrupt, session::Session},
    worker::testing::{FakeScript, FakeSource},
};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: DemoArguments,
}

fn script(updates: usize) -> FakeScript {
    FakeScript { updates, can_judge: true, ..FakeScript::default() }
}

/// Parses a line as the program does, and runs the demo with the made-up engine.
fn demo(line: &[&str], script: &Arc<FakeScript>, interrupt: Interrupt) -> Result<(), CliError> {
    let line = std::iter::once("demo").chain(line.iter().copied());
    let arguments = Line::try_parse_from(line).unwrap().arguments;
    let mut session = Session::new(true, interrupt);
    super::run(&arguments, FakeSource(script.clone()), &mut session)
}

fn run(line: &[&str]) -> Result<(), CliError> {
    demo(line, &Arc::new(script(3)), Interrupt::default())
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

const FILES: [&str; 8] = [
    "before-after.png", "delta.safetensors", "pipeline", "report.html", "report.json",
    "scores.json", "scores.png", "training.json",
];

#[test]
fn the_demo_writes_all_of_its_files() {
    let parent = tempfile::tempdir().unwrap();
    // A folder's name is part of URLs on the way.
    let out = parent.path().join("a #1? 50% ünd");
    run(&["--out", out.to_str().unwrap(), "--seed", "4"]).unwrap();
    assert_eq!(names_in(&out), FILES);
    assert_eq!(names_in(parent.path()).len(), 1);
    assert!(names_in(&out.join("pipeline")).contains(&"unet".to_owned()));

    let report = json(out.join("report.json"));
    assert_eq!(report["judge"], "cnn");
    assert_eq!(report["ua"], 1.0);
    // Three updates of eight evaluations, and the scores that chose the window.
    assert_eq!(report["unet_evaluations"], 124);
    assert_eq!(report["cost"]["scoring"]["unet_evaluations"], 100);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(report["peak_rss_bytes"].is_u64(), cfg!(target_os = "linux"));
    assert_eq!(report["window"]["low"], -4.0);
    assert_eq!(report["spec"]["method"]["key_steps"]["window"]["high"], -1.0);
    assert_eq!((&report["seeds"]["unlearn"], &report["seeds"]["score"]), (&4.into(), &4.into()));
    let digests = report["digests"].as_object().unwrap();
    for name in ["delta.safetensors", "pipeline/unet/diffusion_pytorch_model.safetensors"] {
        let bytes = std::fs::read(out.join(name)).unwrap();
        assert_eq!(digests[name], crate::artifacts::digest::digest_bytes(&bytes), "{name}");
    }
    let delta = std::fs::read(out.join("delta.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&delta).contains("keystep.spec"));
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("124") && page.contains("the whole run"), "{page}");

    let error = run(&["--out", out.to_str().unwrap()]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("exists"), "{error}");
}

#[test]
fn the_published_methods_show_scores_that_are_no_cost_of_theirs() {
    let parent = tempfile::tempdir().unwrap();
    for (method, kind, concept, rate) in
        [("esd", "object", "cat", 3e-4), ("kscu", "style", "neon", 3e-4)]
    {
        let out = parent.path().join(method);
        let line = ["--method", method, "--concept", concept, "--kind", kind, "--updates", "2"];
        run(&[&line[..], &["--out", out.to_str().unwrap()]].concat()).unwrap();
        assert_eq!(names_in(&out), FILES);
        let report = json(out.join("report.json"));
        assert_eq!(report["unet_evaluations"], 24);
        assert_eq!(report["cost"]["scoring"]["unet_evaluations"], 100);
        let settings = &report["spec"]["method"];
        assert_eq!((&settings["updates"], &settings["learning_rate"]), (&2.into(), &rate.into()));
        assert_eq!(json(out.join("scores.json"))["steps"].as_array().unwrap().len(), 20);
    }
}

#[test]
fn words_that_cannot_be_are_refused_before_any_work() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let out = out.to_str().unwrap();
    let script = Arc::new(script(3));
    for line in [
        &["--concept", "zebra"][..],
        &["--concept", " "],
        &["--replace-with", "cat"],
        &["--learning-rate", "7"],
        &["--updates", "0"],
    ] {
        let line = [line, &["--out", out]].concat();
        let error = demo(&line, &script, Interrupt::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line:?}: {error}");
    }
    assert_eq!(script.updates_made.load(Ordering::SeqCst), 0);
    assert!(names_in(parent.path()).is_empty());
}

#[test]
fn nothing_is_left_of_a_run_that_failed() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let judgeless = Arc::new(FakeScript { updates: 3, ..FakeScript::default() });
    let line = ["--out", out.to_str().unwrap()];
    let error = demo(&line, &judgeless, Interrupt::default()).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("no judge"), "{error}");
    assert!(names_in(parent.path()).is_empty());
}

#[test]
fn nothing_is_left_of_a_run_that_was_interrupted() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let delay = Duration::from_millis(5);
    let script = Arc::new(FakeScript { delay, ..script(100_000) });
    let interrupt = Interrupt::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while script.updates_made.load(Ordering::SeqCst) < 3 {
                std::thread::sleep(delay);
            }
            assert!(names_in(parent.path()).iter().all(|name| name.starts_with('.')));
            interrupt.signal();
        });
        let error = demo(&["--out", out.to_str().unwrap()], &script, interrupt.clone());
        assert_eq!(error.unwrap_err().exit_code(), 130);
    });
    assert!(script.updates_made.load(Ordering::SeqCst) < 100_000);
    assert!(names_in(parent.path()).is_empty());
}
