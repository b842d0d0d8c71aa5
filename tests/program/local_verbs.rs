//! The program on the real model, from arguments to files: what it writes, what it refuses, and
//! that an interrupted run leaves nothing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Stdio},
};

use assert_cmd::{Command, cargo::cargo_bin_cmd};
use keystep::{
    outcome::{TimestepScores, TrainingLog},
    spec::UnlearnSpec,
};
use predicates::{prelude::PredicateBooleanExt, str::contains};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "builtin:emoji-canvas";
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// `keystep VERB --local …` in a folder of its own.
fn keystep(place: &TempDir, verb: &str, rest: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("keystep");
    command.current_dir(place.path()).args([verb, "--local"]).args(rest);
    command
}

fn generate(place: &TempDir, model: &str, prompt: &str, out: &str) -> Command {
    let line = ["--model", model, "--prompt", prompt, "--steps", "3", "--seed", "5", "--out", out];
    keystep(place, "generate", &line)
}

/// A few updates at the noisy end of the path.
fn unlearn(place: &TempDir, model: &str, out: &str) -> Command {
    let line = [
        "--model", model, "--concept", "cat", "--kind", "object", "--updates", "6", "--window",
        "-9:-4", "--no-evaluate", "--out", out,
    ];
    keystep(place, "unlearn", &line)
}

/// Everything in a folder, hidden or not.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn read(place: &TempDir, name: &str) -> Vec<u8> {
    fs::read(place.path().join(name)).unwrap()
}

fn json<T: serde::de::DeserializeOwned>(place: &TempDir, name: &str) -> T {
    serde_json::from_slice(&read(place, name)).unwrap()
}

/// A copy of the built-in model that may be broken.
fn model_copy(place: &TempDir) {
    copy(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/emoji-canvas/model")),
        &place.path().join("model"),
    );
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for name in names(from) {
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::write(to, fs::read(from).unwrap()).unwrap();
    }
}

#[test]
fn a_picture_is_the_same_again_and_never_overwritten() {
    let place = tempfile::tempdir().unwrap();
    generate(&place, MODEL, "a cat", "one.png").assert().success().stdout(contains("one.png"));
    generate(&place, MODEL, "a cat", "two.png").assert().success();
    let one = read(&place, "one.png");
    assert!(one == read(&place, "two.png"));
    let reader = png::Decoder::new(std::io::Cursor::new(&one)).read_info().unwrap();
    assert_eq!((reader.info().width, reader.info().height), (64, 64));

    generate(&place, MODEL, "a dog", "one.png")
        .assert()
        .code(2)
        .stderr(contains("one.png exists").and(contains("name another")));
    assert!(one == read(&place, "one.png"));
    assert_eq!(names(place.path()), ["one.png", "two.png"]);
}

#[test]
fn a_picture_begins_with_another_one() {
    let place = tempfile::tempdir().unwrap();
    generate(&place, MODEL, "a cat", "cat.png").assert().success();
    let from_cat = |out: &str, rest: &[&str]| {
        let mut command = generate(&place, MODEL, "a dog", out);
        command.args(["--init-image"]).args(rest);
        command
    };
    from_cat("a.png", &["cat.png", "--strength", "0.7"]).assert().success();
    from_cat("b.png", &["cat.png", "--strength", "0.7"]).assert().success();
    from_cat("c.png", &["cat.png"]).assert().success();
    assert!(read(&place, "a.png") == read(&place, "b.png"));
    // Both take 2 of 3 steps; the files say which strength was asked for.
    let texts = |name: &str| {
        let png = read(&place, name);
        let reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let texts = reader.info().utf8_text.iter();
        let of_strength = texts.filter(|chunk| chunk.keyword == "strength");
        of_strength.map(|chunk| chunk.get_text().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((texts("a.png"), texts("c.png")), (vec!["0.7".into()], vec!["0.8".into()]));

    fs::write(place.path().join("cat.jpg"), b"\xff\xd8\xff\xe0 and so on").unwrap();
    for (rest, message) in [
        (&["cat.jpg"][..], "cat.jpg is a JPEG"),
        (&["cat.png", "--strength", "0.3"], "0.3 of 3 steps is less than one"),
        (&["cat.png", "--strength", "-1"], "-1 is outside 0 to 1"),
        (&["cat.png", "--width", "64", "--height", "64"], "cannot be used with"),
    ] {
        from_cat("no.png", rest).assert().code(2).stderr(contains(message));
    }
    let alone = ["--strength", "0.5"];
    generate(&place, MODEL, "a dog", "no.png").args(alone).assert().code(2);
    from_cat("no.png", &["nowhere.png"]).assert().failure().stderr(contains("cannot read nowhere"));
    assert_eq!(names(place.path()), ["a.png", "b.png", "c.png", "cat.jpg", "cat.png"]);
}

#[test]
fn scores_are_written_with_their_plot_and_taken_by_unlearn() {
    let place = tempfile::tempdir().unwrap();
    let line = [
        "--model", MODEL, "--concept", "cat", "--kind", "object", "--steps", "4", "--trajectories",
        "2", "--no-switch-curve", "--out", "scores",
    ];
    keystep(&place, "score", &line)
        .assert()
        .success()
        .stdout(contains("Recommended window").and(contains("scores.png")));
    assert_eq!(names(&place.path().join("scores")), ["scores.json", "scores.png"]);
    let scores: TimestepScores = json(&place, "scores/scores.json");
    assert_eq!(scores.steps.len(), 4);
    assert!(read(&place, "scores/scores.png").starts_with(b"\x89PNG"));

    let line = [
        "--model", MODEL, "--concept", "cat", "--kind", "object", "--updates", "4", "--scores",
        "scores/scores.json", "--no-evaluate", "--out", "no-cat", "--quiet",
    ];
    keystep(&place, "unlearn", &line).assert().success().stderr("");
    let log: TrainingLog = json(&place, "no-cat/training.json");
    assert_eq!(log.window, Some(scores.window));
}

#[test]
fn an_erased_model_is_written_whole_and_can_be_drawn_with_and_judged() {
    let place = tempfile::tempdir().unwrap();
    unlearn(&place, MODEL, "no-cat").assert().success().stdout(contains("no-cat/pipeline"));
    assert_eq!(names(place.path()), ["no-cat"]);
    assert_eq!(
        names(&place.path().join("no-cat")),
        ["delta.safetensors", "pipeline", "report.html", "report.json", "training.json"]
    );
    let log: TrainingLog = json(&place, "no-cat/training.json");
    assert_eq!(log.updates.len(), 6);

    let delta = read(&place, "no-cat/delta.safetensors");
    let (_, header) = SafeTensors::read_metadata(&delta).unwrap();
    let stored = &header.metadata().as_ref().unwrap()["keystep.spec"];
    let stored: UnlearnSpec = serde_json::from_str(stored).unwrap();
    let report: Value = json(&place, "no-cat/report.json");
    assert_eq!(serde_json::to_value(&stored).unwrap(), report["spec"]);
    assert_eq!(report["training"]["erase_measure"], Value::from(log.erase_measure));
    let whole = read(&place, &format!("no-cat/pipeline/{UNET}"));
    let whole = SafeTensors::deserialize(&whole).unwrap();
    let delta = SafeTensors::deserialize(&delta).unwrap();
    assert!(!delta.is_empty());
    for (name, tensor) in delta.iter() {
        assert!(tensor.data() == whole.tensor(name).unwrap().data(), "{name}");
    }

    generate(&place, "no-cat/pipeline", "a cat", "after.png").assert().success();
    generate(&place, MODEL, "a cat", "before.png").assert().success();
    assert!(read(&place, "after.png") != read(&place, "before.png"));

    // A small grid, whose words are no longer in the order of the judges' own.
    fs::write(
        place.path().join("words.json"),
        r#"{"anything": "emoji", "objects": ["star", "cat", "dog"], "styles": ["neon", "flat"]}"#,
    )
    .unwrap();
    let line = [
        "--model", "no-cat/pipeline", "--base", MODEL, "--concept", "cat", "--kind", "object",
        "--vocabulary", "words.json", "--target-seeds", "1", "--steps", "12", "--out",
        "judged.json", "--sheet", "judged.png",
    ];
    keystep(&place, "evaluate", &line)
        .assert()
        .success()
        .stdout(contains("cnn").and(contains("clip")));
    assert!(read(&place, "judged.png").starts_with(b"\x89PNG"));
    let judged: Value = json(&place, "judged.json");
    assert_eq!(judged["judges"].as_array().unwrap().len(), 2);
    for verdict in judged["judges"].as_array().unwrap() {
        for figure in ["ua", "ira", "cra"] {
            let share = verdict["edited"][figure].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share), "{verdict}");
        }
        // The base model draws what it is asked for, and the judges know it.
        assert!(verdict["base"]["ira"].as_f64().unwrap() >= 0.75, "{verdict}");
    }
    // Both models, 6 cells, 12 steps, guided.
    assert_eq!(judged["unet_evaluations"], Value::from(2 * 6 * 12 * 2));
}

/// Ends with the test, also where the test fails before the child does.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let line = [
        "unlearn", "--local", "--model", MODEL, "--concept", "cat", "--kind", "object", "--method",
        "esd", "--updates", "100000", "--out", "no-cat",
    ];
    let child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("keystep"))
        .args(line)
        .current_dir(place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Guarded(child);
    let mut stderr = BufReader::new(child.0.stderr.take().unwrap());
    // The first phase is printed once it is over: the run is then in the middle of its updates.
    let mut first = String::new();
    stderr.read_line(&mut first).unwrap();
    assert!(first.starts_with("walking trajectories: "), "{first}");
    let begun = names(place.path());
    assert_eq!(begun.len(), 1);
    assert!(begun[0].starts_with('.'), "not hidden: {begun:?}");

    let sent = std::process::Command::new("kill")
        .args(["-INT", &child.0.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("error: interrupted; nothing was written"), "{rest}");
    assert_eq!(names(place.path()), [""; 0]);
}

#[test]
fn wrong_words_are_refused_with_code_2_and_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    let long = ["cat"; 40].join(" ");
    generate(&place, MODEL, &long, "x.png")
        .assert()
        .code(2)
        .stderr(contains("42 tokens").and(contains("reads 32; shorten it")));
    for (concept, kind, message) in [
        ("cat", "animal", "object"),
        ("", "object", "--concept (concepts[0].text): is empty"),
        (long.as_str(), "object", "reads 32; shorten it"),
    ] {
        let line = ["--model", MODEL, "--concept", concept, "--kind", kind, "--out", "out"];
        keystep(&place, "unlearn", &line).assert().code(2).stderr(contains(message));
    }
    let line = [
        "--model", MODEL, "--base", MODEL, "--concept", "zebra", "--kind", "object", "--out",
        "x.json",
    ];
    keystep(&place, "evaluate", &line).assert().code(2).stderr(contains("\"zebra\" is not among"));
    assert_eq!(names(place.path()), [""; 0]);
}

#[test]
fn what_is_read_differently_is_reported() {
    let place = tempfile::tempdir().unwrap();
    model_copy(&place);
    let edit = |file: &str, fields: &[(&str, Value)]| {
        let path = place.path().join("model").join(file);
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for (field, value) in fields {
            config[field] = value.clone();
        }
        fs::write(&path, config.to_string()).unwrap();
    };
    edit(
        "scheduler/scheduler_config.json",
        &[
            ("_class_name", "HeunDiscreteScheduler".into()),
            ("clip_sample", true.into()),
            ("steps_offset", 0.into()),
        ],
    );
    edit("unet/config.json", &[("_diffusers_version", "0.6.0".into()), ("sample_size", 8.into())]);
    edit("tokenizer/tokenizer_config.json", &[("model_max_length", 1e30.into())]);
    let mut given = generate(&place, "model", "a cat", "x.png");
    given.args(["--width", "16", "--height", "16"]).assert().success().stderr(
        contains("model/scheduler/scheduler_config.json: clip_sample is true; false is used")
            .and(contains("scheduler_config.json: steps_offset is 0; 1 is used"))
            .and(contains("_class_name is \"HeunDiscreteScheduler\"").and(contains("with ddim")))
            .and(contains("model/unet/config.json: sample_size is 8").and(contains("64 is used")))
            .and(
                contains("tokenizer_config.json: model_max_length is 1e30").and(contains("32 is")),
            ),
    );
    let mut silent = generate(&place, MODEL, "a cat", "y.png");
    let silent = silent.args(["--width", "16", "--height", "16"]).output().unwrap();
    let silent = String::from_utf8(silent.stderr).unwrap();
    assert!(!silent.contains("is used") && !silent.contains("ddim"), "{silent}");
}

#[test]
fn a_broken_model_fails_with_code_1_and_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    model_copy(&place);
    let refused = |file: &str, remedy: &str| {
        for mut command in
            [generate(&place, "model", "a cat", "x.png"), unlearn(&place, "model", "out")]
        {
            command.assert().code(1).stderr(contains(file).and(contains(remedy)));
        }
        assert_eq!(names(place.path()), ["model"]);
    };
    let unet = place.path().join("model").join(UNET);
    let whole = fs::read(&unet).unwrap();
    fs::write(&unet, &whole[..whole.len() / 2]).unwrap();
    refused(UNET, "fetch it again");

    let mut bytes = whole.clone();
    let end = bytes.len();
    // Half-precision NaN.
    bytes[end - 2..].copy_from_slice(&[0x00, 0x7e]);
    fs::write(&unet, bytes).unwrap();
    refused(UNET, "fetch it again");

    fs::write(&unet, whole).unwrap();
    fs::remove_dir_all(place.path().join("model/vae")).unwrap();
    refused("vae", "model");
}

/// Every weight of a file as large as an f32 can be: finite, and no network computes with it.
fn overflow(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let huge: Vec<(String, Vec<usize>, Vec<u8>)> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, tensor)| {
            let count = tensor.shape().iter().product();
            (name.to_owned(), tensor.shape().to_vec(), 3e38_f32.to_le_bytes().repeat(count))
        })
        .collect();
    let views = huge.iter().map(|(name, shape, data)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_model_that_computes_no_numbers_is_named_and_neither_drawn_nor_judged() {
    for (part, file) in [
        ("unet", UNET),
        ("vae", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder", "text_encoder/model.safetensors"),
    ] {
        let place = tempfile::tempdir().unwrap();
        model_copy(&place);
        overflow(&place.path().join("model").join(file));
        let evaluate = |base, edited| {
            let line = ["--base", base, "--model", edited, "--concept", "cat", "--kind", "object"];
            let few = ["--target-seeds", "1", "--retain-seeds", "1", "--steps", "2"];
            let mut command = keystep(&place, "evaluate", &line);
            command.args(few).args(["--out", "verdict.json"]);
            command
        };
        for mut command in [
            generate(&place, "model", "a cat", "x.png"),
            evaluate(MODEL, "model"),
            evaluate("model", MODEL),
        ] {
            command.assert().code(1).stdout("").stderr(contains(format!("model/{part} computed")));
        }
        assert_eq!(names(place.path()), ["model"]);
    }
}

#[test]
fn an_output_in_the_way_or_out_of_reach_is_refused_before_any_work() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("mine")).unwrap();
    fs::write(place.path().join("mine/precious"), "x").unwrap();
    unlearn(&place, MODEL, "mine")
        .assert()
        .code(2)
        .stderr(contains("mine exists").and(contains("name another")));
    unlearn(&place, MODEL, "no/such").assert().code(2).stderr(contains("create that first"));
    generate(&place, MODEL, "a cat", "mine/precious/x.png")
        .assert()
        .code(2)
        .stderr(contains("is a file; choose another"));
    assert_eq!(names(place.path()), ["mine"]);
    assert_eq!(read(&place, "mine/precious"), b"x");
    if cfg!(target_os = "linux") {
        // Read-only even for root, as whom tests run in containers.
        unlearn(&place, MODEL, "/proc/keystep")
            .assert()
            .code(1)
            .stderr(contains("cannot write /proc/keystep").and(contains("choose an output")));
    }
}
