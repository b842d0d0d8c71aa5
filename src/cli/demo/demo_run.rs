//! What the demo asks of the daemon, and in which order.

use crate::{
    catalogue::BUILTIN,
    cli::{
        CliError,
        arguments::MethodArguments,
        progress::ProgressDisplay,
        remote::{Client, wire},
        timing::Stopwatch,
    },
    proto::keystep::v1::{
        OutputFormat, ScoreMeasure, ScoreSummary, ScoreTimestepsRequest, UnlearnConceptRequest,
        UnlearnConceptResponse, unlearn_concept_request::WindowSource,
    },
    spec::{Concept, ConceptKind, JudgeSpec, Method, Scope},
};

/// A concept to be scored and erased.
#[derive(Debug)]
pub(super) struct DemoRun {
    concept: Concept,
    method: Method,
    scope: Scope,
    seed: u64,
}

/// The daemon's answers to the calls of a demo.
#[derive(Debug)]
pub(super) struct DemoAnswers {
    pub(super) scores: ScoreSummary,
    /// Seconds that the scoring took.
    pub(super) scoring_seconds: f64,
    pub(super) erased: UnlearnConceptResponse,
}

impl DemoRun {
    /// Checks what can be checked without a model.
    pub(super) fn new(
        concept: Concept,
        arguments: &MethodArguments,
        seed: u64,
    ) -> Result<Self, CliError> {
        concept.validate()?;
        let (mut method, scope) = arguments.preset(concept.kind, false);
        if arguments.learning_rate.is_none() {
            set_canvas_rate(&mut method, concept.kind);
        }
        method.validate()?;
        Ok(Self { concept, method, scope, seed })
    }

    /// Has everything checked, then scored, then erased, judged and published.
    pub(super) async fn run(
        &self,
        client: Client,
        display: &mut ProgressDisplay,
    ) -> Result<DemoAnswers, CliError> {
        let mut request = self.erasure();
        // All of it before any work, so that a wrong word is refused at once.
        client.check(&request).await?;
        let words = client.vocabulary(BUILTIN).await?;
        JudgeSpec::new(self.concept.clone(), words).validate()?;

        let stopwatch = Stopwatch::start();
        let scores = client.score(self.scoring(), display).await?;
        let scoring_seconds = stopwatch.seconds();
        if let Method::Keystep(_) = self.method {
            request.window_source = Some(WindowSource::ScoreDigest(scores.score_digest.clone()));
        }
        let erased = client.unlearn(&request, display).await?;
        Ok(DemoAnswers { scores, scoring_seconds, erased })
    }

    fn scoring(&self) -> ScoreTimestepsRequest {
        let (scope, scope_name_contains) = wire::scope(&self.scope);
        ScoreTimestepsRequest {
            model: BUILTIN.to_owned(),
            concept: self.concept.text.clone(),
            concept_kind: wire::kind(self.concept.kind).into(),
            seed: Some(self.seed),
            measures: vec![ScoreMeasure::GradientShare.into(), ScoreMeasure::SwitchCurve.into()],
            scope: scope.into(),
            scope_name_contains,
            ..ScoreTimestepsRequest::default()
        }
    }

    /// Without a window: that one comes from the scores.
    fn erasure(&self) -> UnlearnConceptRequest {
        let concept = &self.concept.text;
        let (scope, scope_name_contains) = wire::scope(&self.scope);
        let (updates, learning_rate) = match &self.method {
            Method::Keystep(settings) => (settings.updates, settings.relative_rate),
            Method::Kscu(settings) => (settings.updates, settings.learning_rate),
            Method::Esd(settings) => (settings.updates, settings.learning_rate),
        };
        let replacement = self.concept.replacement.iter();
        UnlearnConceptRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            base_model: BUILTIN.to_owned(),
            concepts: vec![concept.clone()],
            concept_kind: wire::kind(self.concept.kind).into(),
            seed: Some(self.seed),
            replacements: replacement.map(|text| (concept.clone(), text.clone())).collect(),
            scope: scope.into(),
            scope_name_contains,
            method: wire::method(self.method.name()).into(),
            updates: Some(u32::try_from(updates).unwrap_or(u32::MAX)),
            learning_rate: Some(learning_rate),
            output_formats: vec![OutputFormat::Delta.into(), OutputFormat::Pipeline.into()],
            evaluate: Some(true),
            ..UnlearnConceptRequest::default()
        }
    }
}

/// The published rate of 1e-5 hardly moves so small a model: the published methods run at the best
/// of the rates that were tried on it (`docs/figures.md`). Keystep derives its own.
fn set_canvas_rate(method: &mut Method, kind: ConceptKind) {
    match method {
        Method::Keystep(_) => {}
        Method::Kscu(settings) => {
            settings.learning_rate = if kind == ConceptKind::Style { 3e-4 } else { 3e-5 };
        }
        Method::Esd(settings) => {
            settings.learning_rate = if kind == ConceptKind::Style { 1e-3 } else { 3e-4 };
        }
    }
}
