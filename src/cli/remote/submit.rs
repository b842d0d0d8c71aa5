//! Submits a job and follows it, for `unlearn` and `evaluate`.

use std::{collections::BTreeMap, io::Write, time::Duration};

use clap::Args;
use prost_types::Timestamp;
use tonic::{Response, Status};

use super::{
    RemoteError, block_on,
    connection::{AuthorizedChannel, Connection, ServerArguments},
    interrupt::Interrupt,
    json, print, tables,
    watch::watch,
};
use crate::{
    cli::{progress::ProgressDisplay, timing},
    proto::{
        google::longrunning::{
            CancelOperationRequest, Operation, operation::Result as Ending,
            operations_client::OperationsClient,
        },
        keystep::v1::WatchOperationRequest,
    },
};

/// How a server shall take a job; for --server alone.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct SubmitArguments {
    /// A label for finding the job again. Give it again for several (at most 64).
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    label: Vec<(String, String)>,
    /// The job fails when it is not done by then: a time such as 2026-01-31T18:00:00Z, or from now
    /// on such as 90s, 30m, 2h or 1d.
    #[arg(long, value_name = "TIME", value_parser = parse_deadline)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    deadline: Option<Deadline>,
    /// Jobs of higher priority come first, -100 to 100 [default: 0].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    priority: Option<i32>,
    /// Where to publish: a URL below one that the server allows [default: the server's].
    #[arg(long, value_name = "URL")]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    destination: Option<String>,
    /// Run even where a finished job did the same work.
    #[arg(long)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    force: bool,
    /// Have the request checked, and show what it would take; nothing is queued.
    #[arg(long)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    validate_only: bool,
    /// A UUID of your own: the same request sent again under it is the same job [default: a new
    /// one].
    #[arg(long, value_name = "UUID")]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    request_id: Option<uuid::Uuid>,
    /// Print the job's name and end.
    #[arg(long)]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    no_wait: bool,
    /// Cancel the job on Ctrl-C [default: it goes on].
    #[arg(long, conflicts_with = "no_wait")]
    #[cfg_attr(feature = "server", arg(conflicts_with = "local"))]
    cancel_on_interrupt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Deadline {
    At(Timestamp),
    In(Duration),
}

/// The flags as the fields that both requests have. Made once for each job, so that a repeated call asks
/// for the same job.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) request_id: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) priority: i32,
    pub(super) destination: String,
    pub(super) force: bool,
    pub(super) validate_only: bool,
}

impl SubmitArguments {
    pub(super) fn submission(&self) -> Submission {
        let deadline = self.deadline.map(|deadline| match deadline {
            Deadline::At(time) => time,
            Deadline::In(duration) => Timestamp::from(timing::now() + duration),
        });
        Submission {
            request_id: self.request_id.unwrap_or_else(uuid::Uuid::new_v4).to_string(),
            labels: self.label.iter().cloned().collect(),
            deadline,
            priority: self.priority.unwrap_or_default(),
            destination: self.destination.clone().unwrap_or_default(),
            force: self.force,
            validate_only: self.validate_only,
        }
    }
}

/// A job to be submitted.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobSubmission<'a> {
    pub(super) server: &'a ServerArguments,
    pub(super) submit: &'a SubmitArguments,
    pub(super) request_id: &'a str,
    pub(super) quiet: bool,
}

impl JobSubmission<'_> {
    /// Submits, follows to the end and prints the result. `call` may be made several times.
    pub(super) fn run<R: Clone>(
        self,
        request: &R,
        call: impl AsyncFnMut(AuthorizedChannel, R) -> Result<Response<Operation>, Status>,
    ) -> Result<(), RemoteError> {
        let mut interrupt = Interrupt::install()?;
        block_on(async {
            let connection = Connection::open(self.server)?;
            let submitted = interrupt.unless(connection.repeatable(request, call)).await;
            let Some(submitted) = submitted else { return Err(self.interrupted_early()) };
            let submitted = submitted?;
            if self.submit.validate_only {
                // A request that the server took back after all.
                verdict(&submitted)?;
                let plan = json::plan_of(&submitted)?;
                let plain = || "The request can be run.".to_owned();
                let text = plan.map_or_else(plain, |plan| tables::plan(&plan));
                return self.show(&submitted, || Ok(Some(text)));
            }
            if self.submit.no_wait {
                return self.show(&submitted, || Ok(Some(submitted.name.clone())));
            }
            let name = submitted.name;
            let mut display = ProgressDisplay::new(self.quiet);
            display.note(&format!("submitted as {name}"));
            let request = WatchOperationRequest { name: name.clone(), after_sequence: 0 };
            let watched = interrupt.unless(watch(&connection, request, &mut display)).await;
            display.finish();
            match watched {
                None if self.submit.cancel_on_interrupt => self.cancel(&connection, &name).await,
                None => {
                    self.tell_that_it_goes_on(&name);
                    Err(RemoteError::Interrupted("the job goes on".to_owned()))
                }
                Some(Err(error)) => {
                    self.tell_that_it_goes_on(&name);
                    Err(error)
                }
                Some(Ok(operation)) => {
                    self.show(&operation, || tables::result(&operation))?;
                    verdict(&operation)
                }
            }
        })
    }

    fn interrupted_early(self) -> RemoteError {
        RemoteError::Interrupted(format!(
            "the server may have taken the job already; `keystep jobs list{}` shows it, with the \
             request id {}",
            self.server.again(),
            self.request_id
        ))
    }

    async fn cancel(self, connection: &Connection, name: &str) -> Result<(), RemoteError> {
        let request = CancelOperationRequest { name: name.to_owned() };
        connection
            .repeatable(&request, async |channel, request| {
                OperationsClient::new(channel).cancel_operation(request).await
            })
            .await?;
        Err(RemoteError::Interrupted(format!("{name} was asked to stop")))
    }

    fn tell_that_it_goes_on(self, name: &str) {
        let again = self.server.again();
        // Nobody is left to tell when stderr is closed.
        let _ = writeln!(
            std::io::stderr().lock(),
            "{name} goes on. Watch it or stop it:\n  keystep jobs watch {name}{again}\n  \
             keystep jobs cancel {name}{again}"
        );
    }

    /// Prints the operation as JSON where that is asked for, else the text that stands for it.
    fn show(
        self,
        operation: &Operation,
        text: impl FnOnce() -> Result<Option<String>, RemoteError>,
    ) -> Result<(), RemoteError> {
        if self.server.json {
            print(&json::pretty(&json::operation(operation)?));
        } else if let Some(text) = text()? {
            print(&text);
        }
        Ok(())
    }
}

/// Whether the job succeeded.
pub(super) fn verdict(operation: &Operation) -> Result<(), RemoteError> {
    match &operation.result {
        Some(Ending::Error(error)) => {
            Err(RemoteError::Job { name: operation.name.clone(), message: error.message.clone() })
        }
        _ => Ok(()),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give a label as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_deadline(text: &str) -> Result<Deadline, String> {
    const MOST_SECONDS: u64 = 366 * 86_400;
    let wrong = "give a time such as 2026-01-31T18:00:00Z, or from now on such as 90s, 30m, 2h, 1d";
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return text.parse().map(Deadline::At).map_err(|_| wrong.to_owned()),
    };
    let amount: u64 = text[..text.len() - 1].parse().map_err(|_| wrong.to_owned())?;
    match amount.checked_mul(unit) {
        Some(seconds @ 1..=MOST_SECONDS) => Ok(Deadline::In(Duration::from_secs(seconds))),
        _ => Err(format!("{text} is outside 1s to 366d")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_time_or_a_while() {
        let hour = Deadline::In(Duration::from_hours(2));
        assert_eq!(parse_deadline("2h"), Ok(hour));
        let time = Timestamp { seconds: 1_769_882_400, nanos: 0 };
        assert_eq!(parse_deadline("2026-01-31T18:00:00Z"), Ok(Deadline::At(time)));
        for wrong in ["", "s", "0s", "-1h", "1w", "367d", "99999999999999999999d", "soon", "1é"] {
            assert!(parse_deadline(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_label("a").is_err());
    }
}
