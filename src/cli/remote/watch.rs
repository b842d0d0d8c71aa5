//! Following a job to its end, through cut connections.

use tonic::{Code, Status};

use super::{
    RemoteError,
    connection::{Connection, pause},
    json,
};
use crate::{
    cli::progress::{ProgressDisplay, Standing},
    proto::{
        google::longrunning::Operation,
        keystep::v1::{
            JobEvent, Progress, WatchOperationRequest, WorkPhase, job_event::Event,
            unlearning_service_client::UnlearningServiceClient, watch_operation_response::Update,
        },
    },
};

/// Broken streams in a row, without an event between them, before watching is given up: about two
/// minutes, in which a server can restart.
const MOST_BREAKS: u32 = 16;

/// Watches to the end, and goes on after the last event where the stream breaks.
pub(super) async fn watch(
    connection: &Connection,
    mut request: WatchOperationRequest,
    display: &mut ProgressDisplay,
) -> Result<Operation, RemoteError> {
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
                        Ok(None) => break Status::unavailable("the stream ended early"),
                        Ok(Some(message)) => match message.update {
                            Some(Update::Event(event)) => {
                                breaks = 0;
                                request.after_sequence = event.sequence;
                                tell(&event, display);
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

/// An event on stderr; stdout is for the result.
fn tell(event: &JobEvent, display: &mut ProgressDisplay) {
    match &event.event {
        Some(Event::StateChanged(change)) => display.note(&json::state_name(change.state())),
        Some(Event::Progress(progress)) => display.show(standing(progress)),
        Some(Event::Warning(warning)) => display.note(&format!("warning: {}", warning.message)),
        None => {}
    }
}

/// Progress of a job or of a call as the display takes it.
pub(super) fn standing(progress: &Progress) -> Standing {
    // Later phases repeat what training came to.
    let training = progress.phase() == WorkPhase::Train && progress.iterations_done > 0;
    Standing {
        phase: phase_name(progress.phase()).into(),
        done: progress.units_done,
        total: progress.units_total,
        loss: training.then_some(progress.loss),
    }
}

/// The names that work in this process shows.
fn phase_name(phase: WorkPhase) -> &'static str {
    match phase {
        WorkPhase::Unspecified => "working",
        WorkPhase::Score => "scoring steps",
        WorkPhase::SwitchCurve => "sampling switch curve",
        WorkPhase::Walk => "walking trajectories",
        WorkPhase::Train => "training",
        WorkPhase::Draw => "drawing pictures",
        WorkPhase::Judge => "judging pictures",
        WorkPhase::Upload => "uploading",
    }
}
