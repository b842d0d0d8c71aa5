//! What judging counted and measured, as tables for the terminal.

use std::fmt::Write;

use super::text_table::columns;
use crate::outcome::{
    Compared, Confidence, Distances, Interval, Measures, ScorePair, Share, WordRow,
};

/// Rows of words that a terminal shows; reports have them all.
const MOST_ROWS: usize = 10;
/// Names of what a word became that are shown.
const MOST_NAMES: usize = 2;

/// What one judge counted: shares with their intervals, then the words that fell most.
pub(super) fn measures_table(judge: &str, measures: &Measures) -> String {
    let heading = [judge, "n", "edited", "95 %", "base", "fell by", "95 %"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let Measures { ua, ira, cra, ira_held, ira_unheld, words: _ } = measures;
    for (name, compared, falls) in [
        ("UA", ua, false),
        ("IRA", ira, true),
        ("  words held", ira_held, true),
        ("  words not held", ira_unheld, true),
        ("CRA", cra, true),
    ] {
        if !compared.is_empty() {
            rows.push(share_row(name, *compared, falls));
        }
    }
    let mut text = columns(&rows);
    let fallen: Vec<&WordRow> = measures.by_drop();
    if fallen.is_empty() {
        return text;
    }
    let heading = ["word", "n", "base", "edited", "fell by", "at once", "became"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(fallen.iter().take(MOST_ROWS).map(|row| word_row(measures, row)));
    text.push_str("\n\n");
    text.push_str(&columns(&rows));
    if let Some(next) = fallen.get(MOST_ROWS) {
        let (more, most) = (fallen.len() - MOST_ROWS, next.named.drop.drop());
        let _ = write!(text, "\n{more} more words fell by {most:.3} or less");
    }
    if fallen.iter().any(|row| measures.alarms(row, Confidence::DEFAULT)) {
        text.push_str("\n! fell by more than 0.10 for certain, with all words read at once");
    }
    text
}

/// How far pictures moved, by each judge that has features.
pub(super) fn distances_table(distances: &[Distances]) -> String {
    let heading =
        ["distances", "n", "CMMD", "of base", "KID", "CLIP score", "base", "meaning", "looks"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
    let score = |pair: Option<ScorePair>, part: fn(ScorePair) -> f64| number(pair.map(part));
    rows.extend(distances.iter().map(|it| {
        vec![
            it.features.clone(),
            it.pictures.to_string(),
            number(it.cmmd),
            number(it.cmmd_of_base),
            number(it.kid.map(|kid| kid.mean)),
            score(it.clip_score, |pair| pair.edited),
            score(it.clip_score, |pair| pair.base),
            number(it.picture_distance.map(|moved| moved.meaning)),
            number(it.picture_distance.map(|moved| moved.looks)),
        ]
    }));
    columns(&rows)
}

fn share_row(name: &str, compared: Compared, falls: bool) -> Vec<String> {
    let Compared { base, edited, drop } = compared;
    let mut row = vec![
        name.to_owned(),
        edited.of.to_string(),
        rate(edited),
        range(edited.interval(Confidence::DEFAULT)),
        rate(base),
    ];
    if falls {
        let interval = compared.drop_interval(Confidence::DEFAULT.two_sided());
        row.extend([format!("{:.3}", drop.drop()), range(interval)]);
    }
    row
}

fn word_row(measures: &Measures, row: &WordRow) -> Vec<String> {
    let alarm = if measures.alarms(row, Confidence::DEFAULT) { "! " } else { "" };
    let became = row.became.iter().take(MOST_NAMES);
    let became: Vec<_> = became.map(|named| format!("{} {}", named.count, named.name)).collect();
    vec![
        format!("{alarm}{}", row.word),
        row.named.edited.of.to_string(),
        rate(row.named.base),
        rate(row.named.edited),
        format!("{:.3}", row.named.drop.drop()),
        range(measures.drop_of(row, Confidence::DEFAULT)),
        became.join(", "),
    ]
}

fn rate(share: Share) -> String {
    format!("{:.3}", share.rate())
}

fn range(interval: Interval) -> String {
    format!("{:.3} to {:.3}", interval.low, interval.high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outcome::Named, spec::ConceptKind};

    fn compared(of: u64, lost: u64) -> Compared {
        let mut compared = Compared::default();
        (0..of).for_each(|index| compared.add(true, index >= lost));
        compared
    }

    #[test]
    fn a_figure_is_shown_with_what_it_proves() {
        let mut ua = Compared::default();
        (0..32).for_each(|_| ua.add(false, true));
        let row = |index: u64| WordRow {
            word: format!("word {index}"),
            kind: ConceptKind::Object,
            held: None,
            named: compared(8, if index == 7 { 8 } else { 0 }),
            became: vec![Named { name: "dog".to_owned(), count: 8 }],
            picture_distance: None,
        };
        let measures = Measures {
            ua,
            ira: compared(96, 8),
            words: (0..12).map(row).collect(),
            ..Measures::default()
        };
        let table = measures_table("cnn", &measures);
        for part in ["0.893 to 1.000", "! word 7", "8 dog", "2 more words fell by 0.000 or less"] {
            assert!(table.contains(part), "{part} is not in\n{table}");
        }
        // Of the other domain nothing was counted, and the training's words are not known.
        assert!(!table.contains("CRA") && !table.contains("held"), "{table}");
        let first = table.lines().find(|line| line.contains("word")).unwrap();
        assert!(first.starts_with("word "), "{table}");
        assert_eq!(measures_table("cnn", &Measures::default()).lines().count(), 1);
    }
}
