//! Sections of the page: figures, words and tables.

use super::{
    PhaseCost, ReportError, RunReport,
    embed::{duration, escaped, grouped, memory, signed},
    plot::short_number,
};
use crate::{
    outcome::{Confidence, Measures, Share, TimestepScores, TrainingLog, Verdict},
    spec::StepIndex,
};

/// Who forgot what, by which method, at what seed.
pub(super) fn lead(report: &RunReport) -> String {
    let scope = serde_json::to_value(&report.spec.scope)
        .ok()
        .and_then(|value| value.as_str().map(|name| name.replace('_', " ")))
        .unwrap_or_else(|| "named tensors".to_owned());
    format!(
        "<p class=\"lead\">Model <b>{}</b>, method <b>{}</b>, scope <b>{}</b>, seed <b>{}</b></p>\n",
        escaped(&report.model),
        report.spec.method.name().name(),
        escaped(&scope),
        report.spec.seed
    )
}

/// The three figures in large, and every judge's table.
pub(super) fn figures_section(report: &RunReport) -> String {
    let Some(headline) = &report.headline else { return String::new() };
    let quoted = report.judges.iter().find(|verdict| verdict.judge == headline.judge);
    let counted = quoted.and_then(|verdict| verdict.measures.as_ref());
    let share = |of: fn(&Measures) -> Share| counted.map(of);
    let tiles = [
        ("Forgotten", "UA", headline.edited.ua, headline.base.ua, share(|it| it.ua.edited)),
        (
            "Kept, same domain",
            "IRA",
            headline.edited.ira,
            headline.base.ira,
            share(|it| it.ira.edited),
        ),
        (
            "Kept, other domain",
            "CRA",
            headline.edited.cra,
            headline.base.cra,
            share(|it| it.cra.edited),
        ),
    ];
    let tiles = tiles.map(|(name, short, edited, base, share)| {
        let proves = share.map_or_else(String::new, |share| {
            let interval = share.interval(Confidence::DEFAULT);
            format!("; {} pictures prove {:.3} to {:.3}", share.of, interval.low, interval.high)
        });
        format!(
            "<div class=\"tile\"><span>{name}</span><strong>{edited:.3}</strong>\
             <small>{short} by {}; base {base:.3}{proves}</small></div>\n",
            escaped(&headline.judge)
        )
    });
    let heads =
        ["UA", "IRA", "CRA"].map(|short| format!("<th>{short}</th><th>base</th><th>change</th>"));
    let rows: Vec<String> = report.judges.iter().map(verdict_row).collect();
    let sampler = report.judges.first().map_or("", |verdict| verdict.sampler.name());
    format!(
        "<section>\n<div class=\"tiles\">\n{}</div>\n<div class=\"scroll\"><table>\n\
         <thead><tr><th>Judge</th>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>\n\
         <p class=\"note\">UA: share of the concept\u{2019}s pictures that the judge does not take \
         for the concept. IRA and CRA: the judge\u{2019}s accuracy on the other words of the same \
         domain and on the other domain. Both models drew the same prompts from the same seeds with \
         the sampler {sampler}; \
         higher is better for all three, and the base model\u{2019}s IRA and CRA are what there was \
         to keep.</p>\n</section>\n",
        tiles.concat(),
        heads.concat(),
        rows.concat(),
    )
}

fn verdict_row(verdict: &Verdict) -> String {
    let (edited, base) = (verdict.edited, verdict.base);
    let cells =
        [(edited.ua, base.ua), (edited.ira, base.ira), (edited.cra, base.cra)].map(|pair| {
            format!(
                "<td><b>{:.3}</b></td><td class=\"soft\">{:.3}</td><td class=\"soft\">{}</td>",
                pair.0,
                pair.1,
                signed(pair.0 - pair.1)
            )
        });
    format!("<tr><th>{}</th>{}</tr>\n", escaped(&verdict.judge), cells.concat())
}

/// The window and how it was chosen.
pub(super) fn score_words(scores: &TimestepScores) -> String {
    let (first, last) = scores.window_steps;
    let levels = format!("{:.2} to {:.2}", scores.window.low, scores.window.high);
    format!(
        "<p>Recommended window: steps <b>{} to {}</b> of {}, log-SNR {}. \
         How it was chosen: {}.</p>\n",
        first.0,
        last.0,
        scores.steps.len(),
        levels.replace('-', "\u{2212}"),
        escaped(scores.rule.trim_end_matches('.'))
    )
}

/// What the training measured, in sentences.
pub(super) fn training_words(log: &TrainingLog) -> String {
    let ended = if log.stopped_early {
        "It stopped early, because the concept was gone."
    } else {
        "It ran to its last update."
    };
    format!(
        "<p><b>{}</b> updates at {} (learning rate {}). {ended} Of the concept\u{2019}s guidance \
         <b>{:.2}</b> is left (1 untouched, 0 neutral, below 0 steered away); unrelated predictions \
         moved by <b>{}</b> of it; the trained weights changed by <b>{} %</b>.</p>\n",
        log.updates.len(),
        key_step_words(&log.key_steps),
        short_number(log.learning_rate),
        log.erase_measure,
        short_number(log.damage_measure),
        short_number(log.weight_change * 100.0),
    )
    .replace(">-", ">\u{2212}")
}

/// "steps 2 to 9" where they are contiguous, else all of them.
fn key_step_words(steps: &[StepIndex]) -> String {
    let contiguous = steps.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
    match steps {
        [] => "no step".to_owned(),
        [only] => format!("step {}", only.0),
        [first, .., last] if contiguous => format!("steps {} to {}", first.0, last.0),
        _ => {
            let named: Vec<String> = steps.iter().map(|step| step.0.to_string()).collect();
            format!("steps {}", named.join(", "))
        }
    }
}

/// What the run cost, part by part.
pub(super) fn cost_section(report: &RunReport) -> String {
    let row = |name: &str, cost: PhaseCost| {
        format!(
            "<tr><th>{name}</th><td>{}</td><td>{}</td></tr>\n",
            grouped(cost.unet_evaluations),
            cost.seconds.map_or_else(|| "–".to_owned(), |seconds| unbroken(&duration(seconds)))
        )
    };
    let peak = report.peak_rss_bytes.map_or_else(String::new, |bytes| {
        format!(" Peak memory: <b>{}</b>.", unbroken(&memory(bytes)))
    });
    let time = report.seconds.map_or_else(String::new, |seconds| {
        let seconds = unbroken(&duration(seconds));
        format!("; the whole run, judging included, <b>{seconds}</b>")
    });
    let rows = [
        ("Scoring", report.cost.scoring),
        ("Erasing", report.cost.erasing),
        ("Judging", report.cost.judging),
    ]
    .into_iter()
    .filter(|(_, cost)| cost.unet_evaluations > 0 || cost.seconds.is_some_and(|s| s > 0.0))
    .map(|(name, cost)| row(name, cost))
    .collect::<String>();
    format!(
        "<section>\n<h2>Cost</h2>\n<p>The erasure took <b>{}</b> single-sample U-Net \
         evaluations{time}.{peak}</p>\n<div class=\"scroll\"><table \
         class=\"narrow\">\n<thead><tr><th>Part</th><th>U-Net evaluations</th><th>time</th></tr>\
         </thead>\n<tbody>\n{rows}</tbody></table></div>\n</section>\n",
        grouped(report.unet_evaluations),
    )
}

/// Spec, seeds, digests and versions: what another needs to get the same bytes.
pub(super) fn facts_section(report: &RunReport) -> Result<String, ReportError> {
    let spec = serde_json::to_string_pretty(&report.spec)?;
    let seeds = serde_json::to_string(&report.seeds)?;
    let list = |entries: &std::collections::BTreeMap<String, String>| {
        entries
            .iter()
            .map(|(name, text)| {
                format!("<dt>{}</dt><dd><code>{}</code></dd>\n", escaped(name), escaped(text))
            })
            .collect::<Vec<_>>()
            .concat()
    };
    Ok(format!(
        "<section>\n<h2>To repeat it</h2>\n<p>The same spec, seed and device give the same \
         bytes.</p>\n<details><summary>Spec</summary><pre>{}</pre></details>\n<dl>\n\
         <dt>seeds</dt><dd><code>{}</code></dd>\n{}</dl>\n<h3>Digests (SHA-256)</h3>\n<dl>\n{}\
         </dl>\n{}</section>\n",
        escaped(&spec),
        escaped(&seeds),
        list(&report.versions),
        list(&report.digests),
        left_out_words(&report.left_out),
    ))
}

/// Which of the base's files the result goes without.
fn left_out_words(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let names: Vec<String> =
        names.iter().map(|name| format!("<li><code>{}</code></li>\n", escaped(name))).collect();
    format!(
        "<h3>Left out</h3>\n<p>Files of the base model that are no part of its pipeline:</p>\n\
         <ul>\n{}</ul>\n",
        names.concat()
    )
}

/// A number and its unit stay on one line.
fn unbroken(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_steps_are_named_shortly() {
        let words = |steps: &[usize]| {
            key_step_words(&steps.iter().copied().map(StepIndex).collect::<Vec<_>>())
        };
        assert_eq!(
            [words(&[]), words(&[4]), words(&[2, 3, 4]), words(&[2, 4])],
            ["no step", "step 4", "steps 2 to 4", "steps 2, 4"]
        );
    }
}
