//! `keystep jobs`: the caller's operations.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::Value;
use tonic::Code;

use super::{
    RemoteError, block_on,
    connection::{Connection, ServerArguments, pause},
    json, print,
};
use crate::proto::{
    google::longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        Operation, operation::Result as Ending, operations_client::OperationsClient,
    },
    keystep::v1::{
        JobEvent, WatchOperationRequest, job_event::Event,
        unlearning_service_client::UnlearningServiceClient, watch_operation_response::Update,
    },
};

/// Broken streams in a row, without an event between them, before watching is given up.
const MOST_BREAKS: u32 = 8;

/// Looks after jobs on a server.
#[derive(Debug, Args)]
#[command(after_help = "\
`watch` and `wait` end with 0 where the job succeeded and 1 where it did not. Ctrl-C ends them, and \
the job goes on.

Examples:
  keystep jobs list --server http://127.0.0.1:50051
  keystep jobs watch operations/0192 --server https://keystep.example --token-file token
  keystep jobs cancel operations/0192 --server https://keystep.example --token-file token")]
pub(in crate::cli) struct JobsArguments {
    #[command(subcommand)]
    verb: JobsVerb,
}

#[derive(Debug, Args)]
struct OneJob {
    /// The operation's name, as it was printed when it was submitted.
    name: String,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Subcommand)]
enum JobsVerb {
    /// Lists the caller's jobs.
    List {
        /// Which jobs; see the server's reference [default: all].
        #[arg(long, value_name = "FILTER", default_value = "", hide_default_value = true)]
        filter: String,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Shows one job.
    Get(OneJob),
    /// Shows what a job does until it ends.
    Watch {
        #[command(flatten)]
        job: OneJob,
        /// Begin after this event of the job's log.
        #[arg(long, value_name = "N", default_value_t = 0)]
        after_sequence: u64,
    },
    /// Asks a job to stop.
    Cancel(OneJob),
    /// Forgets a job that is done.
    Delete(OneJob),
    /// Waits in silence until a job ends.
    Wait(OneJob),
}

/// Runs the verb.
pub(in crate::cli) fn run(arguments: &JobsArguments) -> Result<(), RemoteError> {
    block_on(async {
        match &arguments.verb {
            JobsVerb::List { filter, server } => list(filter, server).await,
            JobsVerb::Get(job) => get(job).await,
            JobsVerb::Watch { job, after_sequence } => follow(job, *after_sequence, true).await,
            JobsVerb::Cancel(job) => cancel(job).await,
            JobsVerb::Delete(job) => delete(job).await,
            JobsVerb::Wait(job) => follow(job, 0, false).await,
        }
    })
}

async fn list(filter: &str, server: &ServerArguments) -> Result<(), RemoteError> {
    let connection = Connection::open(server)?;
    let mut operations = Vec::new();
    let mut request = ListOperationsRequest {
        name: "operations".to_owned(),
        filter: filter.to_owned(),
        ..ListOperationsRequest::default()
    };
    loop {
        let page = connection
            .repeatable(|channel| {
                let request = request.clone();
                async move { OperationsClient::new(channel).list_operations(request).await }
            })
            .await?;
        for operation in &page.operations {
            operations.push(json::operation(operation)?);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if server.json {
        print(&json::pretty(&serde_json::json!({ "operations": operations })));
    } else {
        operations.iter().for_each(|operation| print(&line(operation)));
    }
    Ok(())
}

async fn get(job: &OneJob) -> Result<(), RemoteError> {
    let connection = Connection::open(&job.server)?;
    let request = GetOperationRequest { name: job.name.clone() };
    let operation = connection
        .repeatable(|channel| {
            let request = request.clone();
            async move { OperationsClient::new(channel).get_operation(request).await }
        })
        .await?;
    show(&operation, job.server.json)
}

async fn cancel(job: &OneJob) -> Result<(), RemoteError> {
    let connection = Connection::open(&job.server)?;
    let request = CancelOperationRequest { name: job.name.clone() };
    connection
        .repeatable(|channel| {
            let request = request.clone();
            async move { OperationsClient::new(channel).cancel_operation(request).await }
        })
        .await?;
    done(job, "cancel_requested", "was asked to stop");
    Ok(())
}

async fn delete(job: &OneJob) -> Result<(), RemoteError> {
    let connection = Connection::open(&job.server)?;
    let request = DeleteOperationRequest { name: job.name.clone() };
    connection
        .repeatable(|channel| {
            let request = request.clone();
            async move { OperationsClient::new(channel).delete_operation(request).await }
        })
        .await?;
    done(job, "deleted", "is forgotten");
    Ok(())
}

fn done(job: &OneJob, field: &str, said: &str) {
    if job.server.json {
        let mut told = serde_json::json!({ "name": job.name });
        told[field] = Value::Bool(true);
        print(&json::pretty(&told));
    } else {
        print(&format!("{} {said}", job.name));
    }
}

/// Watches to the end, and goes on after the last event where the stream breaks.
async fn follow(job: &OneJob, after_sequence: u64, aloud: bool) -> Result<(), RemoteError> {
    let connection = Connection::open(&job.server)?;
    let mut request = WatchOperationRequest { name: job.name.clone(), after_sequence };
    let mut breaks = 0;
    loop {
        let mut client = UnlearningServiceClient::new(connection.channel());
        let broken = match client.watch_operation(request.clone()).await {
            Err(status) => status,
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    match stream.message().await {
                        Err(status) => break status,
                        // A server that drains may end a stream without a word.
                        Ok(None) => break tonic::Status::unavailable("the stream ended early"),
                        Ok(Some(message)) => match message.update {
                            Some(Update::Event(event)) => {
                                breaks = 0;
                                request.after_sequence = event.sequence;
                                if aloud {
                                    say(&event);
                                }
                            }
                            Some(Update::Operation(operation)) => {
                                return show(&operation, job.server.json)
                                    .and_then(|()| verdict(&operation));
                            }
                            None => {}
                        },
                    }
                }
            }
        };
        breaks += 1;
        // A cut connection comes as one of these; what else comes will come again.
        let passing = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
        if !passing.contains(&broken.code()) || breaks > MOST_BREAKS {
            return Err(connection.refused(broken));
        }
        tokio::time::sleep(pause(&broken, breaks)).await;
    }
}

/// An event on stderr; stdout is for the result.
fn say(event: &JobEvent) {
    let text = match &event.event {
        Some(Event::StateChanged(change)) => json::state_name(change.state()),
        Some(Event::Progress(progress)) => {
            let phase = json::phase_name(progress.phase());
            format!("{phase}: {}/{}", progress.units_done, progress.units_total)
        }
        Some(Event::Warning(warning)) => format!("warning: {}", warning.message),
        None => return,
    };
    // Progress that nobody reads is no failure.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn show(operation: &Operation, as_json: bool) -> Result<(), RemoteError> {
    let told = json::operation(operation)?;
    print(&if as_json { json::pretty(&told) } else { line(&told) });
    Ok(())
}

fn verdict(operation: &Operation) -> Result<(), RemoteError> {
    match &operation.result {
        Some(Ending::Error(error)) => {
            Err(RemoteError::Job { name: operation.name.clone(), message: error.message.clone() })
        }
        _ => Ok(()),
    }
}

fn line(operation: &Value) -> String {
    let metadata = &operation["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let state = text(&metadata["state"]).replace("JOB_STATE_", "").to_lowercase();
    let mut parts = vec![text(&operation["name"]), state, text(&metadata["kind"])];
    parts.push(text(&metadata["base_model"]));
    for field in [&operation["error"]["message"], &operation["response"]["model"]] {
        parts.push(text(field));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}
