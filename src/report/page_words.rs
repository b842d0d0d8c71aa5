//! The section of the page on what became of the words that should have stayed, and how far pictures
//! moved.

use super::{
    PictureNotes, ReportError, RunReport,
    canvas::fitted,
    embed::{escaped, png_address, signed},
    encode_png,
};
use crate::{
    outcome::{
        Compared, Confidence, Distances, Interval, JudgedPicture, Measures, Picture, ScorePair,
        WordRow,
    },
    spec::ConceptKind,
};

/// Rows that show a picture before and after: those that fell most.
const MOST_PICTURES: usize = 12;
/// Side of such a picture, in pixels.
const SIDE: usize = 64;
/// Names of what a word became that are shown.
const MOST_NAMES: usize = 3;

/// A table for each verdict that has counts; `pictures` are those of the first judgement.
pub(super) fn words_section(
    report: &RunReport,
    pictures: &[JudgedPicture],
) -> Result<String, ReportError> {
    let quoted = report.headline.as_ref().map(|headline| headline.judge.as_str());
    let first = report.judges.iter().position(|verdict| Some(verdict.judge.as_str()) == quoted);
    let mut tables = String::new();
    for (index, verdict) in report.judges.iter().enumerate() {
        let Some(measures) = &verdict.measures else { continue };
        let is_first = Some(index) == first;
        let (open, shown) = if is_first { (" open", pictures) } else { ("", &pictures[..0]) };
        tables += &[
            &format!("<details{open}><summary>{}</summary>\n", escaped(&verdict.judge)),
            shares_table(measures).as_str(),
            &words_table(measures, shown)?,
            "</details>\n",
        ]
        .concat();
    }
    if tables.is_empty() {
        return Ok(String::new());
    }
    Ok(format!(
        "<section>\n<h2>What was kept</h2>\n{tables}<p class=\"note\">Intervals are at 95\u{202f}%. \
         Shares: Wilson\u{2019}s. Falls: the same prompts and seeds by both models, in pairs. Those of \
         words are bounded together, with the error split over all rows; \u{26a0} marks a word that \
         fell by more than 0.10 for certain. A word without the mark is not shown to be \
         unharmed.</p>\n{}</section>\n",
        distances_part(&report.evaluation.distances)
    ))
}

fn shares_table(measures: &Measures) -> String {
    let Measures { ua, ira, cra, ira_held, ira_unheld, words: _ } = measures;
    let rows = [
        ("UA", ua, false),
        ("IRA", ira, true),
        ("IRA, words that the training held", ira_held, true),
        ("IRA, words that it did not hold", ira_unheld, true),
        ("CRA", cra, true),
    ];
    let rows = rows.into_iter().filter(|(_, compared, _)| !compared.is_empty());
    let rows: String =
        rows.map(|(name, compared, falls)| share_row(name, *compared, falls)).collect();
    table(["Share", "n", "edited", "interval", "base", "fell by", "interval"], &rows)
}

fn share_row(name: &str, compared: Compared, falls: bool) -> String {
    let (base, edited) = (compared.base, compared.edited);
    let fall = if falls {
        let interval = compared.drop_interval(Confidence::DEFAULT.two_sided());
        format!(
            "<td>{}</td><td class=\"soft\">{}</td>",
            signed(compared.drop.drop()),
            range(interval)
        )
    } else {
        "<td></td><td></td>".to_owned()
    };
    format!(
        "<tr><th scope=\"row\">{name}</th><td>{}</td><td><b>{:.3}</b></td><td class=\"soft\">{}</td>\
         <td class=\"soft\">{:.3}</td>{fall}</tr>\n",
        edited.of,
        edited.rate(),
        range(edited.interval(Confidence::DEFAULT)),
        base.rate()
    )
}

fn words_table(measures: &Measures, pictures: &[JudgedPicture]) -> Result<String, ReportError> {
    let mut rows = String::new();
    for (place, row) in measures.by_drop().into_iter().enumerate() {
        let shown = pictures.iter().find(|judged| place < MOST_PICTURES && shows(judged, row));
        let pair = shown.map_or_else(|| Ok(String::new()), pair)?;
        rows.push_str(&word_row(measures, row, &pair));
    }
    if rows.is_empty() {
        return Ok(String::new());
    }
    Ok(table(["Word", "n", "base", "edited", "fell by", "bounds", "became"], &rows))
}

fn shows(judged: &JudgedPicture, row: &WordRow) -> bool {
    let word = match row.kind {
        ConceptKind::Style => &judged.prompt.style,
        _ => &judged.prompt.object,
    };
    !judged.is_target && word.as_ref() == Some(&row.word)
}

/// The word's first picture by both models.
fn pair(judged: &JudgedPicture) -> Result<String, ReportError> {
    let image = |picture: &Picture, when: &str| {
        let notes = PictureNotes { entries: Vec::new() };
        let png = encode_png(&fitted(picture, SIDE), &notes)?;
        Ok::<_, ReportError>(format!(
            "<img class=\"small\" alt=\"{when}\" src=\"{}\">",
            png_address(&png)
        ))
    };
    Ok(image(&judged.before, "before")? + &image(&judged.after, "after")?)
}

fn word_row(measures: &Measures, row: &WordRow, pair: &str) -> String {
    let mark = if measures.alarms(row, Confidence::DEFAULT) { "\u{26a0} " } else { "" };
    let held = match row.held {
        Some(true) | None => "",
        Some(false) => " <small class=\"soft\">not held</small>",
    };
    let became = row.became.iter().take(MOST_NAMES);
    let became: Vec<_> =
        became.map(|named| format!("{} {}", named.count, escaped(&named.name))).collect();
    format!(
        "<tr><th scope=\"row\">{mark}{}{held} {pair}</th><td>{}</td><td class=\"soft\">{:.3}</td>\
         <td><b>{:.3}</b></td><td>{}</td><td class=\"soft\">{}</td><td>{}</td></tr>\n",
        escaped(&row.word),
        row.named.edited.of,
        row.named.base.rate(),
        row.named.edited.rate(),
        signed(row.named.drop.drop()),
        range(measures.drop_of(row, Confidence::DEFAULT)),
        became.join(", ")
    )
}

fn distances_part(distances: &[Distances]) -> String {
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
    let score = |pair: Option<ScorePair>| {
        pair.map_or("–".to_owned(), |it| format!("{:.2} (base {:.2})", it.edited, it.base))
    };
    let rows: Vec<String> = distances
        .iter()
        .map(|it| {
            let moved = it.picture_distance;
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{} ({})</td><td>{}</td><td>{}</td>\
                 <td>{}</td><td>{} / {}</td></tr>\n",
                escaped(&it.features),
                it.pictures,
                number(it.cmmd),
                number(it.cmmd_of_base),
                number(it.kid.map(|kid| kid.mean)),
                score(it.clip_score),
                score(it.clip_score_of_concept),
                number(moved.map(|moved| moved.meaning)),
                number(moved.map(|moved| moved.looks)),
            )
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = [
        "Features",
        "n",
        "CMMD (base by other seeds)",
        "KID",
        "CLIP score",
        "of the concept",
        "picture distance: meaning / looks",
    ];
    format!("<h3>How far pictures moved</h3>\n{}", table(heads, &rows.concat()))
}

fn table(heads: [&str; 7], rows: &str) -> String {
    let heads = heads.map(|head| format!("<th scope=\"col\">{head}</th>")).concat();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\
         </table></div>\n"
    )
}

fn range(interval: Interval) -> String {
    format!("{:.3} to {:.3}", interval.low, interval.high).replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outcome::{EvaluationResults, Named},
        report::run_report::tests::sample_report,
        spec::Prompt,
    };

    fn report() -> RunReport {
        let mut named = Compared::default();
        (0..8).for_each(|index| named.add(true, index == 0));
        let words = ["dog", "<b>"].map(|word| WordRow {
            word: word.to_owned(),
            kind: ConceptKind::Object,
            held: Some(false),
            named,
            became: vec![Named { name: "<i>".to_owned(), count: 7 }],
            picture_distance: None,
        });
        let mut report = sample_report();
        report.judges[1].measures =
            Some(Measures { ira: named, words: words.to_vec(), ..Measures::default() });
        report
    }

    #[test]
    fn rows_have_their_pictures_and_escape_words() {
        let picture = Picture { width: 1, height: 1, rgb: vec![9; 3] };
        let judged = JudgedPicture {
            prompt: Prompt { object: Some("dog".to_owned()), ..Prompt::default() },
            seed: 0,
            is_target: false,
            before: picture.clone(),
            after: picture,
        };
        let html = words_section(&report(), &[judged]).unwrap();
        assert_eq!(html.matches("<img").count(), 2, "{html}");
        for part in ["\u{26a0} dog", "&lt;b&gt;", "7 &lt;i&gt;", "not held", "<details open>"] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("How far pictures moved"));
    }

    #[test]
    fn without_counts_there_is_no_section() {
        assert_eq!(words_section(&sample_report(), &[]).unwrap(), "");
        let mut report = report();
        let distances = Distances { features: "clip".to_owned(), ..Distances::default() };
        report.evaluation =
            EvaluationResults { distances: vec![distances], ..EvaluationResults::default() };
        assert!(words_section(&report, &[]).unwrap().contains("How far pictures moved"));
    }
}
