//! A result that cannot be written after the training: what was trained is kept, and its result
//! written elsewhere without training again.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/emoji-canvas/model");
/// Mounts a disk of its own on `$PLACE`, erases onto it, and lets `$DISASTER` happen to it once the
/// training has begun.
const DISTURBED: &str = r#"
mount -t tmpfs -o size=80m tmpfs "$PLACE"
"$0" "$@" 2> "$LOG" &
until grep -q 'walking trajectories' "$LOG"; do
    kill -0 $! || break
    sleep 0.1
done
eval "$DISASTER"
wait $!
"#;
const ERASURE: [&str; 15] = [
    "unlearn", "--local", "--concept", "cat", "--kind", "object", "--method", "esd", "--updates",
    "3", "--learning-rate", "1e-3", "--scope", "cross-attention", "--no-evaluate",
];

/// The built-in model with small latents, at which everything takes a sixteenth of the time.
fn small_model(model: &Path) {
    for file in files_below(Path::new(MODEL)) {
        let copy = model.join(file.strip_prefix(MODEL).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::write(copy, fs::read(file).unwrap()).unwrap();
    }
    let path = model.join("unet/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["sample_size"] = 4.into();
    fs::write(path, config.to_string()).unwrap();
}

fn keystep(arguments: &[&str]) -> Output {
    let program = assert_cmd::cargo::cargo_bin!("keystep");
    Command::new(program).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Runs the erasure while something happens to the disk of its result; gives the one file that is
/// left of it. None where no disk can be mounted.
fn kept_after(disaster: &str, model: &Path, folder: &Path) -> Option<PathBuf> {
    let (place, temporary) = (folder.join("place"), folder.join("temporary"));
    for made in [&place, &temporary] {
        fs::create_dir(made).unwrap();
    }
    let log = folder.join("log");
    let tried = Command::new("unshare")
        .args(["-rm", "sh", "-c", r#"mount -t tmpfs tmpfs "$0""#])
        .arg(&place)
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        println!("skipped: no file system of one's own can be mounted here (unshare -rm)");
        return None;
    }
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", DISTURBED])
        .arg(assert_cmd::cargo::cargo_bin!("keystep"))
        .args(ERASURE)
        .arg("--model")
        .arg(model)
        .arg("--out")
        .arg(place.join("no-cat"))
        .env("PLACE", &place)
        .env("LOG", &log)
        .env("DISASTER", disaster)
        .env("TMPDIR", &temporary)
        .output()
        .unwrap();
    let stderr = fs::read_to_string(log).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let left = files_below(&temporary);
    let [kept] = &left[..] else { panic!("{left:?}: {stderr}") };
    let named = format!("--resume {} --out", kept.display());
    assert!(stderr.contains(&named), "{stderr}");
    assert!(stderr.contains("caused by: "), "{stderr}");
    Some(kept.clone())
}

/// The result of the kept file, and that of a run that met no disaster, hold the same.
fn assert_resumed(kept: &Path, undisturbed: &Path, out: &Path) {
    let resumed = keystep(&[
        "unlearn",
        "--local",
        "--resume",
        kept.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert!(!text(&resumed.stderr).contains("walking"), "{}", text(&resumed.stderr));
    let names = |folder: &Path| {
        let below = |path: PathBuf| path.strip_prefix(folder).unwrap().to_owned();
        files_below(folder).into_iter().map(below).collect::<Vec<_>>()
    };
    assert_eq!(names(out), names(undisturbed));
    for name in names(out) {
        let read = |folder: &Path| fs::read(folder.join(&name)).unwrap();
        match name.to_str().unwrap() {
            // It shows the clock.
            "report.html" => {}
            "report.json" => {
                let timeless = |folder: &Path| {
                    let mut report: Value = serde_json::from_slice(&read(folder)).unwrap();
                    for clock in ["seconds", "peak_rss_bytes"] {
                        assert!(report.as_object_mut().unwrap().remove(clock).is_some());
                    }
                    assert!(report["cost"]["erasing"]["seconds"].as_f64().unwrap() > 0.0);
                    report["cost"]["erasing"]["seconds"] = Value::Null;
                    report
                };
                assert_eq!(timeless(out), timeless(undisturbed));
            }
            name => assert!(read(out) == read(undisturbed), "{name}"),
        }
    }
}

#[test]
fn what_was_trained_outlives_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (full, read_only) = (folder.path().join("full"), folder.path().join("read-only"));
    for made in [&full, &read_only] {
        fs::create_dir(made).unwrap();
    }
    let model = folder.path().join("model");
    small_model(&model);
    let fill = r#"head -c 200M /dev/zero > "$PLACE/ballast" 2> /dev/null"#;
    let Some(kept) = kept_after(fill, &model, &full) else { return };
    let undisturbed = folder.path().join("undisturbed");
    let out = undisturbed.to_str().unwrap();
    let run =
        keystep(&[&ERASURE[..], &["--model", model.to_str().unwrap(), "--out", out]].concat());
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_resumed(&kept, &undisturbed, &full.join("elsewhere"));

    let also = kept_after(r#"mount -o remount,ro "$PLACE""#, &model, &read_only).unwrap();
    assert_resumed(&also, &undisturbed, &read_only.join("elsewhere"));

    // What is not this model's, or no longer what was kept, makes no result.
    let refused = |file: &Path, more: &[&str], code: i32, parts: &[&str]| {
        let out = folder.path().join("none");
        let (file, place) = (file.to_str().unwrap(), out.to_str().unwrap());
        let line = ["unlearn", "--local", "--resume", file, "--out", place];
        let output = keystep(&[&line[..], more].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "\"{part}\" is not in: {stderr}");
        }
        assert!(!out.exists());
    };
    let bytes = fs::read(&kept).unwrap();
    let damaged = folder.path().join("damaged.safetensors");
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    refused(&damaged, &[], 1, &["damaged.safetensors", "or erase again", "its header describes"]);
    let mut flipped = bytes;
    // The lowest bit of the last number.
    let last = flipped.len() - 4;
    flipped[last] ^= 1;
    fs::write(&damaged, flipped).unwrap();
    refused(&damaged, &[], 1, &["damaged.safetensors", "SHA-256", "or erase again"]);
    let delta = undisturbed.join("delta.safetensors");
    refused(&delta, &[], 1, &["delta.safetensors", "no entry keystep.kept", "--resume"]);
    let another = undisturbed.join("pipeline");
    let another = another.to_str().unwrap();
    refused(&kept, &["--model", another], 2, &["of another model", another, "--model"]);
    refused(&folder.path().join("nowhere"), &[], 1, &["cannot read", "nowhere"]);
    refused(&kept, &["--concept", "cat"], 2, &["--resume", "--concept"]);
    refused(&kept, &["--seed", "1"], 2, &["--resume", "--seed"]);
}
