//! `keystep token`, and a server that takes what it makes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::fs;

use assert_cmd::{Command, cargo::cargo_bin_cmd};
use keystep::{
    auth::{Authenticator, Presented, Role},
    jobs::Clock,
};
use predicates::str::contains;

fn token(arguments: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("keystep");
    command.arg("token").args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn tokens_that_are_appended_are_let_in() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("tokens.toml");
    let append = ["--append", file.to_str().unwrap()];
    let made = |arguments: &[&str]| {
        let done = token(arguments).args(append).assert().success().stderr("");
        text(&done.get_output().stdout)
    };
    let ada = made(&["--principal", "ada", "--role", "read", "--role", "submit"]);
    let root = made(&["--principal", "root", "--role", "admin", "--queued-jobs", "5"]);
    let low = made(&["--principal", "ci", "--role", "submit", "--highest-priority", "-3"]);
    let kept = fs::read_to_string(&file).unwrap();
    for token in [&ada, &root, &low] {
        assert!(token.starts_with("keystep_") && token.ends_with('\n'), "{token}");
        assert!(!kept.contains(token.trim()), "the file holds no secret");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    let doors = Authenticator::from_file(&file, Clock::default()).await.unwrap();
    for (token, name, may, priority) in [
        (&ada, "ada", [true, false], None),
        (&root, "root", [true, true], None),
        (&low, "ci", [true, false], Some(-3)),
    ] {
        let header = format!("Bearer {}", token.trim());
        let presented =
            Presented { authorization: Some(header.as_bytes()), ..Presented::default() };
        let caller = doors.authenticate(&presented).unwrap();
        assert_eq!((caller.principal.0.as_str(), caller.highest_priority), (name, priority));
        assert_eq!([Role::Submit, Role::Generate].map(|role| caller.may(role)), may);
    }
}

#[test]
fn an_entry_that_is_not_appended_is_shown_apart_from_the_token() {
    let done = token(&["--principal", "ci", "--role", "generate"]).assert().success();
    let (token, entry) = (text(&done.get_output().stdout), text(&done.get_output().stderr));
    assert_eq!(token.lines().count(), 1);
    assert!(entry.contains("[[token]]") && entry.contains("\"ci\""), "{entry}");
    assert!(!entry.contains(token.trim()), "{entry}");
}

#[test]
fn what_a_server_would_refuse_is_refused() {
    token(&["--principal", "ci"]).assert().code(2).stdout("");
    token(&["--principal", "", "--role", "read"]).assert().code(2).stdout("");
    for refused in [["--requests-per-second", "0"], ["--highest-priority", "101"]] {
        token(&["--principal", "ci", "--role", "read"]).args(refused).assert().code(2).stdout("");
    }
    let place = tempfile::tempdir().unwrap();
    let nowhere = place.path().join("no/tokens.toml");
    token(&["--principal", "ci", "--role", "read", "--append", nowhere.to_str().unwrap()])
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains("tokens.toml"));
}
