//! Signing on the command line: results that say who made them, and `keystep verify`.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{fs, path::Path};

use assert_cmd::{Command, cargo::cargo_bin_cmd};
use predicates::{prelude::PredicateBooleanExt, str::contains};
use serde_json::Value;
use tempfile::TempDir;

/// As OpenSSL made it, for the tests alone.
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtd2s315CXwse97S6
Mt0wmqktM5Uwg4OHbnwcoazvK6GhRANCAASTHsM5c7XSxcCE2+ET5BhzaSUxRRQn
WgQpX6b0+7NPMgesrrne1S4oeVvMe8wKmUpYBaoEsL8LiBypqp92TYWi
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEkx7DOXO10sXAhNvhE+QYc2klMUUU
J1oEKV+m9PuzTzIHrK653tUuKHlbzHvMCplKWAWqBLC/C4gcqaqfdk2Fog==
-----END PUBLIC KEY-----
";
const OTHER_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEANsMKoE6amZumc+S4eKctctUhxNIp7kJ+MrwBrnCogVQ=
-----END PUBLIC KEY-----
";

fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for (name, text) in [("key.pem", KEY), ("public.pem", PUBLIC), ("other.pem", OTHER_PUBLIC)] {
        fs::write(place.path().join(name), text).unwrap();
    }
    place
}

fn keystep(place: &TempDir, rest: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("keystep");
    command.current_dir(place.path()).args(rest);
    command
}

fn unlearn(place: &TempDir, key: &str, builder: &str) -> Command {
    let model = ["--model", "builtin:emoji-canvas", "--concept", "cat", "--kind", "object"];
    let few = ["--updates", "6", "--window", "-9:-4", "--no-evaluate", "--out", "no-cat"];
    let mut command = keystep(place, &["unlearn", "--local"]);
    command.args(model).args(few).args(["--signing-key", key, "--builder-id", builder]);
    command
}

fn verify(place: &TempDir, what: &str, key: &str) -> Command {
    keystep(place, &["verify", what, "--public-key", key])
}

#[test]
fn a_signed_folder_is_believed_until_something_of_it_changes() {
    let place = place();
    unlearn(&place, "key.pem", "https://models.example/desk").assert().success();
    verify(&place, "no-cat", "public.pem")
        .assert()
        .success()
        .stdout(contains("is what was signed").and(contains("https://models.example/desk")));
    let found =
        verify(&place, "no-cat/", "public.pem").args(["--json", "--quiet"]).output().unwrap();
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!((&found["verified"], &found["model_signature"]), (&true.into(), &true.into()));
    assert_eq!(found["public_key"]["algorithm"], "ECDSA P-256");
    assert_eq!(found["builder_id"], "https://models.example/desk");

    // Somebody else's key.
    let refused = verify(&place, "no-cat", "other.pem").arg("--json").output().unwrap();
    assert_eq!(refused.status.code(), Some(3));
    let said: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(said["verified"], false);
    assert!(said["error"].as_str().unwrap().contains("by this key"), "{said}");

    let weights = "pipeline/unet/diffusion_pytorch_model.safetensors";
    let path = place.path().join("no-cat").join(weights);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    verify(&place, "no-cat", "public.pem")
        .assert()
        .code(3)
        .stdout("")
        .stderr(contains(format!("{weights} was changed")));
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    verify(&place, "no-cat", "public.pem").assert().success();
    fs::write(place.path().join("no-cat/pipeline/evil.py"), "").unwrap();
    let extra = "pipeline/evil.py is there and was not signed";
    verify(&place, "no-cat", "public.pem").assert().code(3).stderr(contains(extra));
}

#[test]
fn what_cannot_be_looked_at_is_told_from_what_is_not_true() {
    let place = place();
    verify(&place, "nothing", "public.pem").assert().code(1).stderr(contains("cannot be verified"));
    verify(&place, ".", "none.pem").assert().code(1).stderr(contains("none.pem"));
    verify(&place, ".", "key.pem").assert().code(2).stderr(contains("-pubout"));
    verify(&place, "ftp://host/x", "public.pem").assert().code(2);
    keystep(&place, &["verify", "."]).assert().code(2).stderr(contains("--public-key"));
    // A folder that nobody signed.
    verify(&place, ".", "public.pem").assert().code(3).stderr(contains("was not signed"));
}

#[test]
fn a_key_that_does_not_sign_is_refused_before_any_work() {
    let place = place();
    unlearn(&place, "public.pem", "https://a.example")
        .assert()
        .code(2)
        .stderr(contains("public key"));
    unlearn(&place, "key.pem", "no uri").assert().code(2).stderr(contains("is no URI"));
    unlearn(&place, "none.pem", "https://a.example").assert().code(1);
    assert!(!place.path().join("no-cat").exists());

    let serve = |key: &str| {
        let mut command =
            keystep(&place, &["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"]);
        command
            .env("KEYSTEP__SIGNING__KEY_FILE", key)
            .env("KEYSTEP__SIGNING__BUILDER_ID", "https://a.example")
            .timeout(std::time::Duration::from_mins(1));
        command
    };
    let absent = "signing.key_file";
    serve("none.pem").assert().code(64).stderr(contains(absent));
    serve("public.pem").assert().code(64).stderr(contains(absent).and(contains("public key")));
    let rsa = "-----BEGIN RSA PRIVATE KEY-----\nAQI=\n-----END RSA PRIVATE KEY-----\n";
    fs::write(place.path().join("rsa.pem"), rsa).unwrap();
    serve("rsa.pem").assert().code(64).stderr(contains("an RSA key").and(contains("genpkey")));
    assert!(!Path::new(&place.path().join("data/jobs.sqlite")).exists());
}
