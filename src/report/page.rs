//! The report page: one HTML file with everything inside, to be opened, mailed or archived.

use super::{
    ReportError, RunReport,
    embed::{escaped, png_address},
    page_parts::{cost_section, facts_section, figures_section, lead, score_words, training_words},
    page_words::words_section,
};
use crate::outcome::{JudgedPicture, TimestepScores, TrainingLog};

const STYLE: &str = include_str!("page.css");

/// What a page is made of.
#[derive(Debug, Clone, Copy)]
pub struct ReportPage<'a> {
    /// Figures, cost, spec, digests and versions.
    pub report: &'a RunReport,
    /// The whole training.
    pub log: &'a TrainingLog,
    /// The scores that chose the window, where some were measured.
    pub scores: Option<&'a TimestepScores>,
    /// The pictures of the first judgement, where there are any, for the rows of words.
    pub pictures: &'a [JudgedPicture],
    /// PNG of [`super::contact_sheet`].
    pub sheet_png: Option<&'a [u8]>,
    /// PNG of [`super::score_plot`].
    pub score_plot_png: Option<&'a [u8]>,
    /// PNG of [`super::training_plot`].
    pub training_plot_png: Option<&'a [u8]>,
}

impl ReportPage<'_> {
    /// The page's HTML. Needs no script and refers to nothing outside itself.
    pub fn render(&self) -> Result<String, ReportError> {
        let title = format!("Keystep: {} forgotten", self.concepts());
        let safe_title = escaped(&title);
        // The policy is belt and braces beside the escaping: this page may load and run nothing.
        Ok([
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             img-src data:; style-src 'unsafe-inline'\">\n<title>",
            safe_title.as_str(),
            "</title>\n<style>\n",
            STYLE,
            "</style>\n</head>\n<body>\n<main>\n<header>\n<h1>",
            safe_title.as_str(),
            "</h1>\n",
            &lead(self.report),
            "</header>\n",
            &figures_section(self.report),
            &words_section(self.report, self.pictures)?,
            &self.sheet_section(),
            &self.score_section(),
            &self.training_section(),
            &cost_section(self.report),
            &facts_section(self.report)?,
            "</main>\n</body>\n</html>\n",
        ]
        .concat())
    }

    fn concepts(&self) -> String {
        let quoted: Vec<String> = self
            .report
            .spec
            .concepts
            .iter()
            .map(|concept| format!("\u{201c}{}\u{201d}", concept.text))
            .collect();
        match quoted.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            _ => quoted.concat(),
        }
    }

    fn sheet_section(&self) -> String {
        self.sheet_png.map_or_else(String::new, |png| {
            let figure = figure(png, "Pictures of both models for the same prompts and seeds");
            format!("<section>\n<h2>Before and after</h2>\n{figure}</section>\n")
        })
    }

    fn score_section(&self) -> String {
        let words = self.scores.map_or_else(String::new, score_words);
        let plot = self
            .score_plot_png
            .map_or_else(String::new, |png| figure(png, "Scores of each denoising step"));
        section("Key steps", &(words + &plot))
    }

    fn training_section(&self) -> String {
        let plot = self
            .training_plot_png
            .map_or_else(String::new, |png| figure(png, "Loss and gradient norm of each update"));
        section("Training", &(training_words(self.log) + &plot))
    }
}

fn section(title: &str, content: &str) -> String {
    if content.is_empty() {
        String::new()
    } else {
        format!("<section>\n<h2>{title}</h2>\n{content}</section>\n")
    }
}

fn figure(png: &[u8], description: &str) -> String {
    format!(
        "<figure><img alt=\"{}\" src=\"{}\"></figure>\n",
        escaped(description),
        png_address(png)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{
            run_report::tests::sample_report, score_plot, score_plot::tests::sample_scores,
            training_plot, training_plot::tests::sample_log,
        },
        spec::{Concept, ConceptKind},
    };

    fn page_of(report: &RunReport) -> String {
        let (log, scores) = (sample_log(240), sample_scores(true));
        let plots = (score_plot(&scores).unwrap(), training_plot(&log).unwrap());
        ReportPage {
            report,
            log: &log,
            scores: Some(&scores),
            pictures: &[],
            sheet_png: None,
            score_plot_png: Some(&plots.0),
            training_plot_png: Some(&plots.1),
        }
        .render()
        .unwrap()
    }

    #[test]
    fn the_page_tells_the_outcome_and_refers_to_nothing_outside() {
        let page = page_of(&sample_report());
        for part in ["Keystep: \u{201c}cat\u{201d} forgotten", "0.969", "cnn", "1.2\u{a0}GiB"] {
            assert!(page.contains(part), "{part}");
        }
        for reference in ["http://", "https://", "<script", "<link", "url("] {
            assert!(!page.contains(reference), "{reference}");
        }
    }

    #[test]
    fn texts_of_users_are_escaped() {
        let mut report = sample_report();
        let hostile = "<script>alert('x')</script>";
        report.spec.concepts = vec![Concept::new(hostile, ConceptKind::Object)];
        report.spec.preserve = vec![hostile.to_owned()];
        report.model = format!("\"{hostile}");
        report.judges[0].judge = hostile.to_owned();
        report.digests.insert(hostile.to_owned(), hostile.to_owned());
        report.left_out = vec![hostile.to_owned()];
        let page = page_of(&report);
        assert!(!page.contains("<script"), "a text of the user came through");
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn a_run_without_judge_and_scores_has_a_page_too() {
        let mut report = sample_report();
        report.headline = None;
        report.judges.clear();
        report.spec.concepts.push(Concept::new("dog", ConceptKind::Object));
        let log = sample_log(3);
        let page = ReportPage {
            report: &report,
            log: &log,
            scores: None,
            pictures: &[],
            sheet_png: None,
            score_plot_png: None,
            training_plot_png: None,
        };
        let html = page.render().unwrap();
        assert!(html.contains("\u{201c}cat\u{201d} and \u{201c}dog\u{201d} forgotten"));
        assert!(!html.contains("Before and after"));
    }
}
