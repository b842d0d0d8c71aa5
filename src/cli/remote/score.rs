//! `keystep score --server`.

use std::path::Path;

use super::{
    RemoteError, block_on, connection::Connection, interrupt::Interrupt, json, print, saving,
    tables, watch::phase_progress, wire,
};
use crate::{
    cli::{CliError, progress::ProgressDisplay, score::ScoreArguments},
    proto::keystep::v1::{
        ScoreMeasure, ScoreSummary, ScoreTimestepsRequest, ScoreTimestepsResponse,
        score_timesteps_response::Update, unlearning_service_client::UnlearningServiceClient,
    },
};

/// Has the steps scored, and prints them.
pub(in crate::cli) fn run(arguments: &ScoreArguments) -> Result<(), CliError> {
    let server = arguments.place.server(&arguments.model.only_local(&[]))?;
    let request = request(arguments)?;
    let out = arguments.out.as_deref();
    if let Some(out) = out.filter(|out| std::fs::symlink_metadata(out).is_ok()) {
        let message = format!("{} exists; name another --out", out.display());
        return Err(CliError::Usage(message));
    }
    let mut interrupt = Interrupt::install()?;
    let mut display = ProgressDisplay::new(arguments.quiet.quiet);
    let asked = block_on(async {
        let connection = Connection::open(server)?;
        interrupt
            .unless(ask(&connection, request, &mut display))
            .await
            .unwrap_or_else(|| Err(RemoteError::Interrupted("nothing was written".to_owned())))
    });
    display.finish();
    let (steps, summary) = asked?;
    if let Some(out) = out {
        write(out, &summary)?;
    }
    if server.json {
        print(&json::pretty(&serde_json::json!({ "steps": steps, "summary": summary })));
    } else {
        print(&tables::scores(&steps, &summary));
        if let Some(out) = out {
            print(&format!("The scores: {}", out.join("scores.json").display()));
        }
    }
    Ok(())
}

fn request(arguments: &ScoreArguments) -> Result<ScoreTimestepsRequest, CliError> {
    let (scope, scope_name_contains) = wire::scope(&arguments.scope);
    let mut measures = vec![ScoreMeasure::GradientShare.into()];
    if !arguments.no_switch_curve {
        measures.push(ScoreMeasure::SwitchCurve.into());
    }
    Ok(ScoreTimestepsRequest {
        model: arguments.model.name()?.to_owned(),
        concept: arguments.concept.clone(),
        concept_kind: wire::kind(arguments.kind).into(),
        steps: Some(arguments.steps),
        guidance_scale: Some(arguments.guidance_scale),
        trajectories: Some(arguments.trajectories),
        seed: Some(arguments.seed),
        measures,
        scope: scope.into(),
        vocabulary: arguments.vocabulary.given()?.map(wire::vocabulary),
        scope_name_contains,
    })
}

/// Follows a measurement to its end; dropping this ends the work.
pub(super) async fn ask(
    connection: &Connection,
    request: ScoreTimestepsRequest,
    display: &mut ProgressDisplay,
) -> Result<(Vec<ScoreTimestepsResponse>, ScoreSummary), RemoteError> {
    let mut stream = connection
        .repeatable(&request, async |channel, request| {
            UnlearningServiceClient::new(channel).score_timesteps(request).await
        })
        .await?;
    let mut steps = Vec::new();
    let mut summary = None;
    while let Some(message) = stream.message().await.map_err(|status| connection.refused(status))? {
        match message.update {
            None => steps.push(message),
            Some(Update::QueuePosition(ahead)) => display.note(&format!("waiting, {ahead} ahead")),
            Some(Update::Progress(progress)) => display.show(phase_progress(&progress)),
            Some(Update::Summary(last)) => summary = Some(last),
        }
    }
    let summary = summary.ok_or_else(|| RemoteError::Answer("no summary came".to_owned()))?;
    Ok((steps, summary))
}

fn write(out: &Path, summary: &ScoreSummary) -> Result<(), RemoteError> {
    if summary.scores_json.is_empty() {
        return Err(RemoteError::Answer("no scores came to be written".to_owned()));
    }
    std::fs::create_dir(out).map_err(|source| saving::unwritable(out, source))?;
    saving::save(&out.join("scores.json"), summary.scores_json.as_bytes(), false)
}
