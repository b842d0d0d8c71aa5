//! The README's commands, held against the binary: every verb and every flag in it must exist.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests fail by panics")]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// A `keystep` command line, with the line of the file that it begins on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Example {
    line: usize,
    words: Vec<String>,
}

impl Example {
    fn verb(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// `--flag`, also in `--flag=value`.
    fn flags(&self) -> impl Iterator<Item = &str> {
        self.words.iter().filter_map(|word| {
            let flag = word.split('=').next()?;
            (flag.starts_with('-') && flag.len() > 1).then_some(flag)
        })
    }
}

#[test]
fn the_binary_knows_every_verb_and_flag_of_the_readme() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let examples = examples(&fs::read_to_string(path).unwrap());
    assert!(!examples.is_empty(), "README.md shows no keystep command");
    let mut help = BTreeMap::new();
    let mut wrong = Vec::new();
    for example in &examples {
        let text = help.entry(example.verb().to_owned()).or_insert_with(|| help_of(example.verb()));
        match text {
            Some(text) => wrong.extend(unknown_flags(example, text)),
            None => wrong.push(format!(
                "README.md:{}: keystep has no verb \"{}\"",
                example.line,
                example.verb()
            )),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What `keystep VERB --help` prints, if there is such a verb.
fn help_of(verb: &str) -> Option<String> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_keystep")).args([verb, "--help"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // A binary that ignores its arguments also ends well.
    (output.status.success() && text.contains("--help")).then_some(text)
}

fn unknown_flags(example: &Example, help: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '-';
    let known: Vec<_> = help.split(|c| !is_part(c)).collect();
    example
        .flags()
        .filter(|flag| !known.contains(flag))
        .map(|flag| format!("README.md:{}: keystep {} has no {flag}", example.line, example.verb()))
        .collect()
}

/// The `keystep` command lines of a Markdown text's `sh` blocks, without the program's name.
fn examples(markdown: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut inside = false;
    let mut command = String::new();
    let mut begins = 0;
    for (index, line) in markdown.lines().enumerate() {
        if let Some(language) = line.trim().strip_prefix("```") {
            inside = !inside && language == "sh";
            command.clear();
            continue;
        }
        if !inside {
            continue;
        }
        if command.is_empty() {
            begins = index + 1;
        }
        if let Some(part) = line.strip_suffix('\\') {
            command.push_str(part);
            continue;
        }
        command.push_str(line);
        let words = arguments(&words(&command));
        found.extend(words.map(|words| Example { line: begins, words }));
        command.clear();
    }
    found
}

/// What the program is given; none where the command is another program's.
fn arguments(words: &[String]) -> Option<Vec<String>> {
    let program = words.first()?;
    if program == "keystep" || program.ends_with("/keystep") {
        return Some(words[1..].to_vec());
    }
    // An example is another program; `.ci/run` checks that it builds.
    if words.iter().any(|word| word == "--example") {
        return None;
    }
    if program == "cargo" && words.get(1).is_some_and(|word| word == "run") {
        let separator = words.iter().position(|word| word == "--")?;
        return Some(words[separator + 1..].to_vec());
    }
    None
}

/// A line as a shell splits it, as far as the README goes: quotes and comments.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn commands_are_read_as_a_shell_reads_them() {
    let text = "\
keystep not --a-block
```sh
cargo test --locked
cargo run --release --example some_figures -- keystep
cargo run --release -- demo --concept cat # --not-a-flag
keystep generate --prompt 'a cat --in neon' \\
  --seed=3
```
```json
keystep not --a-block
```
";
    let found = examples(text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].line, found[0].verb()), (5, "demo"));
    assert_eq!(found[0].flags().collect::<Vec<_>>(), ["--concept"]);
    assert_eq!(found[1].line, 6);
    assert_eq!(found[1].flags().collect::<Vec<_>>(), ["--prompt", "--seed"]);

    let help = "Usage: keystep generate [OPTIONS] --prompt <PROMPT>\n  --seeds <N>";
    let wrong = unknown_flags(&found[1], help);
    assert_eq!(wrong, ["README.md:6: keystep generate has no --seed"]);
}
