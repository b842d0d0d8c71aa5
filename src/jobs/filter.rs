//! The filter of `ListOperations`: the part of AIP-160 that an index can answer.
//!
//! ```text
//! filter = term { "AND" term }
//! term   = "state" "=" ( state | "(" state { "OR" state } ")" )
//!        | ( "kind" | "base_model" | "labels." name ) "=" text
//! text   = a word, or anything between quotes with \" and \\ inside
//! ```

use std::{collections::BTreeMap, str::FromStr};

use super::{ListQuery, StateName};

/// Which jobs to list, as a client wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// In one of these states; empty means any.
    pub states: Vec<StateName>,
    /// "unlearn" or "evaluate".
    pub kind: Option<String>,
    /// With these labels.
    pub labels: BTreeMap<String, String>,
    /// On this base model.
    pub base_model: Option<String>,
}

impl Filter {
    /// Kinds of work that can be asked for.
    pub const KINDS: [&str; 2] = ["unlearn", "evaluate"];

    /// Sets the filter's part of a query.
    pub fn narrow(self, query: &mut ListQuery) {
        query.states = self.states;
        query.kind = self.kind;
        query.labels = self.labels;
        query.base_model = self.base_model;
    }
}

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the filter fails at character {position}: {found}; {allowed}")]
pub struct FilterError {
    /// Character of the filter, from 1.
    pub position: usize,
    /// What was found instead.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

/// Most terms: as many as a job may have labels.
const MOST_TERMS: usize = 64;

/// The longest filter: room for as many labels of the longest kind.
const MOST_CHARACTERS: usize = 32_768;

const FIELDS: &str = "fields are state, kind, base_model and labels.NAME, joined by AND, such as \
                      state = (QUEUED OR RUNNING) AND labels.team = \"x\"";

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        // As bytes first, which cost nothing to count.
        let characters = if text.len() > MOST_CHARACTERS { text.chars().count() } else { 0 };
        if characters > MOST_CHARACTERS {
            return Err(FilterError {
                position: MOST_CHARACTERS + 1,
                found: format!("it has {characters} characters"),
                allowed: format!("at most {MOST_CHARACTERS} are allowed; ask for fewer labels"),
            });
        }
        let mut tokens = Tokens { rest: text, position: 1 };
        let mut filter = Self::default();
        let mut token = tokens.next()?;
        if token.part == Part::End {
            return Ok(filter);
        }
        let mut terms = 0;
        loop {
            terms += 1;
            if terms > MOST_TERMS {
                return Err(FilterError {
                    position: token.position,
                    found: format!("term {terms} begins there"),
                    allowed: format!(
                        "at most {MOST_TERMS} terms are allowed; ask for fewer labels"
                    ),
                });
            }
            read_term(&mut filter, &token, &mut tokens)?;
            let joint = tokens.next()?;
            match &joint.part {
                Part::End => return Ok(filter),
                Part::Word(word) if word == "AND" => token = tokens.next()?,
                _ => return Err(joint.refused("only AND may join terms")),
            }
        }
    }
}

fn read_term(
    filter: &mut Filter,
    name: &Token,
    tokens: &mut Tokens<'_>,
) -> Result<(), FilterError> {
    let Part::Word(field) = &name.part else { return Err(name.refused(FIELDS)) };
    let is_known = ["state", "kind", "base_model", "labels"].contains(&field.as_str());
    if !is_known {
        return Err(name.refused(FIELDS));
    }
    let label = if field == "labels" { Some(read_label(tokens)?) } else { None };
    let sign = tokens.next()?;
    if sign.part != Part::Sign('=') {
        return Err(sign.refused("only = compares"));
    }
    let twice = || name.refused("each field may be named once; give several states as (A OR B)");
    match (field.as_str(), label) {
        ("state", _) => {
            if !filter.states.is_empty() {
                return Err(twice());
            }
            filter.states = read_states(tokens)?;
        }
        ("kind", _) => {
            let value = tokens.next()?;
            let kind = value.text()?;
            if !Filter::KINDS.contains(&kind.as_str()) {
                return Err(value.refused("kinds are unlearn and evaluate"));
            }
            if filter.kind.replace(kind).is_some() {
                return Err(twice());
            }
        }
        (_, Some(label)) => {
            if filter.labels.insert(label, tokens.next()?.text()?).is_some() {
                return Err(twice());
            }
        }
        _ => {
            if filter.base_model.replace(tokens.next()?.text()?).is_some() {
                return Err(twice());
            }
        }
    }
    Ok(())
}

fn read_label(tokens: &mut Tokens<'_>) -> Result<String, FilterError> {
    let dot = tokens.next()?;
    if dot.part != Part::Sign('.') {
        return Err(dot.refused("labels is followed by a dot and a name, such as labels.team"));
    }
    tokens.next()?.text()
}

fn read_states(tokens: &mut Tokens<'_>) -> Result<Vec<StateName>, FilterError> {
    let first = tokens.next()?;
    if first.part != Part::Sign('(') {
        return Ok(vec![first.state()?]);
    }
    let mut states = vec![tokens.next()?.state()?];
    loop {
        let joint = tokens.next()?;
        match &joint.part {
            Part::Sign(')') => return Ok(states),
            Part::Word(word) if word == "OR" => {
                let state = tokens.next()?.state()?;
                if !states.contains(&state) {
                    states.push(state);
                }
            }
            _ => return Err(joint.refused("states are joined by OR and end with a parenthesis")),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Word(String),
    Quoted(String),
    Sign(char),
    End,
}

#[derive(Debug)]
struct Token {
    part: Part,
    position: usize,
}

impl Token {
    fn refused(&self, allowed: &str) -> FilterError {
        let found = match &self.part {
            Part::Word(word) => format!("\"{}\" cannot stand there", shortened(word)),
            Part::Quoted(text) => format!("the text \"{}\" cannot stand there", shortened(text)),
            Part::Sign(sign) => format!("\"{sign}\" cannot stand there"),
            Part::End => "it ends too early".to_owned(),
        };
        FilterError { position: self.position, found, allowed: allowed.to_owned() }
    }

    fn text(&self) -> Result<String, FilterError> {
        match &self.part {
            Part::Word(text) | Part::Quoted(text) => Ok(text.clone()),
            _ => Err(self.refused("a word or a text between quotes is wanted")),
        }
    }

    fn state(&self) -> Result<StateName, FilterError> {
        let name = match &self.part {
            Part::Word(text) | Part::Quoted(text) => {
                text.strip_prefix("JOB_STATE_").unwrap_or(text)
            }
            _ => "",
        };
        let is_named = |state: &StateName| state.name().to_uppercase() == name;
        StateName::ALL.iter().copied().find(is_named).ok_or_else(|| {
            let names: Vec<_> =
                StateName::ALL.iter().map(|state| state.name().to_uppercase()).collect();
            self.refused(&format!("states are {}", names.join(", ")))
        })
    }
}

/// A message repeats no more of a client's text than helps to find the place.
fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

struct Tokens<'a> {
    rest: &'a str,
    position: usize,
}

impl Tokens<'_> {
    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        self.position += 1;
        Some(next)
    }

    fn next(&mut self) -> Result<Token, FilterError> {
        while self.rest.starts_with(char::is_whitespace) {
            self.take();
        }
        let position = self.position;
        let part = match self.rest.chars().next() {
            None => Part::End,
            Some('"' | '\'') => Part::Quoted(self.quoted(position)?),
            Some(first) if is_of_word(first) => {
                let mut word = String::new();
                while self.rest.starts_with(is_of_word) {
                    word.extend(self.take());
                }
                Part::Word(word)
            }
            Some(sign) => {
                self.take();
                Part::Sign(sign)
            }
        };
        Ok(Token { part, position })
    }

    fn quoted(&mut self, position: usize) -> Result<String, FilterError> {
        let quote = self.take();
        let mut text = String::new();
        loop {
            match self.take() {
                None => {
                    return Err(FilterError {
                        position,
                        found: "the quote is never closed".to_owned(),
                        allowed: "a text ends with the quote that it began with".to_owned(),
                    });
                }
                end if end == quote => return Ok(text),
                Some('\\') => text.extend(self.take()),
                Some(other) => text.push(other),
            }
        }
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> Filter {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_field_is_read() {
        let read = filter(
            "state = RUNNING AND kind = \"unlearn\" AND labels.team = \"x\" AND base_model = \"a/b\"",
        );
        assert_eq!(read.states, [StateName::Running]);
        assert_eq!(read.kind.as_deref(), Some("unlearn"));
        assert_eq!(read.labels, BTreeMap::from([("team".to_owned(), "x".to_owned())]));
        assert_eq!(read.base_model.as_deref(), Some("a/b"));
        let mut query = ListQuery { limit: 7, ..ListQuery::default() };
        read.clone().narrow(&mut query);
        assert_eq!((query.states, query.labels, query.limit), (read.states, read.labels, 7));
    }

    #[test]
    fn several_states_and_quotes_are_read() {
        let both = [StateName::Queued, StateName::Running];
        assert_eq!(filter("state=(QUEUED OR RUNNING OR QUEUED)").states, both);
        assert_eq!(filter("state = JOB_STATE_FAILED").states, [StateName::Failed]);
        assert_eq!(filter("  "), Filter::default());
        let labels = filter(r#"labels."a b" = 'it\'s' AND labels.c-d=x"#).labels;
        assert_eq!(labels["a b"], "it's");
        assert_eq!(labels["c-d"], "x");
    }

    #[test]
    fn a_refusal_names_the_place_and_what_may_stand_there() {
        for (text, position, allowed) in [
            ("color = red", 1, "fields are"),
            ("state = LATE", 9, "states are QUEUED, PREPARING"),
            ("state = running", 9, "states are QUEUED"),
            ("state != RUNNING", 7, "only = compares"),
            ("kind = \"draw\"", 8, "unlearn and evaluate"),
            ("kind = unlearn OR kind = evaluate", 16, "only AND"),
            ("kind = unlearn kind = evaluate", 16, "only AND"),
            ("kind = unlearn AND kind = evaluate", 20, "named once"),
            ("kind = unlearn AND", 19, "fields are"),
            ("labels = x", 8, "a dot and a name"),
            ("state = (QUEUED RUNNING)", 17, "joined by OR"),
            ("state = ()", 10, "states are"),
            ("base_model = \"ä", 14, "the quote that it began with"),
            ("labels.ä = (", 12, "a word or a text"),
            ("NOT state = RUNNING", 1, "fields are"),
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert_eq!(error.position, position, "{text}: {error}");
            assert!(error.allowed.contains(allowed), "{text}: {error}");
        }
    }

    #[test]
    fn a_filter_has_limits() {
        let labels = |count: usize| {
            let terms = (0..count).map(|index| format!("labels.a{index} = b"));
            terms.collect::<Vec<_>>().join(" AND ")
        };
        assert_eq!(filter(&labels(64)).labels.len(), 64);
        for count in [65, 900] {
            let error = labels(count).parse::<Filter>().unwrap_err();
            assert_eq!(error.position, labels(64).len() + " AND ".len() + 1, "{error}");
            assert!(error.to_string().contains("term 65"), "{error}");
            assert!(error.to_string().contains("at most 64"), "{error}");
        }
        // The longest labels that a job may have, as many as it may have.
        let longest = (0..64).map(|index| {
            format!("labels.\"{}{index:02}\" = \"{}\"", "ä".repeat(61), "ü".repeat(256))
        });
        filter(&longest.collect::<Vec<_>>().join(" AND "));
        let states = format!("state = (QUEUED{})", " OR QUEUED".repeat(10_000));
        let error = states.parse::<Filter>().unwrap_err().to_string();
        assert!(error.contains("characters") && error.contains("32768"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<Filter>();
        }

        #[test]
        fn no_likely_text_panics(
            parts in proptest::collection::vec(
                prop::sample::select(vec![
                    "state", "=", "(", ")", "OR", "AND", "RUNNING", "labels", ".", "\"", "\\", "'",
                    "kind", "unlearn", " ", "ä", "base_model", "\0",
                ]),
                0..16,
            ),
        ) {
            let text = parts.concat();
            if let Err(error) = text.parse::<Filter>() {
                prop_assert!(error.position <= text.chars().count() + 1);
            }
        }

        #[test]
        fn what_is_quoted_comes_back(value in "\\PC{0,30}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let read = filter(&format!("labels.a = \"{quoted}\""));
            prop_assert_eq!(&read.labels["a"], &value);
        }
    }
}
