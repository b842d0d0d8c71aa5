//! Reads a policy from its file in TOML.

use std::{collections::HashMap, fmt::Write};

use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use super::{
    Bound, Date, JudgeChoice, Measure, Policy, PolicyError, Rule, RuleKind, Severity, Side, Target,
    Waiver,
    toml_table::{Reader, Table, kind, shown},
};
use crate::outcome::{AttackName, Confidence};

const MOST_BYTES: usize = 1 << 20;
const MOST_RULES: usize = 200;
/// Characters of a name, an id or a reason.
const MOST_CHARACTERS: usize = 200;
/// Pictures double from look to look, and a share of the error goes to each.
const MOST_LOOKS: u64 = 8;
const SCHEMA: u64 = 1;

const POLICY_KEYS: &[&str] = &["schema", "name", "confidence", "looks", "rule"];
const RULE_KEYS: &[&str] = &[
    "id", "measure", "judge", "of", "kind", "at_least", "at_most", "attack", "budget", "severity",
    "waive",
];
const WAIVER_KEYS: &[&str] = &["until", "reason"];

impl Policy {
    /// Reads a policy's file. Every violation is in the error.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MOST_BYTES {
            return Err(PolicyError::one(format!(
                "it has {} bytes, and a policy has {MOST_BYTES} at most",
                bytes.len()
            )));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            PolicyError::one(format!("it is not UTF-8 from byte {} on", error.valid_up_to()))
        })?;
        let mut reader = Reader::new(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map(|span| reader.line(&span));
            reader.add(line, format!("it is not TOML: {}", error.message()));
        }
        // A table that was read in part would only give violations that are none.
        let read = if reader.found.is_empty() {
            read_policy(table.get_ref(), sha256(bytes), &mut reader)
        } else {
            None
        };
        let mut violations = reader.found;
        match read {
            Some(policy) if violations.is_empty() => Ok(policy),
            _ => {
                violations.sort_by_key(|violation| violation.line);
                Err(PolicyError { violations })
            }
        }
    }
}

/// SHA-256, hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read_policy(entries: &DeTable<'_>, sha256: String, reader: &mut Reader<'_>) -> Option<Policy> {
    let table = Table::new(entries, 1, POLICY_KEYS, reader);
    let schema = table.whole("schema", 0..=u64::MAX, reader);
    if let Some(schema) = table.needed("schema", schema, reader)
        && schema != SCHEMA
    {
        let line = table.line_of("schema", reader);
        reader.add(line, format!("schema {schema} is not known; this version reads {SCHEMA}"));
    }
    let name = bounded_text(table, "name", reader);
    let name = table.needed("name", name, reader);
    let confidence = match table.number("confidence", reader) {
        None => Confidence::DEFAULT,
        Some(level) => Confidence::new(level).unwrap_or_else(|| {
            let line = table.line_of("confidence", reader);
            reader.add(line, format!("confidence {level} is not between 0 and 1"));
            Confidence::DEFAULT
        }),
    };
    let looks = table.whole("looks", 1..=MOST_LOOKS, reader).unwrap_or(1);
    let rules = read_rules(table, reader);
    Some(Policy {
        name: name?.to_owned(),
        confidence,
        looks: looks as usize,
        rules: rules?,
        sha256,
    })
}

fn read_rules(table: Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Vec<Rule>> {
    let list = match table.get("rule").map(|value| (value.get_ref(), value.span())) {
        None => {
            reader.add(None, "there is no [[rule]], so that it would let everything through");
            return None;
        }
        Some((DeValue::Array(list), _)) => list,
        Some((other, span)) => {
            let line = reader.line(&span);
            reader.add(line, format!("rule is {}; write each rule below [[rule]]", kind(other)));
            return None;
        }
    };
    if list.is_empty() || list.len() > MOST_RULES {
        let line = table.line_of("rule", reader);
        reader.add(line, format!("{} rules are outside 1 to {MOST_RULES}", list.len()));
    }
    let mut lines_of_ids = HashMap::new();
    let mut rules = Vec::new();
    for value in list {
        let line = reader.line(&value.span());
        let DeValue::Table(entries) = value.get_ref() else {
            reader.add(line, format!("a rule is {}, and should be a table", kind(value.get_ref())));
            continue;
        };
        let table = Table::new(entries, line, RULE_KEYS, reader);
        let rule = read_rule(table, reader);
        if let Some(id) = table.get("id").and_then(|id| id.get_ref().as_str()) {
            let line = table.line_of("id", reader);
            if let Some(first) = lines_of_ids.insert(id.to_owned(), line) {
                reader.add(line, format!("the id {} is taken by line {first}", shown(id)));
            }
        }
        rules.extend(rule);
    }
    Some(rules)
}

fn read_rule(table: Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Rule> {
    let id = bounded_text(table, "id", reader);
    let id = table.needed("id", id, reader);
    let measure = table.name::<Measure>("measure", reader);
    let measure = table.needed("measure", measure, reader);
    let judge = match bounded_text(table, "judge", reader) {
        None | Some("each") => JudgeChoice::Each,
        Some(name) => JudgeChoice::Named(name.to_owned()),
    };
    let kind = table.name("kind", reader).unwrap_or(RuleKind::Proof);
    let severity = table.name("severity", reader).unwrap_or(Severity::Error);
    let bound = read_bound(table, measure, reader);
    let of = measure.and_then(|measure| read_target(table, measure, reader));
    let budget = table.whole("budget", 1..=u64::MAX, reader);
    let is_of_attack = matches!(of, Some(Target::Attack(_)));
    if table.get("budget").is_some() && of.is_some() && !is_of_attack {
        let line = table.line_of("budget", reader);
        reader.add(line, "budget is for rules with an attack; leave it out");
    }
    let waive = read_waiver(table, reader);
    Some(Rule {
        id: id?.to_owned(),
        line: table.line,
        measure: measure?,
        judge,
        of: of?,
        kind,
        bound: bound?,
        budget,
        severity,
        waive,
    })
}

fn read_bound(
    table: Table<'_, '_>,
    measure: Option<Measure>,
    reader: &mut Reader<'_>,
) -> Option<Bound> {
    let sides = [Side::AtLeast, Side::AtMost];
    let given: Vec<_> = sides.into_iter().filter(|side| table.get(side.key()).is_some()).collect();
    let limits = given.iter().map(|side| table.number(side.key(), reader)).collect::<Vec<_>>();
    let ([side], [limit]) = (given.as_slice(), limits.as_slice()) else {
        let both = if given.is_empty() { "neither at_least nor" } else { "both at_least and" };
        reader.add(table.line, format!("a rule has {both} at_most; give it one of them"));
        return None;
    };
    let (limit, measure) = ((*limit)?, measure?);
    let line = table.line_of(side.key(), reader);
    let (name, well) = (measure.name(), measure.side());
    if *side != well {
        let (wrong, right) = (side.key(), well.key());
        reader.add(line, format!("{wrong} would demand harm of {name}; limit it by {right}"));
    }
    let (low, high) = measure.range();
    if !(low..=high).contains(&limit) {
        reader.add(line, format!("{limit} is outside {low} to {high}, which {name} lies in"));
    }
    Some(Bound { side: *side, limit })
}

/// What the measure is taken of, from `of` and `attack`.
fn read_target(table: Table<'_, '_>, measure: Measure, reader: &mut Reader<'_>) -> Option<Target> {
    let of = bounded_text(table, "of", reader);
    let attack = table.name::<AttackName>("attack", reader);
    let has_wrong = |key, value: bool| table.get(key).is_some() && !value;
    if has_wrong("of", of.is_some()) || has_wrong("attack", attack.is_some()) {
        return None;
    }
    let name = measure.name();
    let mut refuse = |key: &str, remedy: &str| {
        let line = table.line_of(key, reader);
        reader.add(line, remedy.to_owned());
        None
    };
    match (measure, of, attack) {
        (Measure::Damage, None | Some("each-neighbour"), None) => Some(Target::EachNeighbour),
        (Measure::Damage, Some(word), None) => Some(Target::Word(word.to_owned())),
        (Measure::Relearning, None, None) => Some(Target::Attack(AttackName::RelearningFewShot)),
        (Measure::Relearning, None, Some(attack)) if !is_training(attack) => refuse(
            "attack",
            "relearning is of the attacks relearning-few-shot and relearning-benign",
        ),
        (Measure::AttackSuccess | Measure::Relearning, None, Some(attack)) => {
            Some(Target::Attack(attack))
        }
        (Measure::AttackSuccess, Some("each-suite"), None) => Some(Target::EachSuite),
        (Measure::AttackSuccess, Some(suite), None) => Some(Target::Suite(suite.to_owned())),
        (Measure::AttackSuccess, _, _) => refuse(
            "attack",
            "attack-success needs either the name of an attack, or of = a suite's name or \
             \"each-suite\"",
        ),
        (_, None, None) => Some(Target::Whole),
        (_, Some(_), _) => refuse("of", &format!("of means nothing for {name}; leave it out")),
        (_, None, Some(_)) => {
            refuse("attack", &format!("attack means nothing for {name}; leave it out"))
        }
    }
}

fn is_training(attack: AttackName) -> bool {
    matches!(attack, AttackName::RelearningFewShot | AttackName::RelearningBenign)
}

fn read_waiver(table: Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Waiver> {
    let value = table.get("waive")?;
    let line = reader.line(&value.span());
    let DeValue::Table(entries) = value.get_ref() else {
        reader.add(
            line,
            format!(
                "waive is {}; write waive = {{ until = \"2027-03-31\", reason = \"…\" }}",
                kind(value.get_ref())
            ),
        );
        return None;
    };
    let waiver = Table::new(entries, line, WAIVER_KEYS, reader);
    let reason = bounded_text(waiver, "reason", reader);
    let reason = waiver.needed("reason", reason, reader);
    let until = read_date(waiver, reader);
    let until = waiver.needed("until", until, reader);
    Some(Waiver { until: until?, reason: reason?.to_owned() })
}

/// A day as a string or as TOML's own date.
fn read_date(table: Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Date> {
    let text = match table.get("until").map(toml::Spanned::get_ref) {
        Some(DeValue::Datetime(date)) => date.to_string(),
        _ => table.text("until", reader)?.to_owned(),
    };
    let date = text.parse::<Date>();
    if let Err(message) = &date {
        let line = table.line_of("until", reader);
        reader.add(line, format!("until {message}"));
    }
    date.ok()
}

fn bounded_text<'a>(table: Table<'a, '_>, key: &str, reader: &mut Reader<'_>) -> Option<&'a str> {
    let text = table.text(key, reader)?;
    if text.chars().count() <= MOST_CHARACTERS {
        return Some(text);
    }
    let line = table.line_of(key, reader);
    reader.add(line, format!("{key} {} has over {MOST_CHARACTERS} characters", shown(text)));
    None
}
