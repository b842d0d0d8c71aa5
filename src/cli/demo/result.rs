//! Makes the demo's result folder of what the daemon published.

use std::{collections::BTreeMap, path::PathBuf};

use serde::de::DeserializeOwned;
use url::Url;

use super::demo_run::DemoAnswers;
use crate::{
    cli::{CliError, output::Staging, remote::RemoteError},
    outcome::{
        TimestepScores, TrainingLog,
        result_layout::{CONTACT_SHEET, DELTA, REPORT, REPORT_PAGE, SCORE_PLOT, SCORES, TRAINING},
    },
    proto::keystep::v1::UnlearnConceptResponse,
    report::{PhaseCost, ReportPage, RunReport, score_plot, training_plot},
    run::{Measurements, versions},
    spec::Method,
};

/// The published file that refers to the manifest, and would be wrong here.
const MODEL_CARD: &str = "README.md";

/// The parts of a result folder.
pub(super) const EXPECTED: [&str; 9] = [
    "pipeline/model_index.json",
    "pipeline/unet/diffusion_pytorch_model.safetensors",
    DELTA,
    REPORT,
    REPORT_PAGE,
    SCORES,
    SCORE_PLOT,
    CONTACT_SHEET,
    TRAINING,
];

/// Writes the folder, and returns its report, with what the whole run took: published reports know
/// no clock.
pub(super) fn write(
    answers: &DemoAnswers,
    spent: &dyn Measurements,
    staging: &mut Staging,
) -> Result<RunReport, CliError> {
    // Those that the page and the report are made of anew.
    let mut read = BTreeMap::new();
    for (name, path) in published(&answers.erased)? {
        let bytes = std::fs::read(&path).map_err(|source| CliError::File { path, source })?;
        match name.as_str() {
            REPORT_PAGE | MODEL_CARD => continue,
            REPORT => {}
            _ => staging.write(&name, &bytes)?,
        }
        if [REPORT, CONTACT_SHEET, SCORES, SCORE_PLOT, TRAINING].contains(&name.as_str()) {
            read.insert(name, bytes);
        }
    }
    let scores: TimestepScores = parsed(SCORES, answers.scores.scores_json.as_bytes())?;
    // The published methods cite no scores; here they are shown all the same.
    if !read.contains_key(SCORES) {
        staging.write(SCORES, format!("{}\n", answers.scores.scores_json).as_bytes())?;
    }
    let plot = if let Some(plot) = read.remove(SCORE_PLOT) {
        plot
    } else {
        let plot = score_plot(&scores)?;
        staging.write(SCORE_PLOT, &plot)?;
        plot
    };
    let log: TrainingLog = parsed(TRAINING, bytes_of(&read, TRAINING)?)?;
    let report = restated(parsed(REPORT, bytes_of(&read, REPORT)?)?, answers, &scores, spent);
    staging.write(REPORT, &report.to_json()?)?;
    let page = ReportPage {
        report: &report,
        log: &log,
        scores: Some(&scores),
        pictures: &[],
        sheet_png: Some(bytes_of(&read, CONTACT_SHEET)?),
        score_plot_png: Some(&plot),
        training_plot_png: Some(&training_plot(&log)?),
    };
    staging.write(REPORT_PAGE, page.render()?.as_bytes())?;
    Ok(report)
}

/// The report with what the published one lacks: the cost of scoring, which was a call of its own, and
/// the times and memory of this run.
fn restated(
    published: RunReport,
    answers: &DemoAnswers,
    scores: &TimestepScores,
    spent: &dyn Measurements,
) -> RunReport {
    let mut report = published;
    let scoring = answers.scores.unet_evaluations;
    report.cost.scoring =
        PhaseCost { unet_evaluations: scoring, seconds: Some(answers.scoring_seconds) };
    // The published methods read no scores: for them it is no cost of the erasure.
    if matches!(report.spec.method, Method::Keystep(_)) {
        report.unet_evaluations += scoring;
    }
    report.seeds.score = Some(scores.spec.seed);
    report.seconds = Some(spent.seconds());
    report.peak_rss_bytes = spent.peak_rss_bytes();
    report.versions = versions(Some(spent));
    report
}

/// The published files by name. They are in a folder beside the manifest that is named after their
/// content.
fn published(response: &UnlearnConceptResponse) -> Result<Vec<(String, PathBuf)>, CliError> {
    let wrong = |uri: &str| RemoteError::Answer(format!("{uri} is no published file"));
    let manifest = &response.manifest_uri;
    let folder = manifest.rsplit_once('/').ok_or_else(|| wrong(manifest))?.0;
    let mut files = Vec::new();
    for file in &response.files {
        let uri = &file.uri;
        let name = uri.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        let name = name.and_then(|name| name.split_once('/')).ok_or_else(|| wrong(uri))?.1;
        let path = Url::parse(uri).ok().and_then(|url| url.to_file_path().ok());
        files.push((name.to_owned(), path.ok_or_else(|| wrong(uri))?));
    }
    Ok(files)
}

fn bytes_of<'a>(read: &'a BTreeMap<String, Vec<u8>>, name: &str) -> Result<&'a [u8], RemoteError> {
    let bytes = read.get(name).map(Vec::as_slice);
    bytes.ok_or_else(|| RemoteError::Answer(format!("{name} was not published")))
}

fn parsed<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, RemoteError> {
    serde_json::from_slice(bytes).map_err(|error| RemoteError::Answer(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::keystep::v1::PublishedFile;

    #[test]
    fn files_are_named_as_in_their_folder() {
        let root = if cfg!(windows) { "file:///C:/a%20b" } else { "file:///a%20b" };
        let file = |name: &str| PublishedFile {
            uri: format!("{root}/1/0f/{name}"),
            ..PublishedFile::default()
        };
        let mut response = UnlearnConceptResponse {
            manifest_uri: format!("{root}/1/manifest.json"),
            files: vec![file("report.json"), file("pipeline/unet/config.json")],
            ..UnlearnConceptResponse::default()
        };
        let found = published(&response).unwrap();
        assert!(found[1].1.ends_with("a b/1/0f/pipeline/unet/config.json"), "{found:?}");
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["report.json", "pipeline/unet/config.json"]);
        response.files[0].uri = "file:///elsewhere/0f/report.json".to_owned();
        assert!(published(&response).is_err());
    }
}
