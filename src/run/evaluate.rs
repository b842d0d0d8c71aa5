//! One judgement, from two models to the files that show it.

use std::{collections::BTreeMap, io::Write};

use super::{
    DeviceEngine, RunError, RunPorts, Undertaking,
    judging::{judge, verdicts},
    ports::versions,
};
use crate::{
    artifacts::{StagedFolder, digest::digest_named},
    outcome::{
        DeviceKind, FinishedResult, JudgeReport,
        result_layout::{CONTACT_SHEET, REPORT},
    },
    report::{EvaluationReport, Headline, ReportError, contact_sheet},
    spec::JudgeSpec,
};

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct EvaluateRequest<'a> {
    /// How the base model is named in the result.
    pub base_model: &'a str,
    /// How the edited model is named in the result.
    pub edited_model: &'a str,
    /// What is drawn, and how it is judged.
    pub spec: &'a JudgeSpec,
    /// Bytes of judges' weights that the loaded models are not counted with.
    pub judge_bytes: u64,
}

/// A judgement, and all that its files are made of.
#[derive(Debug)]
pub struct Judgement {
    /// The figures.
    pub report: EvaluationReport,
    judged: JudgeReport,
    device: DeviceKind,
}

/// Judges an edited model beside its base. Blocking.
pub fn evaluate<E: DeviceEngine>(
    request: &EvaluateRequest<'_>,
    base: &E,
    edited: &E,
    ports: &mut RunPorts<'_>,
) -> Result<Judgement, RunError> {
    ports.admit(base, [(Undertaking::Judge(request.spec), request.judge_bytes)])?;
    let judged = judge(base, edited, request.spec, ports)?;
    ports.check()?;
    let report = EvaluationReport {
        headline: Headline::of(&judged.verdicts),
        judges: judged.verdicts.clone(),
        unet_evaluations: judged.unet_evaluations,
        seconds: ports.seconds(),
        peak_rss_bytes: ports.peak_rss_bytes(),
        model: request.edited_model.to_owned(),
        base: request.base_model.to_owned(),
        spec: judged.spec.clone(),
        versions: versions(ports.measurements),
        evaluation: judged.evaluation.clone(),
    };
    Ok(Judgement { report, judged, device: base.device_kind() })
}

impl Judgement {
    /// Pictures of both models beside each other, as PNG.
    pub fn sheet(&self) -> Result<Vec<u8>, ReportError> {
        let JudgeReport { spec, pictures, .. } = &self.judged;
        contact_sheet(pictures, &spec.vocabulary, &spec.concept)
    }

    /// Writes the result folder, which is not committed yet. `work_digest` says which work it is
    /// the result of.
    pub fn write(
        &self,
        work_digest: &str,
        staged: &mut StagedFolder,
    ) -> Result<FinishedResult, RunError> {
        let mut files = Vec::new();
        for (name, bytes) in [(REPORT, self.report.to_json()?), (CONTACT_SHEET, self.sheet()?)] {
            staged.write(name, |out: &mut dyn Write| out.write_all(&bytes))?;
            files.push(digest_named(name, &bytes));
        }
        files.sort_by(|left, right| left.name.cmp(&right.name));
        let judged = &self.judged;
        Ok(FinishedResult {
            work_digest: work_digest.to_owned(),
            files,
            verdicts: verdicts(judged).collect(),
            key_steps: Vec::new(),
            window: None,
            updates: 0,
            unet_evaluations: judged.unet_evaluations,
            training: None,
            seeds: BTreeMap::from([("judge".to_owned(), judged.spec.seed)]),
            device: self.device,
            left_out: Vec::new(),
            evaluation: judged.evaluation.clone(),
            ancestors: Vec::new(),
        })
    }
}
