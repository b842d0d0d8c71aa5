//! The house rules that the compiler does not know, as tests: each check names file and line, and
//! each is shown violations that it must find.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests fail by panics")]
#![allow(unreachable_pub, reason = "a test has no public interface")]

mod circles;
mod source;

use std::{collections::BTreeMap, fs, path::Path};

use circles::circles;
use source::{Source, line_of, list, paths, relative, silence_test_files, tokens};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// A file that is longer holds more than one idea.
const MOST_LINES: usize = 600;

/// What a module may use, from the table in `src/lib.rs`; `None` means every module.
type Arrows = BTreeMap<String, Option<Vec<String>>>;

// The rules, on the real tree.

#[test]
fn the_arrows_between_modules_are_straight() {
    let arrows = arrows(&read("src/lib.rs"));
    each_source("src", |source| forbidden_modules(source, &arrows));
}

#[test]
fn the_engines_parts_use_those_before_them() {
    let order = EngineOrder::of(&read("src/engine/mod.rs"));
    each_source("src/engine", |source| order.violations(source));
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let sources = Source::read_all(Path::new(ROOT), "src");
    assert!(!sources.is_empty(), "src holds no Rust file");
    finish(&circles(&sources));
}

#[test]
fn crates_stay_in_their_modules() {
    each_source("src", forbidden_crates);
}

#[test]
fn nothing_outside_tests_can_panic_by_choice() {
    each_source("src", panics);
}

#[test]
fn files_are_short() {
    each_source("src", too_long);
    each_source("tests", too_long);
}

#[test]
fn every_open_task_has_a_name() {
    each_source("src", nameless_tasks);
}

#[test]
fn names_say_what_things_are() {
    let mut found = Vec::new();
    for folder in ["src", "tests", "assets"] {
        list(&Path::new(ROOT).join(folder), &mut found);
    }
    let names = found.iter().map(|path| relative(Path::new(ROOT), path));
    finish(&names.filter_map(|path| vague_name(&path)).collect::<Vec<_>>());
}

#[test]
fn the_map_names_every_module() {
    finish(&unmapped(&read("src/lib.rs"), &read("ARCHITECTURE.md")));
}

#[test]
fn the_map_explains_every_error_of_the_engine() {
    let errors = Source::new("src/engine/error.rs", &read("src/engine/error.rs"));
    finish(&unexplained_errors(&errors, &read("ARCHITECTURE.md")));
}

#[test]
fn the_map_names_no_file_that_is_gone() {
    let exists = |path: &str| Path::new(ROOT).join(path).exists();
    finish(&stale_paths("ARCHITECTURE.md", &read("ARCHITECTURE.md"), exists));
    finish(&stale_paths("README.md", &read("README.md"), exists));
}

#[test]
fn the_checks_read_every_file_to_its_end() {
    each_source("src", |source| {
        let count = |brace: char| source.code.matches(brace).count();
        let whole = count('{') == count('}') && source.code.len() == source.text.len();
        if whole { Vec::new() } else { vec![format!("{}:1: misread", source.path)] }
    });
}

// The checks.

/// Uses of `crate::X`, or of `super::…::X` up to the root, that no arrow allows.
fn forbidden_modules(source: &Source, arrows: &Arrows) -> Vec<String> {
    let module_path = source.module_path();
    let module = match source.path.as_str() {
        "src/lib.rs" => return Vec::new(),
        "src/main.rs" => "main",
        _ => module_path[0],
    };
    let allowed = match arrows.get(module) {
        Some(None) => return Vec::new(),
        Some(Some(allowed)) => allowed.clone(),
        None if module == "main" => vec!["cli".to_owned()],
        None => return vec![format!("{}:1: {module} is not in src/lib.rs's table", source.path)],
    };
    let mut found = Vec::new();
    for path in paths(&source.code) {
        let climbed = path.parts.iter().take_while(|part| **part == "super").count();
        let used = match path.parts[0] {
            "crate" => path.parts.get(1),
            "keystep" if module == "main" => path.parts.get(1),
            _ if climbed > 0 && climbed == module_path.len() => path.parts.get(climbed),
            _ => None,
        };
        if let Some(used) = used
            && *used != module
            && arrows.contains_key(*used)
            && !allowed.iter().any(|module| module == used)
        {
            found.push(format!(
                "{}:{}: {module} must not know {used} (see the table in src/lib.rs)",
                source.path, path.line
            ));
        }
    }
    found
}

/// The engine's parts from the bottom up, from the first lines of `src/engine/mod.rs`.
struct EngineOrder {
    parts: Vec<String>,
    /// The part of each name that the module gives on.
    exports: BTreeMap<String, String>,
}

impl EngineOrder {
    fn of(text: &str) -> Self {
        let list = text.split_once("no other:").map_or("", |(_, list)| list);
        let list = list.split_once('.').map_or("", |(list, _)| list);
        let parts = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let source = Source::new("src/engine/mod.rs", text);
        let exports =
            paths(&source.code).into_iter().filter_map(|path| match path.parts.as_slice() {
                [part, name] => Some(((*name).to_owned(), (*part).to_owned())),
                _ => None,
            });
        Self { parts, exports: exports.collect() }
    }

    /// Uses of a part that stands behind the source's own.
    fn violations(&self, source: &Source) -> Vec<String> {
        let module_path = source.module_path();
        let ["engine", part, ..] = module_path.as_slice() else { return Vec::new() };
        let place = |part: &str| self.parts.iter().position(|other| other == part);
        let Some(own) = place(part) else {
            return vec![format!("{}:1: {part} is not in src/engine/mod.rs's list", source.path)];
        };
        let mut found = Vec::new();
        for path in paths(&source.production) {
            let climbed = path.parts.iter().take_while(|part| **part == "super").count();
            let used = match path.parts.as_slice() {
                ["crate", "engine", used, ..] => used,
                parts if climbed > 0 && climbed + 1 == module_path.len() => {
                    match parts.get(climbed) {
                        Some(used) => used,
                        None => continue,
                    }
                }
                _ => continue,
            };
            let used = self.exports.get(*used).map_or(*used, String::as_str);
            if place(used).is_some_and(|place| place > own) {
                found.push(format!(
                    "{}:{}: {part} must not know {used}, which comes after it in \
                     src/engine/mod.rs; move what both need before them, or pass it in",
                    source.path, path.line
                ));
            }
        }
        found
    }
}

/// Crates, and parts of the standard library, that a module must do without.
fn forbidden_crates(source: &Source) -> Vec<String> {
    let module_path = source.module_path();
    let module = module_path.first().copied().unwrap_or("");
    let is_pure = ["engine", "gate", "spec"].contains(&module);
    let has_tensors = !["spec", "outcome", "artifacts", "gate", "report", "jobs"].contains(&module);
    let draws = source.path.starts_with("src/engine/schedule/noise");
    let mut found = Vec::new();
    let mut refuse = |line: usize, what: &str, why: &str| {
        found.push(format!("{}:{line}: {module} must not use {what}: {why}", source.path));
    };
    for path in paths(&source.code) {
        if !has_tensors && path.parts[0].starts_with("candle") {
            refuse(path.line, path.parts[0], "tensors live in engine");
        }
    }
    for path in paths(&source.production) {
        match path.parts.as_slice() {
            ["tokio" | "tonic", ..] if is_pure => {
                refuse(path.line, path.parts[0], "it is blocking and knows no wire");
            }
            ["tonic" | "prost" | "prost_types", ..]
                if ["jobs", "device", "worker"].contains(&module) =>
            {
                refuse(path.line, path.parts[0], "the wire ends in api");
            }
            ["std", "fs", ..] if is_pure => {
                refuse(path.line, "std::fs", "files are read through spec::ModelFiles");
            }
            ["std", "time", ..] if is_pure => {
                refuse(path.line, "std::time", "time is drawn in cli alone");
            }
            ["rand" | "rand_mt" | "fastrand" | "getrandom", ..] if !draws => {
                refuse(path.line, path.parts[0], "draws come from engine::schedule::NoiseSource");
            }
            _ => {}
        }
    }
    found
}

/// What ends the process where an error would do.
fn panics(source: &Source) -> Vec<String> {
    let tokens = tokens(&source.production);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let what = match token.text {
            "unwrap" | "expect" if at > 0 && [".", "::"].contains(&text(at - 1)) => token.text,
            "panic" | "todo" | "unimplemented" | "unreachable" if text(at + 1) == "!" => token.text,
            _ => continue,
        };
        let line = line_of(&source.production, token.offset);
        found.push(format!("{}:{line}: {what} can end the process; give an error", source.path));
    }
    found
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines <= MOST_LINES {
        return Vec::new();
    }
    vec![format!("{}:{lines}: longer than {MOST_LINES} lines; split it by idea", source.path)]
}

/// Open tasks that nobody has taken on.
fn nameless_tasks(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for (at, mark) in ["TODO", "FIXME"].iter().flat_map(|mark| line.match_indices(mark)) {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let after = &line[at + mark.len()..];
            if line[..at].ends_with(is_part) || after.starts_with(is_part) {
                continue;
            }
            let name = after.strip_prefix('(').and_then(|after| after.split_once(')'));
            if name.is_none_or(|(name, _)| name.trim().is_empty()) {
                found.push(format!("{}:{}: write {mark}(name)", source.path, index + 1));
            }
        }
    }
    found
}

/// A name that would suit anything.
fn vague_name(path: &str) -> Option<String> {
    const VAGUE: &str = " util utils utilities common helper helpers misc manager managers ";
    let name = path.rsplit('/').next()?;
    let stem = name.split('.').next()?;
    let word = stem
        .split(['_', '-'])
        .find(|word| !word.is_empty() && VAGUE.contains(&format!(" {} ", word.to_lowercase())))?;
    Some(format!("{path}:1: \"{word}\" does not say what is inside; name what it is for"))
}

/// Modules that one of the two maps leaves out, or draws another arrow for.
fn unmapped(lib: &str, architecture: &str) -> Vec<String> {
    let (short, long) = (arrows(lib), arrows(architecture));
    let mut declared = Vec::new();
    let mut found = Vec::new();
    let code = Source::new("src/lib.rs", lib).code;
    for (index, line) in code.lines().enumerate() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [.., "mod", name] = words.as_slice() else { continue };
        let name = name.trim_end_matches(';');
        declared.push(name);
        for (map, file) in [(&short, "src/lib.rs"), (&long, "ARCHITECTURE.md")] {
            if !map.contains_key(name) {
                let line = index + 1;
                found.push(format!("src/lib.rs:{line}: {name} is missing from {file}'s table"));
            }
        }
    }
    for (module, allowed) in &short {
        if !declared.contains(&module.as_str()) {
            found.push(format!("src/lib.rs:1: the table names {module}, which is no module"));
        }
        if long.get(module).is_some_and(|other| other != allowed) {
            found.push(format!("ARCHITECTURE.md:1: {module} may use other modules in src/lib.rs"));
        }
    }
    found
}

/// Variants of the first enum of a file that the map's table of errors leaves out.
fn unexplained_errors(source: &Source, architecture: &str) -> Vec<String> {
    let start = source.code.find("pub enum ").unwrap_or(source.code.len());
    let first = line_of(&source.code, start);
    let variants = source.code[start..].lines().skip(1).take_while(|line| *line != "}");
    let name = |line: &str| {
        // Fields stand deeper, attributes begin with another character.
        let line = line.strip_prefix("    ")?;
        let name = line.split(|c: char| !c.is_alphanumeric()).next()?;
        name.starts_with(|c: char| c.is_uppercase()).then(|| name.to_owned())
    };
    variants
        .enumerate()
        .filter_map(|(index, line)| Some((first + 1 + index, name(line)?)))
        .filter(|(_, name)| !architecture.contains(&format!("`{name}`")))
        .map(|(line, name)| {
            format!("{}:{line}: ARCHITECTURE.md's table of errors lacks {name}", source.path)
        })
        .collect()
}

/// Paths between backticks that lead nowhere.
fn stale_paths(file: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in line.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "tests/", "assets/", ".ci/"].iter().any(|f| word.starts_with(f));
            if is_path && !word.contains(['*', ' ', '{', '<']) && !exists(word) {
                found.push(format!("{file}:{}: {word} does not exist", index + 1));
            }
        }
    }
    found
}

/// The rows of a table `| module | is | may use |`, in rustdoc or Markdown.
fn arrows(text: &str) -> Arrows {
    let mut arrows = Arrows::new();
    for line in text.lines() {
        let row = line.trim_start_matches("//!").trim();
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let ["", module, _, allowed, ""] = cells.as_slice() else { continue };
        let named = |cell: &str| -> Vec<String> {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let [module] = named(module).try_into().unwrap_or_else(|_| [String::new()]);
        let is_arrow = ["all", "–"].contains(allowed) || allowed.starts_with('`');
        if !module.is_empty() && is_arrow {
            arrows.insert(module, (*allowed != "all").then(|| named(allowed)));
        }
    }
    arrows
}

fn read(path: &str) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn each_source(folder: &str, check: impl Fn(&Source) -> Vec<String>) {
    let sources = Source::read_all(Path::new(ROOT), folder);
    assert!(!sources.is_empty(), "{folder} holds no Rust file");
    finish(&sources.iter().flat_map(check).collect::<Vec<_>>());
}

fn finish(found: &[String]) {
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

// The checks, on planted violations.

const LIB: &str = "\
//! | [`spec`] | asks | – |
//! | [`outcome`] | yields | `spec` |
//! | [`engine`] | computes | `spec`, `outcome` |
//! | [`cli`] | wires | all |
pub mod cli;
pub mod engine;
pub mod outcome;
pub mod spec;
";

#[test]
fn a_forbidden_module_is_found_however_it_is_written() {
    let arrows = arrows(LIB);
    let check = |path: &str, text: &str| forbidden_modules(&Source::new(path, text), &arrows);
    let one = |path: &str, text: &str, wanted: &str| {
        let found = check(path, text);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].starts_with(wanted), "{found:?} instead of {wanted}");
    };
    one("src/spec/mod.rs", "\nuse crate::engine::Engine;", "src/spec/mod.rs:2: spec must not");
    one("src/engine/a/b.rs", "use crate::{\n  spec::{A, B},\n  cli,\n};", "src/engine/a/b.rs:3:");
    one("src/outcome/a.rs", "fn f() { crate::engine::f() }", "src/outcome/a.rs:1:");
    one("src/spec/mod.rs", "use super::engine::Engine;", "src/spec/mod.rs:1:");
    one("src/spec/a.rs", "use super::super::{engine::Engine};", "src/spec/a.rs:1:");
    one("src/main.rs", "fn main() { keystep::engine::f() }", "src/main.rs:1:");
    one("src/other/mod.rs", "", "src/other/mod.rs:1: other is not");
    for (path, text) in [
        ("src/engine/a.rs", "use crate::{engine::b, outcome::C, spec::D};"),
        (
            "src/engine/a.rs",
            "// crate::cli\n/* crate::cli /* */ */ const A: &str = \"crate::cli\";",
        ),
        ("src/engine/a.rs", "const A: &str = r#\"crate::cli\"#; fn f<'a>(a: &'a u8) {}"),
        ("src/spec/a.rs", "use super::engine_words;"),
        ("src/cli/a.rs", "use crate::engine;"),
        ("src/main.rs", "fn main() { keystep::cli::run() }"),
    ] {
        assert!(check(path, text).is_empty(), "{path}: {text}: {:?}", check(path, text));
    }
}

#[test]
fn a_part_of_the_engine_that_uses_a_later_one_is_found() {
    let order = EngineOrder::of(
        "//! and no other:\n//! `ops`, `model`,\n//! `plan`.\npub use model::Unet;",
    );
    let count = |path: &str, text: &str| order.violations(&Source::new(path, text)).len();
    assert_eq!(count("src/engine/ops/a.rs", "use crate::{engine::{Unet, plan}, spec::A};"), 2);
    assert_eq!(count("src/engine/ops/a.rs", "fn f() { super::super::model::f() }"), 1);
    assert_eq!(
        count("src/engine/ops/a.rs", "use super::model; #[cfg(test)] use crate::engine::plan;"),
        0
    );
    assert_eq!(count("src/engine/plan.rs", "use super::{Unet, ops::f};"), 0);
    assert_eq!(count("src/engine/util.rs", ""), 1);
}

#[test]
fn a_forbidden_crate_is_found() {
    let count = |path: &str, text: &str| forbidden_crates(&Source::new(path, text)).len();
    assert_eq!(count("src/engine/a.rs", "use std::{fs::{self, File}, io, time::Instant};"), 3);
    assert_eq!(count("src/spec/a.rs", "fn f() { ::std::time::Instant::now(); }"), 1);
    assert_eq!(count("src/engine/a.rs", "use tokio::sync; use tonic::Status;"), 2);
    assert_eq!(count("src/report/a.rs", "use candle_core::Tensor;"), 1);
    assert_eq!(count("src/spec/a.rs", "#[cfg(test)] mod tests { use candle_core::Tensor; }"), 1);
    assert_eq!(count("src/engine/score.rs", "use rand_mt::Mt;"), 1);
    assert_eq!(count("src/engine/schedule/noise.rs", "use rand_mt::Mt; use candle_core::D;"), 0);
    assert_eq!(count("src/engine/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }"), 0);
    assert_eq!(count("src/artifacts/a.rs", "use std::fs; use std::time::Instant;"), 0);
}

#[test]
fn a_panic_is_found_outside_tests_alone() {
    let count = |text: &str| panics(&Source::new("src/spec/a.rs", text)).len();
    assert_eq!(count("fn f() { a.unwrap(); b\n.expect(\"c\"); d.map(Option::unwrap) }"), 3);
    assert_eq!(count("fn f() { panic!(); todo!(); unimplemented!(); unreachable!() }"), 4);
    assert_eq!(count("fn f() { a.unwrap_or(1); let expect = 2; \"x.unwrap()\"; '\"'; }"), 0);
    assert_eq!(count("#[cfg(test)]\nmod tests { fn f(a: [u8; 2]) { a.unwrap() } }"), 0);
    assert_eq!(count("#[cfg(test)]\nfn f(a: [u8; 2]) { a.unwrap() }\nfn g() { a.unwrap() }"), 1);
    let found = panics(&Source::new("src/spec/a.rs", "// ü\n\nfn f() {\n  a.unwrap() }"));
    assert!(found[0].starts_with("src/spec/a.rs:4: unwrap"), "{found:?}");
}

#[test]
fn a_file_of_tests_alone_may_panic() {
    let mut sources = [
        Source::new("src/engine/mod.rs", "#[cfg(test)]\nmod testing;\nmod real;"),
        Source::new("src/engine/testing.rs", "fn f() { a.unwrap() }"),
        Source::new("src/engine/real.rs", "#[cfg(test)] mod tests; fn f() { a.unwrap() }"),
        Source::new("src/engine/real/tests.rs", "fn f() { a.unwrap() }"),
    ];
    silence_test_files(&mut sources);
    let found: Vec<_> = sources.iter().flat_map(panics).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("src/engine/real.rs:1:"), "{found:?}");
}

#[test]
fn long_files_nameless_tasks_and_vague_names_are_found() {
    let long = "\n".repeat(MOST_LINES + 1);
    assert_eq!(too_long(&Source::new("src/a.rs", &long)).len(), 1);
    assert!(too_long(&Source::new("src/a.rs", &long[1..])).is_empty());

    let tasks = "// TODO: later\n// TODO() FIXME\n// TODO(ada): later\nconst TODOS: u8 = 1;";
    let found = nameless_tasks(&Source::new("src/a.rs", tasks));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("src/a.rs:1:"));

    for path in ["src/util.rs", "src/engine/common/mod.rs", "src/job_manager.rs", "src/a/misc"] {
        let hit = path.split('/').any(|part| vague_name(part).is_some());
        assert!(hit, "{path} passed");
    }
    assert!(vague_name("src/engine/commonwealth.rs").is_none());
}

#[test]
fn a_module_without_a_place_on_the_map_is_found() {
    let table = LIB.replace("//! ", "").replace(['[', ']'], "");
    assert!(unmapped(LIB, &table).is_empty(), "{:?}", unmapped(LIB, &table));
    let one_more = format!("{LIB}mod jobs;\n");
    assert_eq!(unmapped(&one_more, &table).len(), 2);
    assert_eq!(unmapped(LIB, &table.replace("| all |", "| `spec` |")).len(), 1);
    assert_eq!(unmapped(LIB, "").len(), 4);
    assert_eq!(unmapped(&LIB.replace("pub mod spec;\n", ""), &table).len(), 1);

    let errors = "/// Why.\npub enum E {\n    #[error(\"{a}\")]\n    A { a: u8 },\n    B(u8),\n}\n";
    let found = unexplained_errors(&Source::new("src/e.rs", errors), "| `A` | is known |");
    assert_eq!(found, ["src/e.rs:5: ARCHITECTURE.md's table of errors lacks B"]);

    let found = stale_paths("MAP.md", "see `src/a.rs`\nand `src/b.rs`", |path| path == "src/a.rs");
    assert_eq!(found, ["MAP.md:2: src/b.rs does not exist"]);
}
