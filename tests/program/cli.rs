//! The program as its users meet it: help texts, exit codes, messages.

use assert_cmd::{Command, cargo::cargo_bin_cmd};
use predicates::{prelude::PredicateBooleanExt, str::contains};

fn keystep(line: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("keystep");
    command.args(line);
    command
}

/// Every flag of every verb; a flag that help does not name cannot be found.
const VERBS: [(&str, &str); 7] = [
    (
        "demo",
        "--concept --kind --replace-with --method --learning-rate --updates --seed --out --device \
         --compute-type --quiet",
    ),
    (
        "unlearn",
        "--local --model --variant --device --compute-type --concept --kind --replace-with \
         --preserve --vocabulary --method --scope --updates --learning-rate --window --scores \
         --seed --out --server --token-file --ca-file --client-certificate --client-key --json \
         --label --deadline --priority --destination --force --validate-only --request-id \
         --no-wait --cancel-on-interrupt --base-model --score-digest --output-format --evaluate \
         --no-evaluate --sampler --resume --state-folder --memory-limit --hold-out --signing-key \
         --builder-id --judge --show --distances --quiet",
    ),
    (
        "score",
        "--local --model --variant --device --compute-type --concept --kind --vocabulary --steps \
         --trajectories --no-switch-curve --scope --seed --out --server --token-file --ca-file \
         --client-certificate --client-key --json --guidance-scale --quiet",
    ),
    (
        "generate",
        "--local --model --variant --device --compute-type --prompt --negative-prompt --seed \
         --count --steps --sampler --guidance-scale --init-image --strength --width --height \
         --out --server --token-file --ca-file --client-certificate --client-key --json --output \
         --overwrite --preview-every --quiet",
    ),
    (
        "evaluate",
        "--local --model --variant --device --compute-type --base --concept --kind --vocabulary \
         --seed --target-seeds --retain-seeds --steps --sampler --out --sheet --server \
         --token-file --ca-file --client-certificate --client-key --json --label --deadline \
         --priority --destination --force --validate-only --request-id --no-wait \
         --cancel-on-interrupt --guidance-scale --judge --show --distances --suite \
         --probes --synonym --translation --description --probe-seeds --attack --quiet",
    ),
    (
        "gate",
        "--local --report --server --token-file --ca-file --client-certificate --client-key \
         --policy --model --variant --device --compute-type --checkpoint --base --concept --kind \
         --vocabulary --seed --target-seeds --retain-seeds --steps --guidance-scale --sampler \
         --junit --sarif --code-quality --summary --json --overwrite --label --deadline \
         --priority --destination --force --validate-only --request-id --no-wait \
         --cancel-on-interrupt --judge --quiet",
    ),
    ("verify", "--public-key --endpoint --region --json --quiet"),
];

#[test]
fn help_is_complete() {
    let overview = keystep(&["--help"]).assert().success();
    let overview = String::from_utf8(overview.get_output().stdout.clone()).unwrap();
    for (verb, flags) in VERBS {
        assert!(overview.contains(verb), "{verb} is not in the overview");
        let output = keystep(&[verb, "--help"]).assert().success();
        let help = String::from_utf8(output.get_output().stdout.clone()).unwrap();
        // Examples hold flags too; descriptions are indented further.
        let described: Vec<&str> = help
            .lines()
            .take_while(|line| !line.starts_with("Example"))
            .filter(|line| line.starts_with("      --") || line.starts_with("  -q, --"))
            .collect();
        let flags: Vec<_> = flags.split(' ').collect();
        for flag in &flags {
            assert!(
                described.iter().any(|line| line.split([' ', ',', '=']).any(|word| word == *flag)),
                "{verb} does not describe {flag}"
            );
        }
        assert_eq!(described.len(), flags.len(), "{verb} has other flags:\n{help}");
        assert!(help.contains("Example"), "{verb} shows no example");
    }
}

#[test]
fn the_version_is_printed() {
    keystep(&["--version"]).assert().success().stdout(contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn no_verb_is_wrong_use() {
    keystep(&[]).assert().code(2).stderr(contains("Usage"));
    keystep(&["forget"]).assert().code(2);
}

#[test]
fn an_unknown_kind_is_wrong_use() {
    for line in [
        &["demo", "--kind", "animal"][..],
        &["score", "--local", "--model", "m", "--concept", "cat", "--kind", "animal", "--out", "x"],
    ] {
        keystep(line).assert().code(2).stderr(contains("animal").and(contains("object")));
    }
}

#[test]
fn an_unknown_method_and_scope_and_window_are_wrong_use() {
    keystep(&["demo", "--method", "magic"]).assert().code(2).stderr(contains("kscu"));
    let start = ["unlearn", "--local", "--model", "m", "--concept", "cat", "--kind", "object"];
    for (flag, value, remedy) in [
        ("--scope", "everything", "cross-attention"),
        ("--window", "3:1", "LOW is above HIGH"),
        ("--window", "wide", "LOW:HIGH"),
    ] {
        let line = [&start[..], &[flag, value, "--out", "x"]].concat();
        keystep(&line).assert().code(2).stderr(contains(remedy));
    }
    let both = [&start[..], &["--window", "0:1", "--scores", "s.json", "--out", "x"]].concat();
    keystep(&both).assert().code(2).stderr(contains("cannot be used with"));
}

#[test]
fn an_empty_or_over_long_concept_is_wrong_use_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let long = "cat ".repeat(300);
    for (concept, message) in [("", "is empty"), ("  ", "is empty"), (&long, "the limit is")] {
        keystep(&["demo", "--concept", concept, "--out", "out"])
            .current_dir(folder.path())
            .assert()
            .code(2)
            .stderr(contains("error: --concept (concept.text)").and(contains(message)));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_violation_is_printed_on_a_line_of_its_own() {
    let line = [
        "generate", "--local", "--model", "m", "--prompt", "a cat", "--steps", "0", "--width", "7",
        "--height", "64", "--out", "x.png",
    ];
    keystep(&line).assert().code(2).stderr(
        contains("error: --steps: 0 is outside 1 to 1000\n").and(contains("error: --width: 7 is")),
    );
}

#[test]
fn an_output_folder_that_exists_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("keystep-demo-cat");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "1").unwrap();
    keystep(&["demo"])
        .current_dir(folder.path())
        .assert()
        .code(2)
        .stderr(contains("keystep-demo-cat exists"));
    assert_eq!(std::fs::read(out.join("mine")).unwrap(), b"1");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_output_that_cannot_be_written_is_reported_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        &["demo", "--out", "no/such/folder"][..],
        &["generate", "--local", "--model", "m", "--prompt", "a cat", "--out", "no/such/x.png"],
    ] {
        keystep(line)
            .current_dir(folder.path())
            .assert()
            .code(2)
            .stderr(contains("error: ").and(contains("does not exist; create that first")));
    }
}

#[test]
fn a_model_that_is_not_there_fails_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    keystep(&[
        "score", "--local", "--model", "nowhere", "--concept", "cat", "--kind", "object", "--out",
        "x",
    ])
    .current_dir(folder.path())
    .assert()
    .code(1)
    .stderr(contains("error: ").and(contains("nowhere")));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_place_must_be_named() {
    for (verb, rest) in [
        ("unlearn", &["--concept", "cat", "--kind", "object", "--out", "x"][..]),
        ("score", &["--concept", "cat", "--kind", "object", "--out", "x"]),
        ("generate", &["--prompt", "a cat", "--out", "x.png"]),
        ("evaluate", &["--base", "b", "--concept", "cat", "--kind", "object", "--out", "x.json"]),
    ] {
        keystep(&[&[verb, "--model", "m"][..], rest].concat())
            .env_remove("KEYSTEP_SERVER")
            .assert()
            .code(2)
            .stderr(contains("--server URL").and(contains("use --local")));
        let both = ["--local", "--server", "http://127.0.0.1:1"];
        keystep(&[&[verb, "--model", "m"][..], &both, rest].concat())
            .assert()
            .code(2)
            .stderr(contains("cannot be used with"));
    }
}
