//! Interactive calls as response streams: a call's work ends when its stream is dropped.

use std::{collections::VecDeque, sync::Arc};

use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tonic::Status;

use super::{
    ApiError, ApiParts, ApiResult,
    convert::{
        DrawingDraft, ScoreDraft, finished, previewed, progress_of_call, step_score, summary,
    },
    digests::{digest, logged},
    violations::Violations,
};
use crate::{
    auth::Caller,
    device::{InteractiveCall, InteractiveStream, InteractiveUpdate},
    jobs::{JobStore, Principal, ScoresJson, StoredScores},
    outcome::{Drawn, Picture, TimestepScores},
    proto::keystep::v1::{
        GenerateRequest, GenerateResponse, ScoreTimestepsRequest, ScoreTimestepsResponse,
        generate_response, score_timesteps_response,
    },
    report::{PictureNotes, encode_png},
};

/// Messages of a stream.
pub(super) type Messages<T> = BoxStream<'static, Result<T, Status>>;

/// Turns an update of the device into messages.
type Reader<T> =
    Box<dyn FnMut(InteractiveUpdate) -> BoxFuture<'static, ApiResult<Vec<T>>> + Send + 'static>;

/// A call under way.
struct Call<T> {
    parts: Arc<ApiParts>,
    /// Dropped with the call, which cancels the work.
    stream: InteractiveStream,
    read: Reader<T>,
    ready: VecDeque<T>,
    is_over: bool,
}

impl<T> Call<T> {
    async fn next(&mut self) -> Option<Result<T, Status>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(Ok(message));
            }
            if self.is_over {
                return None;
            }
            match self.advance().await {
                Ok(true) => {}
                Ok(false) => self.is_over = true,
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error.into()));
                }
            }
        }
    }

    /// Takes one update; says whether there was one.
    async fn advance(&mut self) -> ApiResult<bool> {
        let update = tokio::select! {
            () = self.parts.draining.cancelled() => return Err(ApiError::Draining),
            update = self.stream.next() => update,
        };
        let Some(update) = update else { return Ok(false) };
        self.ready.extend((self.read)(update?).await?);
        Ok(true)
    }
}

fn messages<T: Send + 'static>(
    parts: &Arc<ApiParts>,
    caller: &Caller,
    call: InteractiveCall,
    read: Reader<T>,
) -> ApiResult<Messages<T>> {
    let stream = parts.interactive_calls.submit(&caller.principal, call)?;
    let parts = parts.clone();
    let call = Call { parts, stream, read, ready: VecDeque::new(), is_over: false };
    let next = |mut call: Call<T>| async { call.next().await.map(|message| (message, call)) };
    Ok(stream::unfold(call, next).boxed())
}

/// Draws: positions, steps and previews, then each picture.
pub(super) async fn generate(
    parts: &Arc<ApiParts>,
    caller: &Caller,
    request: GenerateRequest,
) -> ApiResult<Messages<GenerateResponse>> {
    let draft = read_drawing(parts, caller, request).await?;
    parts.check_model(caller, &draft.model).await?;
    let prompts = draft.spec.pictures.first().map(|(prompt, _)| prompt.as_str());
    let prompt = logged(prompts, parts.settings.log_prompts);
    let pictures = draft.spec.pictures.len();
    tracing::info!(model = draft.model, prompt, pictures, "pictures are drawn");
    let call = InteractiveCall::Generate {
        model: draft.model.clone(),
        spec: draft.spec.clone(),
        preview_every: draft.preview_every,
    };
    let draft = Arc::new(draft);
    messages(parts, caller, call, Box::new(move |update| Box::pin(drawn(draft.clone(), update))))
}

/// A picture takes long enough to be read to hold up other calls.
async fn read_drawing(
    parts: &Arc<ApiParts>,
    caller: &Caller,
    request: GenerateRequest,
) -> ApiResult<DrawingDraft> {
    if request.init_image.is_empty() {
        return DrawingDraft::read(request, parts.limits(caller));
    }
    let (parts, caller) = (parts.clone(), caller.clone());
    let read =
        tokio::task::spawn_blocking(move || DrawingDraft::read(request, parts.limits(&caller)));
    read.await.map_err(|_| ApiError::Internal("a picture's reading ended early"))?
}

async fn drawn(
    draft: Arc<DrawingDraft>,
    update: InteractiveUpdate,
) -> ApiResult<Vec<GenerateResponse>> {
    use generate_response::Update;
    let of = |update| GenerateResponse { update: Some(update), ..GenerateResponse::default() };
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(vec![match update {
        InteractiveUpdate::Position(ahead) => of(Update::QueuePosition(small(ahead))),
        InteractiveUpdate::Progress(progress) => GenerateResponse {
            steps_total: small(progress.total),
            ..of(Update::StepsDone(small(progress.done)))
        },
        InteractiveUpdate::Drawn(Drawn::Preview { index, picture }) => {
            let png = encoded(picture, PictureNotes::default()).await?;
            previewed(index, draft.seed(index), png)
        }
        InteractiveUpdate::Drawn(Drawn::Picture { index, picture }) => {
            let png = encoded(picture, draft.notes(index)).await?;
            finished(index, draft.seed(index), png)
        }
        InteractiveUpdate::Scores(_) | InteractiveUpdate::Plan(_) => return Ok(Vec::new()),
    }])
}

/// Compressing takes long enough to hold up other calls.
async fn encoded(picture: Picture, notes: PictureNotes) -> ApiResult<Vec<u8>> {
    let encoded = tokio::task::spawn_blocking(move || encode_png(&picture, &notes)).await;
    Ok(encoded.map_err(|_| ApiError::Internal("a picture's encoding ended early"))??)
}

/// Measures: positions and progress, then each step, then what they come to.
pub(super) async fn score(
    parts: &Arc<ApiParts>,
    caller: &Caller,
    request: ScoreTimestepsRequest,
) -> ApiResult<Messages<ScoreTimestepsResponse>> {
    let draft = ScoreDraft::read(request, parts.limits(caller))?;
    let (own_words, model_digest) = parts.words(caller, &draft.model).await?;
    let concept = logged([draft.concept()], parts.settings.log_prompts);
    tracing::info!(model = draft.model, concept, "a concept is scored");
    let model = draft.model.clone();
    let spec = draft.complete(own_words);
    let mut found = Violations::default();
    found.absorb(spec.validate());
    found.absorb(parts.settings.calls.check_score(&spec));
    found.finish()?;
    let call = InteractiveCall::Score { model: model.clone(), spec: Box::new(spec) };
    let measurement = Arc::new(Measurement {
        parts: parts.clone(),
        principal: caller.principal.clone(),
        model,
        model_digest,
    });
    messages(
        parts,
        caller,
        call,
        Box::new(move |update| {
            let measurement = measurement.clone();
            Box::pin(async move { measurement.read(update).await })
        }),
    )
}

/// Whose scores these are, and of what.
struct Measurement {
    parts: Arc<ApiParts>,
    principal: Principal,
    model: String,
    model_digest: String,
}

impl Measurement {
    async fn read(&self, update: InteractiveUpdate) -> ApiResult<Vec<ScoreTimestepsResponse>> {
        use score_timesteps_response::Update;
        let of = |update| ScoreTimestepsResponse { update: Some(update), ..Default::default() };
        Ok(match update {
            InteractiveUpdate::Position(ahead) => {
                vec![of(Update::QueuePosition(u32::try_from(ahead).unwrap_or(u32::MAX)))]
            }
            InteractiveUpdate::Progress(progress) => {
                vec![of(Update::Progress(progress_of_call(&progress)))]
            }
            InteractiveUpdate::Scores(scores) => {
                let mut messages: Vec<_> = scores.steps.iter().map(step_score).collect();
                messages.push(of(Update::Summary(self.keep(*scores).await?)));
                messages
            }
            InteractiveUpdate::Drawn(_) | InteractiveUpdate::Plan(_) => Vec::new(),
        })
    }

    /// Stores the scores, so that a later request can cite them.
    async fn keep(
        &self,
        scores: TimestepScores,
    ) -> ApiResult<crate::proto::keystep::v1::ScoreSummary> {
        let no_json = |_| ApiError::Internal("scores have no form in JSON");
        let scores_json = serde_json::to_string_pretty(&scores).map_err(no_json)?;
        let cited = StoredScores {
            model: self.model.clone(),
            model_digest: self.model_digest.clone(),
            scores,
        };
        let kept = serde_json::to_string(&cited).map_err(no_json)?;
        let score_digest = digest(kept.as_bytes());
        let most_bytes = self.parts.settings.stored_bytes_of_principal;
        let stored = ScoresJson { digest: &score_digest, json: &kept };
        self.parts.store.put_scores(&self.principal, stored, most_bytes).await?;
        Ok(summary(&cited.scores, score_digest, scores_json))
    }
}
