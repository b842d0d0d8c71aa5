//! `keystep gate --server`, and the step that `deploy/ci` runs in pipelines, with a scripted server.

use std::fs;

use assert_cmd::Command;
use predicates::str::contains;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    CAT, TOKEN,
    server::{Running, Script},
};

/// Shown by 87 pictures without a miss, and not by 32 or 64.
const POLICY: &str = "\
schema = 1
name = \"release\"
looks = 3

[[rule]]
id = \"forgets\"
measure = \"ua\"
at_least = 0.95

[[rule]]
id = \"neighbours\"
measure = \"damage\"
kind = \"alarm\"
at_most = 0.5
";

fn place(policy: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("policy.toml"), policy).unwrap();
    place
}

fn gate(server: &Running, place: &TempDir, rest: &[&str]) -> Command {
    let line = ["--checkpoint", "checkpoints/0192", "--base", "emoji-canvas", "--policy"];
    let line = [&line[..], &["policy.toml"], &CAT[..], rest].concat();
    let mut command = server.keystep(place, &["gate"], &line);
    command.env_remove("GITHUB_STEP_SUMMARY").env_remove("GITHUB_ACTIONS");
    command
}

#[test]
fn a_server_judges_twice_as_much_until_a_policy_is_decided() {
    let server = Running::start(Script { counts: true, ..Script::default() });
    let place = place(POLICY);
    gate(&server, &place, &["--json", "v.json"]).assert().success().stdout(contains("passed: 2"));
    let seen = server.seen();
    let asked: Vec<_> = seen.evaluate.iter().map(|it| (it.target_seeds, it.retain_seeds)).collect();
    assert_eq!(asked, [(Some(32), Some(1)), (Some(64), Some(2)), (Some(128), Some(4))]);
    let ids: Vec<_> = seen.evaluate.iter().map(|it| it.request_id.as_str()).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    let verdict: Value =
        serde_json::from_slice(&fs::read(place.path().join("v.json")).unwrap()).unwrap();
    assert_eq!((&verdict["verdict"], &verdict["look"]), (&"passed".into(), &3.into()));
}

#[test]
fn what_a_server_does_not_say_is_not_passed() {
    let server = Running::start(Script::default());
    let place = place(POLICY);
    // A server of before counts were kept; more pictures would not help.
    gate(&server, &place, &[]).assert().code(4).stdout(contains("measure it anew"));
    assert_eq!(server.seen().evaluate.len(), 1);
    let failing = Running::start(Script { fails: true, ..Script::default() });
    gate(&failing, &place, &[]).assert().code(1);
}

#[test]
fn nothing_is_submitted_before_the_policy_and_the_outputs_are_sound() {
    let server = Running::start(Script { counts: true, ..Script::default() });
    let wrong = place("schema = 1\nname = \"x\"\n");
    gate(&server, &wrong, &[]).assert().code(2).stderr(contains("[[rule]]"));
    let sound = place(POLICY);
    gate(&server, &sound, &["--junit", "none/a.xml"]).assert().code(2);
    gate(&server, &sound, &["--no-wait"]).assert().code(2).stderr(contains("--no-wait"));
    assert!(server.seen().evaluate.is_empty());
}

/// As an action of GitHub and a job of GitLab run it.
#[cfg(unix)]
#[test]
fn a_pipeline_gets_the_exit_code_and_every_report() {
    let server = Running::start(Script { counts: true, ..Script::default() });
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_keystep"));
    let folder = program.parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path))).unwrap();
    let place = place(POLICY);
    let step = |concept: &str| {
        let mut step = Command::new("bash");
        step.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/ci/gate.sh"))
            .current_dir(place.path())
            .env("PATH", &path)
            .env_remove("GITHUB_STEP_SUMMARY")
            .env_remove("GITHUB_ACTIONS")
            .env("KEYSTEP_SERVER", &server.url)
            .env("KEYSTEP_TOKEN", TOKEN)
            .env("KEYSTEP_CHECKPOINT", "checkpoints/0192")
            .env("KEYSTEP_BASE", "emoji-canvas")
            .env("KEYSTEP_CONCEPT", concept)
            .env("KEYSTEP_KIND", "object");
        step
    };
    step("cat").assert().success();
    let files = ["gate.xml", "gate.sarif", "code-quality.json", "gate.json"];
    for file in files {
        assert!(place.path().join("keystep-gate").join(file).is_file(), "{file}");
    }
    let token = format!("Bearer {TOKEN}");
    assert!(server.seen().authorizations.iter().all(|sent| sent.as_ref() == Some(&token)));
    // Again, over the reports of before; undecided has its own code.
    fs::write(place.path().join("policy.toml"), POLICY.replace("0.95", "0.8")).unwrap();
    step("cat").assert().success();
    fs::write(place.path().join("policy.toml"), POLICY.replace("0.95", "0.999")).unwrap();
    step("cat").assert().code(4);
    // No text becomes a part of the command.
    step("--version; touch hacked").assert().code(4);
    assert_eq!(server.seen().evaluate.last().unwrap().concept, "--version; touch hacked");
    assert!(!place.path().join("hacked").exists());
    step("").assert().code(2);
}
