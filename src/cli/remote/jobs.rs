//! `keystep jobs`: the caller's operations.

use clap::{Args, Subcommand};
use serde_json::Value;
use tonic::{Response, Status};

use super::{
    RemoteError, block_on,
    connection::{AuthorizedChannel, Connection, ServerArguments},
    json, print,
    submit::verdict,
    watch::watch,
};
use crate::{
    cli::progress::ProgressDisplay,
    proto::{
        google::longrunning::{
            CancelOperationRequest, DeleteOperationRequest, GetOperationRequest,
            ListOperationsRequest, Operation, operations_client::OperationsClient,
        },
        keystep::v1::{
            PublishResultRequest, WatchOperationRequest,
            unlearning_service_client::UnlearningServiceClient,
        },
    },
};

/// Looks after jobs on a server.
#[derive(Debug, Args)]
#[command(after_help = "\
`watch` and `wait` end with 0 where the job succeeded and 1 where it did not. Ctrl-C ends them, and \
the job goes on.

Examples:
  keystep jobs list --server http://127.0.0.1:50051
  keystep jobs watch operations/0192 --server https://keystep.example --token-file token
  keystep jobs cancel operations/0192 --server https://keystep.example --token-file token
  keystep jobs publish operations/0192 --server https://keystep.example --token-file token")]
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

impl OneJob {
    /// Makes a call about the job, which may be made several times.
    async fn ask<T>(
        &self,
        call: impl AsyncFnMut(AuthorizedChannel, String) -> Result<Response<T>, Status>,
    ) -> Result<T, RemoteError> {
        Connection::open(&self.server)?.repeatable(&self.name, call).await
    }
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
    /// Publishes the finished result of a job that failed while its output was away.
    Publish(OneJob),
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
            JobsVerb::Publish(job) => publish(job).await,
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
            .repeatable(&request, async |channel, request| {
                OperationsClient::new(channel).list_operations(request).await
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
        for operation in &operations {
            print(&line(operation));
        }
    }
    Ok(())
}

async fn get(job: &OneJob) -> Result<(), RemoteError> {
    let found = job.ask(async |channel, name| {
        OperationsClient::new(channel).get_operation(GetOperationRequest { name }).await
    });
    show(&found.await?, job.server.json)
}

async fn cancel(job: &OneJob) -> Result<(), RemoteError> {
    let asked = job.ask(async |channel, name| {
        OperationsClient::new(channel).cancel_operation(CancelOperationRequest { name }).await
    });
    asked.await?;
    done(job, "cancel_requested", "was asked to stop");
    Ok(())
}

async fn publish(job: &OneJob) -> Result<(), RemoteError> {
    let asked = job.ask(async |channel, name| {
        UnlearningServiceClient::new(channel).publish_result(PublishResultRequest { name }).await
    });
    show(&asked.await?, job.server.json)
}

async fn delete(job: &OneJob) -> Result<(), RemoteError> {
    let asked = job.ask(async |channel, name| {
        OperationsClient::new(channel).delete_operation(DeleteOperationRequest { name }).await
    });
    asked.await?;
    done(job, "deleted", "is forgotten");
    Ok(())
}

fn done(job: &OneJob, field: &str, said: &str) {
    if job.server.json {
        let mut document = serde_json::json!({ "name": job.name });
        document[field] = Value::Bool(true);
        print(&json::pretty(&document));
    } else {
        print(&format!("{} {said}", job.name));
    }
}

/// Watches to the end, with progress shown or not.
async fn follow(job: &OneJob, after_sequence: u64, aloud: bool) -> Result<(), RemoteError> {
    let connection = Connection::open(&job.server)?;
    let request = WatchOperationRequest { name: job.name.clone(), after_sequence };
    let mut display = ProgressDisplay::new(!aloud);
    let operation = watch(&connection, request, &mut display).await?;
    show(&operation, job.server.json)?;
    verdict(&operation)
}

fn show(operation: &Operation, as_json: bool) -> Result<(), RemoteError> {
    let document = json::operation(operation)?;
    print(&if as_json { json::pretty(&document) } else { line(&document) });
    Ok(())
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
