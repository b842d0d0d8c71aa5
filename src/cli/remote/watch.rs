//! Follows a job to its end, through broken connections.

use std::time::Duration;

use tonic::{Code, Status};

use super::{
    RemoteError,
    connection::{Connection, pause},
    json,
};
use crate::{
    cli::progress::{PhaseProgress, ProgressDisplay, Unit, phase_name},
    proto::{
        google::longrunning::{
            GetOperationRequest, Operation, operations_client::OperationsClient,
        },
        keystep::v1::{
            JobEvent, JobState, Progress, WatchOperationRequest, WorkPhase, job_event::Event,
            unlearning_service_client::UnlearningServiceClient, watch_operation_response::Update,
        },
    },
};

/// Broken streams in a row, without an event between them, before watching is given up: about two
/// minutes, in which a server can restart.
const MOST_BREAKS: u32 = 16;
/// How often the position of a waiting job is asked for.
const POSITION_EVERY: Duration = Duration::from_secs(2);

/// Watches to the end, and resumes after the last event where the stream breaks.
pub(super) async fn watch(
    connection: &Connection,
    mut request: WatchOperationRequest,
    display: &mut ProgressDisplay,
) -> Result<Operation, RemoteError> {
    let mut breaks = 0;
    let mut queue = QueueLine::default();
    loop {
        let mut client = UnlearningServiceClient::new(connection.channel());
        let broken = match client.watch_operation(request.clone()).await {
            Err(status) => status,
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    let message = tokio::select! {
                        message = stream.message() => message,
                        () = tokio::time::sleep(POSITION_EVERY), if queue.waits => {
                            queue.look(connection, &request.name, display).await;
                            continue;
                        }
                    };
                    match message {
                        Err(status) => break status,
                        // A server that drains may end a stream without a word.
                        Ok(None) => break Status::unavailable("the stream ended early"),
                        Ok(Some(message)) => match message.update {
                            Some(Update::Event(event)) => {
                                breaks = 0;
                                request.after_sequence = event.sequence;
                                queue.see(&event);
                                show(&event, display);
                            }
                            Some(Update::Operation(operation)) => {
                                display.finish();
                                return Ok(operation);
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
            display.finish();
            return Err(connection.refused(broken));
        }
        tokio::time::sleep(pause(&broken, breaks)).await;
    }
}

/// A job's position in the queue, which is asked for: it changes with other jobs, without an event.
#[derive(Debug, Default)]
struct QueueLine {
    waits: bool,
    /// Jobs ahead that were shown last.
    shown: Option<u64>,
}

impl QueueLine {
    fn see(&mut self, event: &JobEvent) {
        if let Some(Event::StateChanged(change)) = &event.event {
            self.waits = change.state() == JobState::Queued;
            self.shown = None;
        }
    }

    /// Asks for the position, and shows it where it changed. A failure is ignored: the log goes on.
    async fn look(&mut self, connection: &Connection, name: &str, display: &mut ProgressDisplay) {
        let request = GetOperationRequest { name: name.to_owned() };
        let mut client = OperationsClient::new(connection.channel());
        let Ok(operation) = client.get_operation(request).await else { return };
        let Ok(document) = json::operation(&operation.into_inner()) else { return };
        let ahead = document["metadata"]["queue_position"].as_u64();
        // It may have been claimed in between.
        let waits = document["metadata"]["state"] == JobState::Queued.as_str_name();
        if let (Some(ahead), true) = (ahead, waits && ahead != self.shown) {
            self.shown = Some(ahead);
            display.note(&format!("queued, {ahead} ahead"));
        }
    }
}

/// Shows an event on stderr; stdout is for the result.
fn show(event: &JobEvent, display: &mut ProgressDisplay) {
    match &event.event {
        Some(Event::StateChanged(change)) => display.note(&json::state_name(change.state())),
        Some(Event::Progress(progress)) => display.show(phase_progress(progress)),
        Some(Event::Warning(warning)) => display.note(&format!("warning: {}", warning.message)),
        None => {}
    }
}

/// The progress of a job or call, for the display.
pub(super) fn phase_progress(progress: &Progress) -> PhaseProgress {
    // Later phases repeat what training came to.
    let training = progress.phase() == WorkPhase::Train && progress.iterations_done > 0;
    PhaseProgress {
        phase: phase_name(progress.phase()).into(),
        done: progress.units_done,
        total: progress.units_total,
        unit: if progress.phase() == WorkPhase::Upload { Unit::Bytes } else { Unit::Count },
        loss: training.then_some(progress.loss),
    }
}
