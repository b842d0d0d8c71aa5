//! What it costs a training that 64 clients poll the daemon and watch the job, as Markdown:
//!
//! ```sh
//! cargo run --release --locked --example daemon_load
//! ```
//!
//! The daemon and the clients are processes of their own, so that what each takes of the processors
//! can be told apart; by default the clients are `nice`, since they stand for other machines.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
#![allow(clippy::print_stdout, reason = "the table is the result")]
#![allow(unreachable_pub, reason = "an example has no public interface")]

mod clients;
mod machine;

use std::{
    error::Error,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::{Parser, Subcommand};
use clients::{Load, Tally};
use keystep::{
    config::Settings,
    daemon::{Daemon, DaemonParts},
    device::CandleSource,
    proto::keystep::v1::{
        ConceptKind, JobEvent, JobState, UnlearnConceptRequest, UnlearningMethod,
        WatchOperationRequest, job_event::Event,
        unlearning_service_client::UnlearningServiceClient, watch_operation_response::Update,
    },
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tonic::transport::Channel;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, Parser)]
struct Options {
    /// Trainings alone, and as many under load.
    #[arg(long, default_value_t = 3)]
    pairs: u32,
    /// Updates of each training.
    #[arg(long, default_value_t = 150)]
    updates: u32,
    /// Clients, each with a connection, a watch and its polls.
    #[arg(long, default_value_t = 64)]
    clients: u32,
    /// Polls of a client in a second, by turns of the operation and of the list.
    #[arg(long, default_value_t = 5)]
    polls: u32,
    /// How far the clients step back for others, 0 to 19.
    #[arg(long, default_value_t = 19)]
    nice: u32,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the measurement starts.
#[derive(Debug, Subcommand)]
enum Part {
    /// The daemon, until standard input ends.
    #[command(hide = true)]
    Serve { folder: PathBuf },
    /// The clients, until the operation is done.
    #[command(hide = true)]
    Call { address: String, operation: String },
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    match &options.part {
        Some(Part::Serve { folder }) => serve(folder).await,
        Some(Part::Call { address, operation }) => {
            let load = Load {
                address: address.clone(),
                clients: options.clients,
                poll_every: Duration::from_secs(1) / options.polls.max(1),
                operation: operation.clone(),
            };
            let tally = clients::run(&load).await?;
            let report = ClientReport { tally, used: machine::used_by("self")? };
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
        None => measure(&options).await,
    }
}

async fn serve(folder: &Path) -> Result<()> {
    let mut settings = Settings::default();
    settings.server.listen = ([127, 0, 0, 1], 0).into();
    folder.clone_into(&mut settings.server.data_dir);
    let daemon = Daemon::start(&settings, DaemonParts::new(CandleSource::default())).await?;
    daemon.ready().wait_for(|ready| *ready).await?;
    println!("http://{}", daemon.address());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    daemon.stop().await;
    Ok(())
}

/// What the clients' process tells.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct ClientReport {
    tally: Tally,
    /// Seconds of processor time.
    used: f64,
}

/// One training.
#[derive(Debug, Clone, Copy)]
struct Training {
    /// From the event that it runs to the event that it is published, by the daemon's clock.
    seconds: f64,
    /// Seconds of processor time: of the daemon, the clients, and all else on the machine.
    daemon: f64,
    clients: f64,
    others: f64,
}

struct Bench<'a> {
    options: &'a Options,
    address: String,
    process: String,
    client: UnlearningServiceClient<Channel>,
}

async fn measure(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut daemon = Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let address = first_line(&mut daemon).await?;
    let channel = Channel::from_shared(address.clone())?.connect().await?;
    let process = daemon.id().ok_or("the daemon ended")?.to_string();
    let client = UnlearningServiceClient::new(channel);
    let mut bench = Bench { options, address, process, client };
    let mut all = Tally::default();

    // The model is loaded, and caches are warm.
    bench.train(&mut None).await?;
    println!("| training | seconds | daemon, CPU s | clients, CPU s | all else, CPU s |");
    println!("| --- | --- | --- | --- | --- |");
    let (mut alone, mut loaded) = (Vec::new(), Vec::new());
    for pair in 0..options.pairs {
        // By turns first, so that a drift of the machine falls on both.
        for is_loaded in if pair % 2 == 0 { [false, true] } else { [true, false] } {
            let training = bench.train(&mut is_loaded.then_some(&mut all)).await?;
            let Training { seconds, daemon, clients, others } = training;
            let name = if is_loaded { "under load" } else { "alone" };
            println!("| {name} | {seconds:.2} | {daemon:.2} | {clients:.2} | {others:.2} |");
            if is_loaded { loaded.push(training) } else { alone.push(training) }
        }
    }
    drop(daemon.stdin.take());
    daemon.wait().await?;
    print(&alone, &loaded, all);
    Ok(())
}

async fn first_line(child: &mut Child) -> Result<String> {
    let output = child.stdout.take().ok_or("no output")?;
    let line = BufReader::new(output).lines().next_line().await?;
    line.ok_or_else(|| "it ended before it said anything".into())
}

impl Bench<'_> {
    /// Trains, under load where there is a tally to add to.
    async fn train(&mut self, load: &mut Option<&mut Tally>) -> Result<Training> {
        let (daemon_before, all_before) =
            (machine::used_by(&self.process)?, machine::used_by_all()?);
        let request = UnlearnConceptRequest {
            base_model: "emoji-canvas".to_owned(),
            concepts: vec!["cat".to_owned()],
            concept_kind: ConceptKind::ObjectClass.into(),
            method: UnlearningMethod::Kscu.into(),
            updates: Some(self.options.updates),
            // The same steps each time, so that each is as long.
            seed: Some(1),
            learning_rate: Some(3e-5),
            evaluate: Some(false),
            force: true,
            ..UnlearnConceptRequest::default()
        };
        let operation = self.client.unlearn_concept(request).await?.into_inner().name;
        let mut clients = 0.0;
        if let Some(all) = load {
            let report = self.call(&operation).await?;
            clients = report.used;
            all.gets.extend(report.tally.gets);
            all.lists.extend(report.tally.lists);
            all.watched.extend(report.tally.watched);
            all.errors.extend(report.tally.errors);
        }
        let seconds = training_time(&self.events(&operation).await?)?;
        let daemon = machine::used_by(&self.process)? - daemon_before;
        let others = machine::used_by_all()? - all_before - daemon - clients;
        Ok(Training { seconds, daemon, clients, others })
    }

    /// Lets the clients loose, until the operation is done.
    async fn call(&self, operation: &str) -> Result<ClientReport> {
        let Options { clients, polls, nice, .. } = self.options;
        let output = Command::new("nice")
            .arg(format!("-n{nice}"))
            .arg(std::env::current_exe()?)
            .args(["--clients", &clients.to_string(), "--polls", &polls.to_string()])
            .args(["call", &self.address, operation])
            .stderr(Stdio::inherit())
            .output()
            .await?;
        if !output.status.success() {
            return Err("the clients failed".into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// All events of an operation, once it is done.
    async fn events(&mut self, operation: &str) -> Result<Vec<JobEvent>> {
        let request = WatchOperationRequest { name: operation.to_owned(), after_sequence: 0 };
        let mut updates = self.client.watch_operation(request).await?.into_inner();
        let mut events = Vec::new();
        while let Some(message) = updates.message().await? {
            if let Some(Update::Event(event)) = message.update {
                events.push(event);
            }
        }
        Ok(events)
    }
}

fn training_time(events: &[JobEvent]) -> Result<f64> {
    let at = |wanted| {
        let is_it = |event: &&JobEvent| matches!(&event.event, Some(Event::StateChanged(change)) if change.state() == wanted);
        let time = events.iter().find(is_it)?.record_time?;
        Some(time.seconds as f64 + f64::from(time.nanos) * 1e-9)
    };
    let times = at(JobState::Running).zip(at(JobState::Publishing));
    let (from, to) = times.ok_or("the job failed: it was never published")?;
    Ok(to - from)
}

fn print(alone: &[Training], loaded: &[Training], tally: Tally) {
    let of = |trainings: &[Training], what: fn(&Training) -> f64| {
        median(trainings.iter().map(what).collect())
    };
    let pairs = alone.iter().zip(loaded);
    let ratio = median(pairs.map(|(alone, loaded)| loaded.seconds / alone.seconds).collect());
    let (quiet, busy) = (of(alone, |it| it.seconds), of(loaded, |it| it.seconds));
    println!("\nMedians: {quiet:.2} s alone, {busy:.2} s under load.");
    println!("Median of the ratios of each pair: {ratio:.3}.");
    let answering = of(loaded, |it| it.daemon) - of(alone, |it| it.daemon);
    let calling = of(loaded, |it| it.clients);
    println!("CPU seconds of a training's load: daemon {answering:.2} more, clients {calling:.2}.");
    let polls = tally.gets.len() + tally.lists.len();
    let events: u64 = tally.watched.iter().sum();
    println!(
        "{polls} polls answered, {} watches of {events} events in all, {} errors.\n",
        tally.watched.len(),
        tally.errors.len()
    );
    for error in tally.errors.iter().take(10) {
        println!("{error}");
    }
    println!("| call | median ms | 99 % ms |");
    println!("| --- | --- | --- |");
    for (name, times) in [("GetOperation", tally.gets), ("ListOperations", tally.lists)] {
        let times = sorted(times);
        println!("| {name} | {:.1} | {:.1} |", at(&times, 0.5) * 1e3, at(&times, 0.99) * 1e3);
    }
}

fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers
}

fn median(numbers: Vec<f64>) -> f64 {
    at(&sorted(numbers), 0.5)
}

/// What a share of the sorted numbers is at most.
fn at(sorted: &[f64], share: f64) -> f64 {
    let index = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}
