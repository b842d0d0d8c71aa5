//! The calls that `keystep demo` makes to the daemon within its own process.

use std::net::SocketAddr;

use super::{RemoteError, connection::Connection, json, score, submit::verdict, watch::watch};
use crate::{
    cli::progress::ProgressDisplay,
    proto::{
        google::longrunning::Operation,
        keystep::v1::{
            GetModelRequest, ScoreSummary, ScoreTimestepsRequest, UnlearnConceptRequest,
            UnlearnConceptResponse, WatchOperationRequest,
            unlearning_service_client::UnlearningServiceClient,
        },
    },
    spec::Vocabulary,
};

/// A client of a server, which shows progress as the remote verbs do.
#[derive(Debug)]
pub(in crate::cli) struct Client {
    connection: Connection,
}

impl Client {
    /// A client of a server within this process; must be called within a runtime.
    pub(in crate::cli) fn near(address: SocketAddr) -> Result<Self, RemoteError> {
        Ok(Self { connection: Connection::near(address)? })
    }

    /// Has the server check an erasure without running it.
    pub(in crate::cli) async fn check(
        &self,
        request: &UnlearnConceptRequest,
    ) -> Result<(), RemoteError> {
        let request = UnlearnConceptRequest { validate_only: true, ..request.clone() };
        verdict(&self.submit(&request).await?)
    }

    /// The words that a model is known to draw.
    pub(in crate::cli) async fn vocabulary(&self, model: &str) -> Result<Vocabulary, RemoteError> {
        let request = GetModelRequest { name: model.to_owned() };
        let answer = self
            .connection
            .repeatable(&request, async |channel, request| {
                UnlearningServiceClient::new(channel).get_model(request).await
            })
            .await?;
        let words = answer.model.and_then(|model| model.vocabulary).unwrap_or_default();
        Ok(Vocabulary { anything: words.anything, objects: words.objects, styles: words.styles })
    }

    /// Has the steps scored; dropping this ends the work.
    pub(in crate::cli) async fn score(
        &self,
        request: ScoreTimestepsRequest,
        display: &mut ProgressDisplay,
    ) -> Result<ScoreSummary, RemoteError> {
        let scored = score::ask(&self.connection, request, display).await;
        display.finish();
        Ok(scored?.1)
    }

    /// Submits an erasure and follows it to its end; dropping this leaves the job running.
    pub(in crate::cli) async fn unlearn(
        &self,
        request: &UnlearnConceptRequest,
        display: &mut ProgressDisplay,
    ) -> Result<UnlearnConceptResponse, RemoteError> {
        let submitted = self.submit(request).await?;
        let request = WatchOperationRequest { name: submitted.name, after_sequence: 0 };
        let ended = watch(&self.connection, request, display).await?;
        verdict(&ended)?;
        json::response(&ended)?
            .ok_or_else(|| RemoteError::Answer("the job ended without a response".to_owned()))
    }

    async fn submit(&self, request: &UnlearnConceptRequest) -> Result<Operation, RemoteError> {
        let submitted = self.connection.repeatable(request, async |channel, request| {
            UnlearningServiceClient::new(channel).unlearn_concept(request).await
        });
        submitted.await
    }
}
