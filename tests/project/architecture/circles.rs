//! Circles between files: what uses each other cannot be read, tested or changed one at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, line_of, paths, tokens};

/// Names of folders and files that only tests are made of: nothing is built on them.
const OF_TESTS: [&str; 2] = ["tests", "testing"];

/// A module or a name in it, from the crate's root.
type ModulePath = Vec<String>;

/// A message for each circle: its files, what leads from one to the other, and what to do about it.
pub fn circles(sources: &[Source]) -> Vec<String> {
    let graph = Graph::of(sources);
    graph.circles().iter().map(|circle| graph.message(circle)).collect()
}

/// Which file uses which.
struct Graph {
    /// By module.
    files: BTreeMap<ModulePath, FileUses>,
}

struct FileUses {
    path: String,
    /// The first use of each other file.
    uses: BTreeMap<ModulePath, Mention>,
}

/// A file before the names that it mentions are followed to where they come from.
struct FileNames {
    path: String,
    /// What the file's `use` declarations bring into it.
    names: BTreeMap<String, ModulePath>,
    mentions: Vec<Mention>,
}

/// A path in a file.
#[derive(Clone)]
struct Mention {
    line: usize,
    /// As it stands there, with the tree of its `use` spread out.
    written: String,
    meant: ModulePath,
    /// Whether a `pub use` gives it on.
    is_given_on: bool,
}

impl Graph {
    fn of(sources: &[Source]) -> Self {
        let modules: BTreeSet<ModulePath> = sources.iter().filter_map(module_of).collect();
        let read: BTreeMap<ModulePath, FileNames> = sources
            .iter()
            .filter_map(|source| {
                let module = module_of(source)?;
                let names = FileNames::of(source, &module, &modules);
                Some((module, names))
            })
            .collect();
        let files = read.iter().map(|(module, file)| {
            let mut uses = BTreeMap::new();
            for mention in &file.mentions {
                let Some(used) = home(&read, &mention.meant) else { continue };
                // A module that shows what its children have knows nothing of it.
                let is_shown = mention.is_given_on && used.starts_with(module);
                if used != *module && !is_shown {
                    uses.entry(used).or_insert_with(|| mention.clone());
                }
            }
            (module.clone(), FileUses { path: file.path.clone(), uses })
        });
        Self { files: files.collect() }
    }

    /// Sets of modules in which each leads to every other.
    fn circles(&self) -> Vec<Vec<&ModulePath>> {
        let reached: BTreeMap<_, _> =
            self.files.keys().map(|module| (module, self.reached(module))).collect();
        let mut circles: Vec<Vec<&ModulePath>> = Vec::new();
        for (module, from_here) in &reached {
            let is_reported = circles.iter().any(|circle| circle.contains(module));
            if from_here.contains(module) && !is_reported {
                let leads_back = |other: &&ModulePath| reached[other].contains(module);
                circles.push(from_here.iter().copied().filter(leads_back).collect());
            }
        }
        circles
    }

    /// Every module that one leads to: itself too where it stands in a circle.
    fn reached(&self, from: &ModulePath) -> BTreeSet<&ModulePath> {
        let uses = |module: &ModulePath| self.files[module].uses.keys();
        let mut open: Vec<_> = uses(from).collect();
        let mut reached = BTreeSet::new();
        while let Some(module) = open.pop() {
            if reached.insert(module) {
                open.extend(uses(module));
            }
        }
        reached
    }

    fn message(&self, circle: &[&ModulePath]) -> String {
        let files: Vec<_> = circle.iter().map(|module| &self.files[*module]).collect();
        let names: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        let mut lines = vec![format!(
            "{} use each other in a circle; move what both need into a file before them, or pass \
             it in:",
            names.join(", ")
        )];
        for file in files {
            for (used, Mention { line, written, .. }) in &file.uses {
                if circle.contains(&used) {
                    let used = &self.files[used].path;
                    lines.push(format!("    {}:{line}: {used}, by {written}", file.path));
                }
            }
        }
        lines.join("\n")
    }
}

impl FileNames {
    fn of(source: &Source, module: &[String], modules: &BTreeSet<ModulePath>) -> Self {
        let mut file =
            Self { path: source.path.clone(), names: BTreeMap::new(), mentions: Vec::new() };
        let code = &without_foreign_paths(&source.production);
        let mut body = code.clone();
        for Import { start, end, is_given_on } in imports(code) {
            let lines_before = line_of(code, start) - 1;
            let mut found = paths(&code[start..end]).into_iter().peekable();
            while let Some(path) = found.next() {
                let mut name = path.parts.iter().rfind(|part| **part != "self").copied();
                if found.next_if(|next| next.parts.ends_with(&["as"])).is_some() {
                    name = found.next().and_then(|alias| alias.parts.last().copied());
                }
                let Some(meant) = file.meant(&path.parts, module, modules) else { continue };
                if let Some(name) = name {
                    file.names.insert(name.to_owned(), meant.clone());
                }
                let (line, written) = (lines_before + path.line, path.parts.join("::"));
                file.mentions.push(Mention { line, written, meant, is_given_on });
            }
            // Line ends stay, and so do the lines of what follows.
            body.replace_range(start..end, &code[start..end].replace(|c| c != '\n', " "));
        }
        for path in paths(&body) {
            // A lone word in lower case may as well be a variable.
            if path.parts.len() == 1 && path.parts[0].starts_with(char::is_lowercase) {
                continue;
            }
            if let Some(meant) = file.meant(&path.parts, module, modules) {
                let (line, written) = (path.line, path.parts.join("::"));
                file.mentions.push(Mention { line, written, meant, is_given_on: false });
            }
        }
        file
    }

    /// Where a path leads within the crate.
    fn meant(
        &self,
        parts: &[&str],
        module: &[String],
        modules: &BTreeSet<ModulePath>,
    ) -> Option<ModulePath> {
        let mut rest = parts;
        let mut meant = module.to_vec();
        match parts[0] {
            "crate" => (meant, rest) = (Vec::new(), &parts[1..]),
            "self" | "super" => {
                while let [climb @ ("self" | "super"), after @ ..] = rest {
                    if *climb == "super" {
                        meant.pop();
                    }
                    rest = after;
                }
            }
            first => {
                meant.push(first.to_owned());
                rest = &parts[1..];
                if !modules.contains(&meant) {
                    meant.clone_from(self.names.get(first)?);
                }
            }
        }
        meant.extend(rest.iter().filter(|part| **part != "self").map(|part| (*part).to_owned()));
        Some(meant)
    }
}

/// The code with other first words for paths that use nothing of the crate: `::png::Encoder` is of
/// another crate, and `pub(in crate::a)` says how far a name reaches.
fn without_foreign_paths(code: &str) -> String {
    let mut kept = code.to_owned();
    let tokens = tokens(code);
    for (at, token) in tokens.iter().enumerate() {
        let before = |places: usize| at.checked_sub(places).map_or("", |at| tokens[at].text);
        let is_reach = [before(3), before(2), before(1)] == ["pub", "(", "in"];
        let goes_on = |c: char| c.is_alphanumeric() || c == '_' || c == '>';
        let is_of_other_crate = before(1) == "::" && !before(2).ends_with(goes_on);
        if is_reach || is_of_other_crate {
            let end = token.offset + token.text.len();
            kept.replace_range(token.offset..end, &"_".repeat(token.text.len()));
        }
    }
    kept
}

/// The module of a file that counts.
fn module_of(source: &Source) -> Option<ModulePath> {
    let module: ModulePath = source.module_path().into_iter().map(str::to_owned).collect();
    let is_of_tests = module.iter().any(|part| OF_TESTS.contains(&part.as_str()));
    // Of a file that only tests compile nothing else is left.
    let is_blank = source.production.trim().is_empty();
    (source.path != "src/main.rs" && !is_of_tests && !is_blank).then_some(module)
}

/// The module whose file has what a path means: names that a file only gives on are followed.
fn home(read: &BTreeMap<ModulePath, FileNames>, meant: &[String]) -> Option<ModulePath> {
    let mut meant = meant.to_vec();
    let mut seen = BTreeSet::new();
    loop {
        let depth = (0..=meant.len()).rev().find(|depth| read.contains_key(&meant[..*depth]))?;
        let (module, rest) = meant.split_at(depth);
        let next = rest.first().and_then(|name| read[module].names.get(name));
        let is_new = seen.insert(meant.clone());
        match next {
            Some(next) if is_new => meant = [next.as_slice(), &rest[1..]].concat(),
            _ => return Some(module.to_vec()),
        }
    }
}

/// The tree of a `use` declaration, by its place in the code.
struct Import {
    start: usize,
    end: usize,
    is_given_on: bool,
}

fn imports(code: &str) -> Vec<Import> {
    let tokens = tokens(code);
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        // `use<'a>` is a bound.
        if token.text != "use" || is(at + 1, "<") {
            continue;
        }
        let end = tokens[at..].iter().find(|token| token.text == ";");
        let end = end.map_or(code.len(), |token| token.offset);
        // `pub use` and `pub(super) use`.
        let is_given_on = at > 0 && (is(at - 1, "pub") || is(at - 1, ")"));
        found.push(Import { start: token.offset + token.text.len(), end, is_given_on });
    }
    found
}

// The check, on planted circles.

fn found(files: &[(&str, &str)]) -> Vec<String> {
    let mut sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    super::source::silence_test_files(&mut sources);
    circles(&sources)
}

#[test]
fn a_circle_is_reported_with_each_of_its_edges() {
    let found = found(&[
        ("src/lib.rs", "pub mod spec;"),
        ("src/spec/mod.rs", "mod a;\nmod b;\nmod c;\npub use a::A;\npub use b::B;"),
        ("src/spec/a.rs", "\nuse super::{B, c::C as D};\npub struct A(B, D);"),
        ("src/spec/b.rs", "pub struct B;\nfn f() { crate::spec::A::new() }"),
        ("src/spec/c.rs", "pub struct C;"),
    ]);
    assert_eq!(
        found,
        [
            "src/spec/a.rs, src/spec/b.rs use each other in a circle; move what both need into a file \
          before them, or pass it in:\n    \
          src/spec/a.rs:2: src/spec/b.rs, by super::B\n    \
          src/spec/b.rs:2: src/spec/a.rs, by crate::spec::A::new"
        ]
    );
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let facade = "mod a; mod b; pub use a::A; pub(super) use b::{B, B as Other};";
    for (mod_rs, a, b) in [
        (facade, "use super::B;", "use super::A;"),
        (facade, "use crate::spec::{\n  Other,\n};", "fn f(a: super::A) {}"),
        (facade, "use super::b;\nfn f() { b::f() }", "use super::a::{self, A};"),
        (facade, "use crate::spec; fn f() { spec::b::f() }", "fn f() { super::a::f() }"),
        // A parent that uses what its child has, and the child its parent.
        ("mod a; use a::A; pub struct S(A);", "use super::S;", ""),
        ("mod a; pub use a::A; pub struct S(A);", "fn f(s: super::S) {}", ""),
        ("mod a; pub struct S; fn f() { a::f() }", "use crate::spec::S;", ""),
        // Private imports of a parent are its children's too.
        ("mod a; mod b; use b::B; pub struct S(B);", "use super::B;", "use super::a::A;"),
    ] {
        let files = [("src/spec/mod.rs", mod_rs), ("src/spec/a.rs", a), ("src/spec/b.rs", b)];
        let found = found(&files);
        assert_eq!(found.len(), 1, "{mod_rs} {a} {b}: {found:?}");
    }
    let through_three = [
        ("src/a.rs", "use crate::b::B;"),
        ("src/b.rs", "fn f() { crate::c::f() }"),
        ("src/c/mod.rs", "use crate::a;"),
        ("src/d.rs", "use crate::{a, b, c};"),
    ];
    let found = found(&through_three);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("src/a.rs, src/b.rs, src/c/mod.rs use"), "{found:?}");
}

#[test]
fn arrows_that_run_one_way_are_no_circle() {
    let facade = "mod a; mod b; pub use a::A; pub use b::B;";
    for (mod_rs, a, b) in [
        (facade, "use super::B; pub struct A(B);", "pub struct B;"),
        (facade, "// super::B\nconst A: &str = \"super::B\";", "use super::A;"),
        (facade, "use super::B;", "#[cfg(test)]\nmod tests { use super::super::A; }"),
        (facade, "use super::B;", "use std::a::A; fn f(a: u8) -> impl Sized + use<> { a }"),
        (facade, "use super::*;", "use super::A;"),
        ("mod a; use a::A; pub struct S(A);", "pub(in crate::spec) struct A;", ""),
        ("mod a; pub struct S(::a::A);", "use super::S; use ::b::{A};", "use super::a::A;"),
        ("mod a; mod b; use a::A; pub struct S(A);", "pub struct A;", "use super::S;"),
        (
            "#[cfg(test)] mod b; mod a; use a::f;",
            "pub fn f() {}",
            "use super::f; fn g() { a::f() }",
        ),
        ("pub mod testing; mod a; pub struct S(a::A);", "pub struct A;", ""),
    ] {
        let files = [
            ("src/spec/mod.rs", mod_rs),
            ("src/spec/a.rs", a),
            ("src/spec/b.rs", b),
            ("src/spec/testing/mod.rs", "use super::{S, a::A};"),
            ("src/spec/a/tests.rs", "use crate::spec::{S, b::B};"),
        ];
        let found = found(&files);
        assert!(found.is_empty(), "{mod_rs} {a} {b}: {found:?}");
    }
}
