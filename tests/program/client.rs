//! The verbs that ask a server: what they send, what they make of the answers, and what they do
//! when the way to the server is cut.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]
#![allow(unreachable_pub, reason = "a test has no public interface")]

mod server;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Stdio},
};

use assert_cmd::{Command, cargo::cargo_bin_cmd};
use keystep::proto::keystep::v1::{
    ConceptKind, OutputFormat, Sampler, ScoreMeasure, TrainableScope, UnlearningMethod,
    unlearn_concept_request::WindowSource,
};
use predicates::{prelude::PredicateBooleanExt, str::contains};
use serde_json::Value;
use server::{NAME, Running, SCORES, Script};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const TOKEN: &str = "a-token-that-is-never-printed";
const CAT: [&str; 4] = ["--concept", "cat", "--kind", "object"];

fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&stdout(command)).unwrap()
}

#[test]
fn a_job_is_submitted_once_and_watched_through_cut_connections() {
    let script = Script { lost_answers: 1, cut_after: Some(3), ..Script::default() };
    let (server, place) = (Running::start(script), place());
    server.unlearn(&place, &[]).assert().success().stdout(
        contains("s3://bucket/checkpoints/0192/manifest.json")
            .and(contains("checkpoints/0192\n"))
            .and(contains("0.875").and(contains("0.125"))),
    );
    let seen = server.seen();
    assert_eq!(seen.watched_after, [0, 3]);
    // The answer was lost, so it was asked again: under the same id, word for word.
    assert_eq!(seen.unlearn.len(), 2);
    assert_eq!(seen.unlearn[0], seen.unlearn[1]);
    assert!(!seen.unlearn[0].request_id.is_empty());
    assert!(names(place.path()).is_empty());
}

#[test]
fn every_flag_of_a_job_arrives() {
    let (server, place) = (Running::start(Script::default()), place());
    fs::write(place.path().join("words.json"), r#"{"objects": ["cat"], "styles": ["neon"]}"#)
        .unwrap();
    let line = [
        "--concept",
        "dog",
        "--replace-with",
        "bird",
        "--preserve",
        "a tree",
        "--vocabulary",
        "words.json",
        "--method",
        "keystep",
        "--updates",
        "7",
        "--learning-rate",
        "0.01",
        "--scope",
        "name:attn2",
        "--window",
        "-4.5:-1",
        "--seed",
        "9",
        "--output-format",
        "pipeline",
        "--output-format",
        "delta",
        "--no-evaluate",
        "--label",
        "ticket=4711",
        "--deadline",
        "2026-01-31T18:00:00Z",
        "--priority",
        "-5",
        "--destination",
        "s3://bucket/a",
        "--force",
        "--request-id",
        "0192a7c4-0000-7000-8000-000000000000",
        "--no-wait",
    ];
    assert_eq!(stdout(&mut server.unlearn(&place, &line)), format!("{NAME}\n"));
    let seen = server.seen();
    let asked = &seen.unlearn[0];
    assert_eq!(asked.base_model, "emoji-canvas");
    assert_eq!(asked.concepts, ["cat", "dog"]);
    assert_eq!(asked.concept_kind(), ConceptKind::ObjectClass);
    assert_eq!(asked.replacements["cat"], "bird");
    assert_eq!(asked.replacements["dog"], "bird");
    assert_eq!(asked.preserve, ["a tree"]);
    assert_eq!(asked.vocabulary.as_ref().unwrap().objects, ["cat"]);
    assert_eq!(asked.method(), UnlearningMethod::Keystep);
    assert_eq!((asked.updates, asked.learning_rate), (Some(7), Some(0.01)));
    assert_eq!(
        (asked.scope(), asked.scope_name_contains.as_str()),
        (TrainableScope::Unspecified, "attn2")
    );
    let Some(WindowSource::Window(window)) = &asked.window_source else { panic!("no window") };
    assert_eq!((window.low, window.high), (-4.5, -1.0));
    assert_eq!(asked.seed, Some(9));
    let formats: Vec<_> = asked.output_formats().collect();
    assert_eq!(formats, [OutputFormat::Pipeline, OutputFormat::Delta]);
    assert_eq!(asked.evaluate, Some(false));
    assert_eq!(asked.labels["ticket"], "4711");
    assert_eq!(asked.deadline.as_ref().unwrap().seconds, 1_769_882_400);
    assert_eq!(asked.priority, -5);
    assert_eq!(asked.destination, "s3://bucket/a");
    assert!(asked.force && !asked.validate_only);
    assert_eq!(asked.request_id, "0192a7c4-0000-7000-8000-000000000000");
    assert!(!seen.calls.contains_key("watch"));
}

#[test]
fn a_refusal_lists_every_violation_by_its_flag() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("concepts[0]", "\"cat\" has 90 tokens, the limit is 77");
    details.add_bad_request_violation("updates", "0 is outside 1 to 100000");
    let refusal = Status::with_error_details(Code::InvalidArgument, "2 violations", details);
    let script = Script { refusal: Some(refusal), ..Script::default() };
    let (server, place) = (Running::start(script), place());
    server.unlearn(&place, &["--updates", "0"]).assert().code(2).stdout("").stderr(
        contains("error: --concept (concepts[0]): \"cat\" has 90 tokens")
            .and(contains("error: --updates: 0 is outside"))
            .and(contains("request id ")),
    );
}

#[test]
fn a_failed_job_fails_the_verb_and_says_why() {
    let script = Script { fails: true, ..Script::default() };
    let (server, place) = (Running::start(script), place());
    server.unlearn(&place, &[]).assert().code(1).stderr(contains("the loss is not finite"));
    let failed = server.unlearn(&place, &["--json", "--quiet"]).assert().code(1);
    let printed: Value = serde_json::from_slice(&failed.get_output().stdout).unwrap();
    assert_eq!(printed["error"]["message"], "the loss is not finite");
}

#[test]
fn a_plan_is_shown_and_nothing_is_watched() {
    let (server, place) = (Running::start(Script::default()), place());
    server
        .unlearn(&place, &["--validate-only"])
        .assert()
        .success()
        .stdout(contains("5000").and(contains("1024 MiB")).and(contains("a window of 6 steps")));
    let printed =
        json(&mut server.unlearn(&place, &["--validate-only", "--json", "--sampler", "lcm"]));
    assert_eq!(printed["response"]["plan"]["updates"], 100);
    let seen = server.seen();
    assert!(seen.unlearn.iter().all(|asked| asked.validate_only));
    let samplers = [0, 1].map(|call: usize| seen.unlearn[call].evaluate_sampler());
    assert_eq!(samplers, [Sampler::Unspecified, Sampler::Lcm]);
    assert!(!seen.calls.contains_key("watch"));
}

#[test]
fn pictures_are_kept_and_never_replaced_unasked() {
    let (server, place) = (Running::start(Script::default()), place());
    let line = [
        "--model", "emoji-canvas", "--prompt", "a cat", "--negative-prompt", "a dog", "--seed",
        "7", "--count", "2", "--steps", "5", "--guidance-scale", "3", "--width", "64", "--height",
        "128", "--preview-every", "2", "--output", "cats/neon",
    ];
    let pictures = ["000-seed-7.png", "001-seed-8.png"];
    server
        .keystep(&place, &["generate"], &line)
        .assert()
        .success()
        .stdout(contains("000-seed-7.png").and(contains("001-seed-8.png")));
    let folder = place.path().join("cats/neon");
    assert_eq!(names(&folder), pictures);
    assert_eq!(fs::read(folder.join(pictures[1])).unwrap(), b"picture 1 of a cat");
    let asked = server.seen().generate[0].clone();
    assert_eq!((asked.seeds, asked.count), (vec![7], Some(2)));
    assert_eq!((asked.steps, asked.guidance_scale), (Some(5), Some(3.0)));
    assert_eq!((asked.width, asked.height), (Some(64), Some(128)));
    assert_eq!((asked.negative_prompt.as_str(), asked.preview_every_steps), ("a dog", 2));

    server
        .keystep(&place, &["generate"], &line)
        .assert()
        .code(2)
        .stderr(contains("000-seed-7.png exists").and(contains("--overwrite")));
    assert_eq!(server.seen().generate.len(), 1);
    let again = [&line[..], &["--overwrite", "--json", "--quiet"]].concat();
    let printed = json(&mut server.keystep(&place, &["generate"], &again));
    assert_eq!(printed["images"][1]["seed"], 8);
    assert_eq!(names(&folder), pictures);
}

#[test]
fn a_picture_to_begin_with_is_sent_as_it_is() {
    let (server, place) = (Running::start(Script::default()), place());
    fs::write(place.path().join("cat.png"), b"the server reads it").unwrap();
    let line = ["--model", "m", "--prompt", "a dog", "--output", "dogs", "--init-image", "cat.png"];
    server.keystep(&place, &["generate"], &line).assert().success();
    let line = [&line[..], &["--strength", "0.5", "--overwrite"]].concat();
    server.keystep(&place, &["generate"], &line).assert().success();
    let asked = server.seen().generate.clone();
    assert!(asked.iter().all(|request| request.init_image == b"the server reads it"));
    let strengths: Vec<_> = asked.iter().map(|request| request.strength).collect();
    assert_eq!(strengths, [None, Some(0.5)]);
    // An empty field would draw from noise.
    fs::write(place.path().join("cat.png"), b"").unwrap();
    server.keystep(&place, &["generate"], &line).assert().code(2).stderr(contains("is empty"));
    assert_eq!(server.seen().generate.len(), 2);
}

#[test]
fn scores_are_shown_and_written_as_they_came() {
    let (server, place) = (Running::start(Script::default()), place());
    let line = [&["--model", "m"], &CAT[..], &["--out", "scores", "--no-switch-curve"]].concat();
    server.keystep(&place, &["score"], &line).assert().success().stdout(
        contains("0.5000 ± 0.1250")
            .and(contains("log-SNR -4.000:-1.000"))
            .and(contains("Score digest: 5c0")),
    );
    assert_eq!(names(&place.path().join("scores")), ["scores.json"]);
    let written = fs::read_to_string(place.path().join("scores/scores.json")).unwrap();
    assert_eq!(written, SCORES);
    {
        let seen = server.seen();
        let measures: Vec<_> = seen.score[0].measures().collect();
        assert_eq!(measures, [ScoreMeasure::GradientShare]);
        assert_eq!((seen.score[0].steps, seen.score[0].trajectories), (Some(20), Some(8)));
    }
    server.keystep(&place, &["score"], &line).assert().code(2).stderr(contains("scores exists"));
    let printed =
        json(&mut server.keystep(&place, &["score"], &[&line[..6], &["--json"]].concat()));
    assert_eq!(printed["summary"]["score_digest"], "5c0");
    assert_eq!(printed["steps"].as_array().unwrap().len(), 2);
}

#[test]
fn a_judgement_is_a_job_with_figures() {
    let (server, place) = (Running::start(Script::default()), place());
    let line = [&["--model", "checkpoints/0192", "--base", "emoji-canvas"], &CAT[..]].concat();
    let line = [&line[..], &["--sampler", "euler"]].concat();
    let shown = contains("cnn").and(contains("0.875")).and(contains("77"));
    server
        .keystep(&place, &["evaluate"], &line)
        .assert()
        .success()
        .stdout(shown.and(contains("drawn with euler\n")));
    let printed =
        json(&mut server.keystep(&place, &["evaluate"], &[&line[..], &["--json"]].concat()));
    assert_eq!(printed["response"]["verdicts"][0]["edited"]["ua"], 0.875);
    assert_eq!(printed["response"]["verdicts"][0]["sampler"], "SAMPLER_EULER");
    let seen = server.seen();
    let asked = &seen.evaluate[0];
    assert_eq!(
        (asked.edited_model.as_str(), asked.base_model.as_str()),
        ("checkpoints/0192", "emoji-canvas")
    );
    assert_eq!((asked.seed, asked.target_seeds), (Some(500_000), None));
    assert_eq!(asked.sampler(), Sampler::Euler);
}

#[test]
fn jobs_and_models_are_listed_and_looked_after() {
    let (server, place) = (Running::start(Script::default()), place());
    let run = |verb: &[&str]| stdout(&mut server.keystep(&place, verb, &[]));
    assert_eq!(run(&["models", "list"]).lines().count(), 2);
    assert!(run(&["models", "get", "checkpoints/0192"]).contains("emoji-canvas without cat"));
    assert!(run(&["jobs", "list"]).contains("succeeded"));
    assert!(run(&["jobs", "get", NAME]).contains("queued"));
    assert!(run(&["jobs", "watch", NAME]).contains("checkpoints/0192"));
    assert!(run(&["jobs", "wait", NAME]).contains("checkpoints/0192"));
    assert!(run(&["jobs", "cancel", NAME]).contains("was asked to stop"));
    assert!(run(&["jobs", "publish", NAME]).contains(NAME));
    assert!(run(&["jobs", "delete", NAME]).contains("is forgotten"));
    for (verb, list) in [("models", "models"), ("jobs", "operations")] {
        let printed = json(&mut server.keystep(&place, &[verb, "list"], &["--json"]));
        assert_eq!(printed[list].as_array().unwrap().len(), 2);
    }
    let printed = json(&mut server.unlearn(&place, &["--json"]));
    assert_eq!(printed["response"]["model"], "checkpoints/0192");
}

#[test]
fn a_server_that_is_away_has_its_exit_code() {
    let place = place();
    let mut command = cargo_bin_cmd!("keystep");
    command.current_dir(place.path()).env("KEYSTEP_SERVER", "http://127.0.0.1:1");
    let away = contains("http://127.0.0.1:1 cannot be reached").and(contains("keystep serve"));
    command.args(["models", "list"]).assert().code(69).stdout("").stderr(away);
}

#[test]
fn a_token_is_sent_and_never_printed() {
    let place = place();
    fs::write(place.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let refusal = Some(Status::unauthenticated("who are you?"));
    for (script, code) in [(Script::default(), 0), (Script { refusal, ..Script::default() }, 77)] {
        let server = Running::start(script);
        let printed = server.unlearn(&place, &["--token-file", "token"]).assert().code(code);
        let output = printed.get_output();
        for stream in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(stream).contains(TOKEN));
        }
        let sent = format!("Bearer {TOKEN}");
        let seen = server.seen();
        assert!(!seen.authorizations.is_empty());
        assert!(seen.authorizations.iter().all(|got| got.as_ref() == Some(&sent)));
    }
}

#[test]
fn plaintext_beyond_this_machine_is_refused() {
    let place = place();
    let line = ["models", "list", "--server", "http://192.0.2.1:50051"];
    cargo_bin_cmd!("keystep")
        .current_dir(place.path())
        .args(line)
        .assert()
        .code(2)
        .stderr(contains("plaintext beyond this machine").and(contains("https://")));
}

#[test]
fn what_means_nothing_to_a_server_is_refused() {
    let (server, place) = (Running::start(Script::default()), place());
    server.unlearn(&place, &["--out", "x"]).assert().code(2).stderr(contains("cannot be used"));
    let mut command = cargo_bin_cmd!("keystep");
    command.current_dir(place.path()).env("KEYSTEP_SERVER", &server.url);
    command.args(["unlearn", "--base-model", "m", "--out", "x"]).args(CAT);
    command.assert().code(2).stderr(contains("--out is for --local"));
    assert!(server.seen().unlearn.is_empty());
}

/// A verb that watches an endless job, once it has said that the job runs.
fn watching(server: &Running, place: &TempDir, rest: &[&str]) -> Child {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("keystep"))
        .current_dir(place.path())
        .args(["unlearn", "--server", &server.url, "--base-model", "m"])
        .args(CAT)
        .args(rest)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while line.trim() != "running" {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended early");
    }
    child.stderr = Some(lines.into_inner());
    child
}

/// Ctrl-C; gives the exit code and what was said after it.
#[cfg(unix)]
fn interrupt(mut child: Child) -> (Option<i32>, String) {
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[cfg(unix)]
#[test]
fn an_interrupted_watch_leaves_the_job_alone_unless_asked_to_cancel() {
    let script = Script { endless: true, ..Script::default() };
    let (server, place) = (Running::start(script), place());
    let (code, said) = interrupt(watching(&server, &place, &[]));
    assert_eq!(code, Some(130));
    assert!(said.contains(&format!("keystep jobs watch {NAME} --server {}", server.url)), "{said}");
    assert!(said.contains(&format!("keystep jobs cancel {NAME} --server")), "{said}");
    assert!(!server.seen().calls.contains_key("cancel"));

    let (code, said) = interrupt(watching(&server, &place, &["--cancel-on-interrupt"]));
    assert_eq!(code, Some(130));
    assert!(said.contains("was asked to stop"), "{said}");
    assert_eq!(server.seen().calls["cancel"], 1);
}
