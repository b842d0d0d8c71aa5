//! `keystep models`: the server's catalogue.

use clap::{Args, Subcommand};

use super::{
    RemoteError, block_on,
    connection::{Connection, ServerArguments},
    json, print,
};
use crate::proto::keystep::v1::{
    GetModelRequest, ListModelsRequest, Model, unlearning_service_client::UnlearningServiceClient,
};

/// Lists the models of a server: base models and published checkpoints.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keystep models list --server http://127.0.0.1:50051
  keystep models get emoji-canvas --server https://keystep.example --token-file token --json")]
pub(in crate::cli) struct ModelsArguments {
    #[command(subcommand)]
    verb: ModelsVerb,
}

#[derive(Debug, Subcommand)]
enum ModelsVerb {
    /// Lists every model, base models first.
    List {
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Describes one model.
    Get {
        /// Its name in the catalogue.
        name: String,
        #[command(flatten)]
        server: ServerArguments,
    },
}

/// Runs the verb.
pub(in crate::cli) fn run(arguments: &ModelsArguments) -> Result<(), RemoteError> {
    block_on(async {
        match &arguments.verb {
            ModelsVerb::List { server } => list(server).await,
            ModelsVerb::Get { name, server } => get(name, server).await,
        }
    })
}

async fn list(server: &ServerArguments) -> Result<(), RemoteError> {
    let connection = Connection::open(server)?;
    let mut models = Vec::new();
    let mut request = ListModelsRequest::default();
    loop {
        let page = connection
            .repeatable(&request, async |channel, request| {
                UnlearningServiceClient::new(channel).list_models(request).await
            })
            .await?;
        models.extend(page.models);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if server.json {
        print(&json::pretty(&serde_json::json!({ "models": models })));
    } else {
        for model in &models {
            print(&line(model));
        }
    }
    Ok(())
}

async fn get(name: &str, server: &ServerArguments) -> Result<(), RemoteError> {
    let connection = Connection::open(server)?;
    let request = GetModelRequest { name: name.to_owned() };
    let response = connection
        .repeatable(&request, async |channel, request| {
            UnlearningServiceClient::new(channel).get_model(request).await
        })
        .await?;
    let model =
        response.model.ok_or_else(|| RemoteError::Answer(format!("no model came for {name}")))?;
    print(&if server.json { json::pretty(&serde_json::json!(model)) } else { line(&model) });
    Ok(())
}

fn line(model: &Model) -> String {
    let kind = json::model_kind_name(model.kind());
    if model.concepts.is_empty() {
        return format!("{}  {kind}", model.name);
    }
    format!("{}  {kind}  {} without {}", model.name, model.base_model, model.concepts.join(", "))
}
