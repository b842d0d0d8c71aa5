//! Clients that poll a daemon and watch one of its jobs, all at once, until the job is done.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use keystep::proto::{
    google::longrunning::{
        GetOperationRequest, ListOperationsRequest, operations_client::OperationsClient,
    },
    keystep::v1::{
        WatchOperationRequest, unlearning_service_client::UnlearningServiceClient,
        watch_operation_response::Update,
    },
};
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tonic::{Status, transport::Channel};

/// What clients do.
#[derive(Debug, Clone)]
pub struct Load {
    /// Of the daemon, with its scheme.
    pub address: String,
    /// How many, each with a connection of its own.
    pub clients: u32,
    /// From one poll of a client to its next; every other one gets the operation, the rest list.
    pub poll_every: Duration,
    /// The operation that they watch.
    pub operation: String,
}

/// What the clients found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How long each `GetOperation` took, in seconds.
    pub gets: Vec<f64>,
    /// How long each `ListOperations` took, in seconds.
    pub lists: Vec<f64>,
    /// Events of each watch that came to its end without a gap.
    pub watched: Vec<u64>,
    /// Everything that was not as it should be.
    pub errors: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.gets.extend(other.gets);
        self.lists.extend(other.lists);
        self.watched.extend(other.watched);
        self.errors.extend(other.errors);
    }
}

/// Polls and watches until the operation is done.
pub async fn run(load: &Load) -> Result<Tally, Box<dyn Error + Send + Sync>> {
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        let channel = Channel::from_shared(load.address.clone())?.connect().await?;
        // Spread, as clients that know nothing of each other are.
        let first = load.poll_every * number / load.clients;
        clients.spawn(client(channel, load.clone(), first));
    }
    let mut tally = Tally::default();
    while let Some(client) = clients.join_next().await {
        tally.add(client?);
    }
    Ok(tally)
}

async fn client(channel: Channel, load: Load, first: Duration) -> Tally {
    let mut tally = Tally::default();
    let watched = {
        let polling = poll(&channel, &load, first, &mut tally);
        tokio::select! {
            watched = watch(channel.clone(), &load.operation) => watched,
            never = polling => match never {},
        }
    };
    match watched {
        Ok(events) => tally.watched.push(events),
        Err(error) => tally.errors.push(format!("watch: {error}")),
    }
    tally
}

/// Follows the operation to its end; gives the number of its events.
async fn watch(channel: Channel, operation: &str) -> Result<u64, Status> {
    let mut client = UnlearningServiceClient::new(channel);
    let request = WatchOperationRequest { name: operation.to_owned(), after_sequence: 0 };
    let mut updates = client.watch_operation(request).await?.into_inner();
    let mut last = 0;
    while let Some(message) = updates.message().await? {
        match message.update {
            Some(Update::Event(event)) if event.sequence == last + 1 => last = event.sequence,
            Some(Update::Event(event)) => {
                let gap = format!("event {} came after event {last}", event.sequence);
                return Err(Status::data_loss(gap));
            }
            Some(Update::Operation(_)) => return Ok(last),
            None => return Err(Status::data_loss("a message holds nothing")),
        }
    }
    Err(Status::data_loss("the stream ended before the operation"))
}

/// Never ends by itself.
async fn poll(
    channel: &Channel,
    load: &Load,
    first: Duration,
    tally: &mut Tally,
) -> std::convert::Infallible {
    tokio::time::sleep(first).await;
    let mut client = OperationsClient::new(channel.clone());
    let mut turns = interval(load.poll_every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        turns.tick().await;
        let get = GetOperationRequest { name: load.operation.clone() };
        timed(client.get_operation(get), &mut tally.gets, &mut tally.errors).await;
        turns.tick().await;
        let list = ListOperationsRequest { page_size: 50, ..ListOperationsRequest::default() };
        timed(client.list_operations(list), &mut tally.lists, &mut tally.errors).await;
    }
}

async fn timed<T>(
    call: impl Future<Output = Result<T, Status>>,
    times: &mut Vec<f64>,
    errors: &mut Vec<String>,
) {
    let start = Instant::now();
    match call.await {
        Ok(_) => times.push(start.elapsed().as_secs_f64()),
        Err(status) => errors.push(format!("poll: {status}")),
    }
}
