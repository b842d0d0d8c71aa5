//! Rust files as the checks see them: without comments and literals, as tokens, and as paths.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One file below the repository's root.
#[derive(Debug)]
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    /// As it lies on the disk.
    pub text: String,
    /// The same length, with comments and the insides of literals blanked.
    pub code: String,
    /// `code` with everything that only tests compile blanked too.
    pub production: String,
    /// Modules that the file declares for tests alone, such as `mod testing;`.
    test_modules: Vec<String>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = masked(text);
        let mut production = code.clone();
        let mut test_modules = Vec::new();
        for attribute in ["#[cfg(test)]", "#[cfg(all(test"] {
            while let Some(start) = production.find(attribute) {
                let end = item_end(&production, start);
                test_modules.extend(declared_module(&production[start..end]));
                blank(&mut production, start, end);
            }
        }
        Self { path: path.to_owned(), text: text.to_owned(), code, production, test_modules }
    }

    /// Every Rust file of a folder, sorted by path; files that are modules of tests alone have no
    /// production code.
    pub fn read_all(root: &Path, folder: &str) -> Vec<Self> {
        let mut files = Vec::new();
        list(&root.join(folder), &mut files);
        let mut sources: Vec<_> = files
            .iter()
            .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
            .map(|file| {
                let text = fs::read_to_string(file).unwrap();
                Self::new(&relative(root, file), &text)
            })
            .collect();
        silence_test_files(&mut sources);
        sources
    }

    /// The module that the file is, from the crate's root: `engine`, `score`, `window`.
    pub fn module_path(&self) -> Vec<&str> {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let path = path.strip_suffix(".rs").unwrap_or(path);
        let mut parts: Vec<_> = path.split('/').collect();
        if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
            parts.pop();
        }
        parts
    }

    /// The folder in which the file's own modules lie.
    fn folder_of_modules(&self) -> String {
        match self.path.strip_suffix("/mod.rs") {
            Some(folder) => folder.to_owned(),
            None if ["src/lib.rs", "src/main.rs"].contains(&self.path.as_str()) => "src".to_owned(),
            None => self.path.trim_end_matches(".rs").to_owned(),
        }
    }
}

/// Takes the production code from files that only tests compile.
pub fn silence_test_files(sources: &mut [Source]) {
    let mut places = BTreeSet::new();
    for source in &*sources {
        for module in &source.test_modules {
            places.insert(format!("{}/{module}", source.folder_of_modules()));
        }
    }
    for source in sources {
        let is_below = |place: &String| {
            source.path == format!("{place}.rs") || source.path.starts_with(&format!("{place}/"))
        };
        if places.iter().any(is_below) {
            let end = source.production.len();
            blank(&mut source.production, 0, end);
        }
    }
}

/// Every file and folder below a folder, sorted.
pub fn list(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        found.push(entry.clone());
        if entry.is_dir() {
            list(&entry, found);
        }
    }
}

/// A path as messages name it.
pub fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

/// The line, from 1, of a byte.
pub fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// A piece of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// A word, a number, `::`, or one other character.
    pub text: &'a str,
    pub offset: usize,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of blanked code.
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_part(first) {
            rest.find(|c| !is_part(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            tokens.push(Token { text: &rest[..length], offset: code.len() - rest.len() });
        }
        rest = &rest[length..];
    }
    tokens
}

/// A path such as `crate::spec::Concept`; trees of `use` are spread out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodePath<'a> {
    pub parts: Vec<&'a str>,
    pub line: usize,
}

/// Every path and every lone word of blanked code.
pub fn paths(code: &str) -> Vec<CodePath<'_>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].is_word() {
            at = spread(code, &tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path, with the trees below it; gives the index of the token after it.
fn spread<'a>(
    code: &str,
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    found: &mut Vec<CodePath<'a>>,
) -> usize {
    let mut parts = prefix.to_vec();
    let line = line_of(code, tokens[at].offset);
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    loop {
        parts.push(tokens[at].text);
        at += 1;
        if !is(at, "::") {
            break;
        }
        if tokens.get(at + 1).is_some_and(Token::is_word) {
            at += 1;
            continue;
        }
        if is(at + 1, "{") {
            at += 2;
            while at < tokens.len() && !is(at, "}") {
                if tokens[at].is_word() {
                    at = spread(code, tokens, at, &parts, found);
                } else {
                    at += 1;
                }
            }
            return at + 1;
        }
        at += 1;
        break;
    }
    found.push(CodePath { parts, line });
    at
}

/// Where the item behind an attribute ends.
fn item_end(code: &str, start: usize) -> usize {
    let (mut depth, mut braces) = (0_usize, 0_usize);
    for (offset, c) in code[start..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '{' => braces += 1,
            '}' if braces == 1 => return start + offset + 1,
            '}' => braces = braces.saturating_sub(1),
            ';' if depth == 0 && braces == 0 => return start + offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// The name in `mod name;`, behind any attributes and visibility.
fn declared_module(item: &str) -> Option<String> {
    let body = item.strip_suffix(';')?;
    let words: Vec<_> = body.split_whitespace().collect();
    match words.as_slice() {
        [.., "mod", name] => Some((*name).to_owned()),
        _ => None,
    }
}

/// Blanks a stretch, keeping line ends.
fn blank(text: &mut String, start: usize, end: usize) {
    let blanked: String = text[start..end].chars().flat_map(blanked).collect();
    text.replace_range(start..end, &blanked);
}

/// As many spaces as the character has bytes, so that offsets stay.
fn blanked(c: char) -> impl Iterator<Item = char> {
    let kept = if c == '\n' { '\n' } else { ' ' };
    std::iter::repeat_n(kept, c.len_utf8())
}

/// The text with comments and the insides of literals blanked.
fn masked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let literal = if word_before && c != '"' { None } else { literal_length(rest) };
        let length = literal.unwrap_or(c.len_utf8());
        if literal.is_some() {
            code.extend(rest[..length].chars().flat_map(blanked));
        } else {
            code.push(c);
        }
        rest = &rest[length..];
    }
    code
}

/// How long the comment or literal is that the text starts with.
fn literal_length(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        let (mut depth, mut at) = (0_usize, 0);
        while at < text.len() {
            match &text.as_bytes()[at..] {
                [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
                [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
                _ => at += 1,
            }
            if depth == 0 {
                break;
            }
        }
        return Some(at);
    }
    if text.starts_with('\'') {
        return character_length(text);
    }
    let prefix = text.find(|c: char| !c.is_ascii_lowercase())?;
    if !["", "b", "c", "r", "br", "cr"].contains(&&text[..prefix]) {
        return None;
    }
    let hashes = text[prefix..].bytes().take_while(|byte| *byte == b'#').count();
    let body = text[prefix + hashes..].strip_prefix('"')?;
    let start = text.len() - body.len();
    if text[..prefix].ends_with('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(body.find(&close).map_or(text.len(), |end| start + end + close.len()));
    }
    if hashes > 0 {
        return None;
    }
    let mut escaped = false;
    for (offset, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(start + offset + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// `'a'` and `'\n'` are characters, `'a` is a lifetime.
fn character_length(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next()?;
        return chars.find(|(_, c)| *c == '\'').map(|(offset, _)| offset + 1);
    }
    chars.next().filter(|(_, c)| *c == '\'').map(|(offset, _)| offset + 1)
}
