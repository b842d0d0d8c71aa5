//! `keystep gate` on figures that exist already: exit codes, outputs, and what is refused before any
//! work.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::{fs, path::Path};

use assert_cmd::{Command, cargo::cargo_bin_cmd};
use predicates::{prelude::PredicateBooleanExt, str::contains};
use serde_json::{Value, json};
use tempfile::TempDir;

const POLICY: &str = "\
schema = 1
name = \"release\"

[[rule]]
id = \"forgets\"
measure = \"ua\"
at_least = 0.95
";

/// `report.json` of an evaluation in which a judge does not find the concept in so many pictures.
pub(crate) fn report(concept: &str, judge: &str, forgotten: u64, of: u64) -> Value {
    let compared = |of: u64, base: u64, edited: u64| {
        json!({
            "base": { "count": base, "of": of },
            "edited": { "count": edited, "of": of },
            "drop": {
                "lost": base.saturating_sub(edited),
                "gained": edited.saturating_sub(base),
                "of": of,
            },
        })
    };
    let rates = json!({ "ua": 0.0, "ira": 1.0, "cra": null });
    json!({
        "judges": [{
            "judge": judge,
            "edited": rates,
            "base": rates,
            "measures": {
                "ua": compared(of, 0, forgotten),
                "ira": compared(200, 200, 200),
                "cra": compared(200, 200, 198),
                "words": [{ "word": "dog", "kind": "object", "named": compared(40, 40, 40) }],
            },
        }],
        "model": "no-cat/pipeline",
        "base": "builtin:emoji-canvas",
        "spec": { "concept": { "text": concept, "kind": "object" } },
    })
}

/// A folder with `policy.toml` and a `report.json` of so many forgotten pictures.
pub(crate) fn place(policy: &str, report: &Value) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("policy.toml"), policy).unwrap();
    fs::write(place.path().join("report.json"), report.to_string()).unwrap();
    place
}

/// `keystep gate` of the folder's files, outside of any pipeline.
pub(crate) fn gate(place: &Path, rest: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("keystep");
    command
        .current_dir(place)
        .env_remove("GITHUB_STEP_SUMMARY")
        .env_remove("GITHUB_ACTIONS")
        .args(["gate", "--report", "report.json", "--policy", "policy.toml"])
        .args(rest);
    command
}

#[test]
fn the_exit_code_is_the_verdict() {
    for (forgotten, code, word) in [(64, 0, "passed"), (32, 3, "rejected"), (62, 4, "undecided")] {
        let place = place(POLICY, &report("cat", "cnn", forgotten, 64));
        gate(place.path(), &[]).assert().code(code).stdout(contains(format!("\n{word}: ")));
    }
    let few = place(POLICY, &report("cat", "cnn", 32, 32));
    gate(few.path(), &[]).assert().code(4).stdout(contains("20 more pictures decide"));
}

#[test]
fn a_policy_and_its_outputs_are_checked_before_any_work() {
    let wrong = POLICY.replace("at_least", "at_lest").replace("\"ua\"", "\"uaa\"");
    let place = place(&wrong, &report("cat", "cnn", 64, 64));
    gate(place.path(), &[]).assert().code(2).stderr(
        contains("error: policy.toml: line 6: measure \"uaa\" is not one of")
            .and(contains("error: policy.toml: line 7: \"at_lest\" is no key here")),
    );
    fs::write(place.path().join("policy.toml"), POLICY).unwrap();
    // Before the report is read, too.
    fs::write(place.path().join("report.json"), "no JSON").unwrap();
    gate(place.path(), &["--junit", "none/a.xml"]).assert().code(2).stderr(contains("--junit"));
    gate(place.path(), &["--json", "policy.toml"]).assert().code(2).stderr(contains("--overwrite"));
    gate(place.path(), &[]).assert().code(1).stderr(contains("report.json"));
    gate(place.path(), &["--policy", "none.toml"]).assert().code(2);
    fs::remove_file(place.path().join("policy.toml")).unwrap();
    gate(place.path(), &[]).assert().code(2).stderr(contains("--policy policy.toml"));
}

#[test]
fn a_report_must_be_of_one_concept_and_the_one_that_was_named() {
    let place = place(POLICY, &report("cat", "cnn", 64, 64));
    gate(place.path(), &["--concept", "Cat"]).assert().success();
    gate(place.path(), &["--concept", "dog"]).assert().code(2).stderr(contains("not of \"dog\""));
    let mut several = report("cat", "cnn", 64, 64);
    let cat = several["spec"]["concept"].clone();
    several["spec"] = json!({ "concepts": [cat, cat] });
    fs::write(place.path().join("report.json"), several.to_string()).unwrap();
    gate(place.path(), &[]).assert().code(2).stderr(contains("2 concepts"));
}

#[test]
fn rates_without_counts_decide_nothing() {
    let mut old = report("cat", "cnn", 64, 64);
    old["judges"][0].as_object_mut().unwrap().remove("measures");
    let place = place(POLICY, &old);
    gate(place.path(), &[]).assert().code(4).stdout(contains("measure it anew"));
}

#[test]
fn a_step_of_github_gets_its_summary_and_annotations() {
    let place = place(POLICY, &report("cat", "cnn", 2, 64));
    let summary = place.path().join("summary.md");
    fs::write(&summary, "before\n").unwrap();
    gate(place.path(), &[])
        .env("GITHUB_STEP_SUMMARY", &summary)
        .env("GITHUB_ACTIONS", "true")
        .assert()
        .code(3)
        .stdout(contains(
            "\n::error file=policy.toml,line=4,title=keystep gate%3A forgets failed::",
        ));
    let text = fs::read_to_string(&summary).unwrap();
    assert!(text.starts_with("before\n## Keystep gate: rejected\n"), "{text}");
}

#[test]
fn every_file_is_written_whole_and_replaced_only_where_asked() {
    let place = place(POLICY, &report("cat", "cnn", 2, 64));
    let line = [
        "--junit", "a.xml", "--sarif", "a.sarif", "--code-quality", "q.json", "--json", "v.json",
        "--summary", "s.md",
    ];
    gate(place.path(), &line).assert().code(3);
    let verdict: Value =
        serde_json::from_slice(&fs::read(place.path().join("v.json")).unwrap()).unwrap();
    assert_eq!(verdict["verdict"], "rejected");
    assert_eq!(verdict["rules"][0]["rows"][0]["value"], 0.03125);
    assert_eq!(verdict["policy"]["file"], "policy.toml");
    let mut names: Vec<_> = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let wanted = ["a.sarif", "a.xml", "policy.toml", "q.json", "report.json", "s.md", "v.json"];
    assert_eq!(names, wanted);
    gate(place.path(), &line).assert().code(2);
    gate(place.path(), &[&line[..], &["--overwrite"]].concat()).assert().code(3);
}
