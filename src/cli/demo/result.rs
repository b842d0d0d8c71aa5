//! From what the daemon published to the demo's result folder.

use std::{collections::BTreeMap, path::PathBuf};

use serde::de::DeserializeOwned;
use url::Url;

use super::demo_run::Found;
use crate::{
    cli::{CliError, remote::RemoteError, result_folder::versions, staging::Staging},
    outcome::{
        TimestepScores, TrainingLog,
        result_layout::{
            CHECKPOINT, CONTACT_SHEET, DELTA, PIPELINE, REPORT, REPORT_PAGE, SCORE_PLOT, SCORES,
            TRAINING,
        },
    },
    proto::keystep::v1::UnlearnConceptResponse,
    report::{PhaseCost, ReportPage, RunReport, score_plot, training_plot},
    spec::Method,
};

/// Published beside the manifest, whose words it refers to; it would be wrong here.
const MODEL_CARD: &str = "README.md";

/// What the folder must hold to be a result.
pub(super) const EXPECTED: [&str; 9] = [
    "checkpoint/model_index.json",
    "checkpoint/unet/diffusion_pytorch_model.safetensors",
    DELTA,
    REPORT,
    REPORT_PAGE,
    SCORES,
    SCORE_PLOT,
    CONTACT_SHEET,
    TRAINING,
];

/// What the whole run took: published reports know no clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub(super) seconds: f64,
    pub(super) peak_rss_bytes: Option<u64>,
}

/// Writes the folder; gives the report that lies in it.
pub(super) fn write(
    found: &Found,
    spent: Spent,
    staging: &mut Staging,
) -> Result<RunReport, CliError> {
    // Those that the page and the report are made of anew.
    let mut read = BTreeMap::new();
    for (name, path) in published(&found.erased)? {
        let bytes = std::fs::read(&path).map_err(|source| CliError::File { path, source })?;
        match name.as_str() {
            REPORT_PAGE | MODEL_CARD => continue,
            REPORT => {}
            _ => staging.write(&name_here(&name), &bytes)?,
        }
        if [REPORT, CONTACT_SHEET, SCORES, SCORE_PLOT, TRAINING].contains(&name.as_str()) {
            read.insert(name, bytes);
        }
    }
    let scores: TimestepScores = parsed(SCORES, found.scores.scores_json.as_bytes())?;
    // The published methods cite no scores; here they are shown all the same.
    if !read.contains_key(SCORES) {
        staging.write(SCORES, format!("{}\n", found.scores.scores_json).as_bytes())?;
    }
    let plot = if let Some(plot) = read.remove(SCORE_PLOT) {
        plot
    } else {
        let plot = score_plot(&scores)?;
        staging.write(SCORE_PLOT, &plot)?;
        plot
    };
    let log: TrainingLog = parsed(TRAINING, bytes_of(&read, TRAINING)?)?;
    let report = restated(parsed(REPORT, bytes_of(&read, REPORT)?)?, found, &scores, spent);
    staging.write(REPORT, &report.to_json()?)?;
    let page = ReportPage {
        report: &report,
        log: &log,
        scores: Some(&scores),
        sheet_png: Some(bytes_of(&read, CONTACT_SHEET)?),
        score_plot_png: Some(&plot),
        training_plot_png: Some(&training_plot(&log)?),
    };
    staging.write(REPORT_PAGE, page.render()?.as_bytes())?;
    Ok(report)
}

/// The report with what the daemon does not know: the scoring, which was a call of its own, and
/// what the clock and this machine say.
fn restated(
    published: RunReport,
    found: &Found,
    scores: &TimestepScores,
    spent: Spent,
) -> RunReport {
    let mut report = published;
    let scoring = found.scores.unet_evaluations;
    report.cost.scoring =
        PhaseCost { unet_evaluations: scoring, seconds: Some(found.scoring_seconds) };
    // The published methods read no scores: for them it is no cost of the erasure.
    if matches!(report.spec.method, Method::Keystep(_)) {
        report.unet_evaluations += scoring;
    }
    report.seeds.score = Some(scores.spec.seed);
    report.seconds = Some(spent.seconds);
    report.peak_rss_bytes = spent.peak_rss_bytes;
    report.versions = versions();
    let digests = std::mem::take(&mut report.digests).into_iter();
    report.digests = digests.map(|(name, digest)| (name_here(&name), digest)).collect();
    report
}

/// The published files by name. They lie in a folder that is named after their content, beside the
/// manifest.
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

/// A published file's name in the demo's folder, where the pipeline becomes the checkpoint.
fn name_here(name: &str) -> String {
    match name.strip_prefix(PIPELINE).and_then(|rest| rest.strip_prefix('/')) {
        Some(rest) => format!("{CHECKPOINT}/{rest}"),
        None => name.to_owned(),
    }
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
        let names: Vec<_> = found.iter().map(|(name, _)| name_here(name)).collect();
        assert_eq!(names, ["report.json", "checkpoint/unet/config.json"]);
        response.files[0].uri = "file:///elsewhere/0f/report.json".to_owned();
        assert!(published(&response).is_err());
    }
}
