//! `keystep gate --server`: has a server judge, as often as a policy allows, and holds the figures
//! against it.

use super::{
    RemoteError, block_on,
    connection::Connection,
    evaluation,
    interrupt::Interrupt,
    json,
    submit::{JobSubmission, verdict},
    wire,
};
use crate::{
    cli::{
        CliError,
        arguments::needed,
        gate::{Gate, GateArguments, GateFigures, spec_of_look},
    },
    proto::keystep::v1::{
        EvaluateErasureRequest, EvaluateErasureResponse, GetModelRequest,
        Vocabulary as WireVocabulary, unlearning_service_client::UnlearningServiceClient,
    },
    spec::{Concept, JudgeSpec, Vocabulary},
};

/// Submits the judgements, waits for them, and gives the policy's verdict.
pub(in crate::cli) fn run(arguments: &GateArguments) -> Result<(), CliError> {
    arguments.server.address().map_err(|error| {
        let more = if cfg!(feature = "server") { ", --local or --report" } else { " or --report" };
        CliError::Usage(format!("{error}{more}"))
    })?;
    let only_local = arguments.model.only_local(&[]);
    if let Some((flag, _)) = only_local.iter().find(|(_, given)| *given) {
        return Err(CliError::Usage(format!("{flag} is for --local; leave it out")));
    }
    if arguments.submit.ends_early() {
        return Err(CliError::Usage(
            "--no-wait and --validate-only give no figures to decide by; leave them out".to_owned(),
        ));
    }
    let base = needed(arguments.base.as_deref(), "--base", "--server")?;
    let asked = Asked {
        arguments,
        edited: arguments.edited()?,
        base,
        concept: arguments.concept("--server")?,
        vocabulary: arguments.judging.vocabulary.given()?,
    };
    let gate = Gate::prepare(arguments)?;
    let mut interrupt = Interrupt::install()?;
    let verdict = block_on(async {
        let connection = Connection::open(&arguments.server)?;
        let first = match interrupt.unless(asked.first_spec(&connection)).await {
            Some(spec) => spec?,
            None => return Err(RemoteError::Interrupted("nothing was submitted".to_owned())),
        };
        let first =
            JudgeSpec { distances: gate.reads_distances(), attacks: gate.attacks(), ..first };
        let mut spec = first.clone();
        let mut look = 1;
        let mut attacks = Vec::new();
        loop {
            let mut figures = asked.judge(&connection, &mut interrupt, &spec, look).await?;
            if look == 1 {
                attacks.clone_from(&figures.evaluation.attacks);
            } else {
                figures.evaluation.attacks.clone_from(&attacks);
            }
            let verdict = gate.decide(&figures, look);
            match spec_of_look(&first, look + 1) {
                Some(more) if gate.looks_again(&verdict) => spec = more,
                _ => return Ok(verdict),
            }
            look += 1;
        }
    })?;
    gate.conclude(&verdict)
}

/// What is to be judged.
struct Asked<'a> {
    arguments: &'a GateArguments,
    edited: &'a str,
    base: &'a str,
    concept: Concept,
    vocabulary: Option<Vocabulary>,
}

impl Asked<'_> {
    /// The first look. How many pictures the server would draw by default follows from the words.
    async fn first_spec(&self, connection: &Connection) -> Result<JudgeSpec, RemoteError> {
        let words = if let Some(words) = &self.vocabulary {
            words.clone()
        } else {
            let request = GetModelRequest { name: self.base.to_owned() };
            let answer = connection
                .repeatable(&request, async |channel, request| {
                    UnlearningServiceClient::new(channel).get_model(request).await
                })
                .await?;
            let words = answer.model.and_then(|model| model.vocabulary);
            let WireVocabulary { anything, objects, styles } = words.unwrap_or_default();
            Vocabulary { anything, objects, styles }
        };
        let mut spec = JudgeSpec::new(self.concept.clone(), words);
        self.arguments.judging.adjust(&mut spec);
        Ok(spec)
    }

    /// One judgement, from the request to its figures.
    async fn judge(
        &self,
        connection: &Connection,
        interrupt: &mut Interrupt,
        spec: &JudgeSpec,
        look: usize,
    ) -> Result<GateFigures, RemoteError> {
        let request = self.request(spec, look);
        let submission = JobSubmission {
            server: &self.arguments.server,
            json: false,
            submit: &self.arguments.submit,
            request_id: &request.request_id,
            quiet: self.arguments.quiet.quiet,
        };
        let submitted = submission
            .submit(connection, interrupt, &request, async |channel, request| {
                UnlearningServiceClient::new(channel).evaluate_erasure(request).await
            })
            .await?;
        let operation = submission.follow(connection, interrupt, submitted.name).await?;
        verdict(&operation)?;
        let mut response = json::response::<EvaluateErasureResponse>(&operation)?
            .ok_or_else(|| RemoteError::Answer("the judgement has no response".to_owned()))?;
        let judges = std::mem::take(&mut response.verdicts).into_iter();
        Ok(GateFigures {
            model: self.edited.to_owned(),
            base: self.base.to_owned(),
            concept: self.concept.text.clone(),
            judges: judges
                .map(|it| (it.judge, it.measures.as_ref().map(evaluation::measures)))
                .collect(),
            evaluation: evaluation::results(&response)?,
        })
    }

    fn request(&self, spec: &JudgeSpec, look: usize) -> EvaluateErasureRequest {
        let submission = self.arguments.submit.submission();
        // The id that was given is that of the first look; a later one asks for other work.
        let request_id =
            if look == 1 { submission.request_id } else { uuid::Uuid::new_v4().to_string() };
        let arguments = self.arguments;
        EvaluateErasureRequest {
            request_id,
            base_model: self.base.to_owned(),
            edited_model: self.edited.to_owned(),
            concept: self.concept.text.clone(),
            concept_kind: wire::kind(self.concept.kind).into(),
            vocabulary: self.vocabulary.clone().map(wire::vocabulary),
            target_seeds: u32::try_from(spec.target_seeds).ok(),
            retain_seeds: u32::try_from(spec.retain_seeds).ok(),
            steps: arguments.judging.steps,
            guidance_scale: arguments.judging.guidance_scale,
            seed: Some(arguments.judging.seed),
            labels: submission.labels,
            deadline: submission.deadline,
            priority: submission.priority,
            force: submission.force,
            validate_only: false,
            destination: submission.destination,
            sampler: wire::sampler(arguments.judging.sampler.sampler).into(),
            show: None,
            distances: spec.distances,
            suites: Vec::new(),
            probes: None,
            judges: arguments.judging.judge.clone(),
            attacks: spec.attacks.iter().map(wire::attack).collect(),
        }
    }
}
