//! `keystep generate --server`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    RemoteError, block_on,
    connection::{Connection, ServerArguments},
    interrupt::Interrupt,
    json, print,
    saving::PictureFolder,
    wire,
};
use crate::{
    cli::{
        CliError,
        arguments::needed,
        generate::GenerateArguments,
        progress::{PhaseProgress, ProgressDisplay, Unit},
        timing::Stopwatch,
    },
    proto::keystep::v1::{
        GenerateRequest, generate_response::Update,
        unlearning_service_client::UnlearningServiceClient,
    },
};

/// A large picture as PNG is longer than tonic's own limit of 4 MiB.
const MOST_MESSAGE_BYTES: usize = 64 << 20;

/// A picture that was written to a file.
#[derive(Debug)]
struct SavedPicture {
    index: u32,
    seed: u64,
    path: PathBuf,
}

/// Has pictures drawn, and saves each as it comes.
pub(in crate::cli) fn run(arguments: &GenerateArguments) -> Result<(), CliError> {
    let only_local = arguments.model.only_local(&[
        #[cfg(feature = "server")]
        ("--out", arguments.out.is_some()),
    ]);
    let server = arguments.place.server(&only_local)?;
    let request = request(arguments)?;
    let output = needed(arguments.output.as_deref(), "--output", "--server")?;
    let folder = PictureFolder { path: output.to_owned(), overwrite: arguments.overwrite };
    let seeds = (0..u64::from(arguments.count)).map(|n| arguments.seed.wrapping_add(n));
    folder.prepare(seeds)?;
    let mut interrupt = Interrupt::install()?;
    let stopwatch = Stopwatch::start();
    let mut display = ProgressDisplay::new(arguments.quiet.quiet);
    let mut saved = Vec::new();
    let ended = block_on(async {
        let mut drawing = Drawing { folder: &folder, saved: &mut saved, display: &mut display };
        interrupt.unless(drawing.ask(server, request)).await.unwrap_or_else(|| {
            let (have, place) = (drawing.saved.len(), output.display());
            let text = format!("{have} of {} pictures are in {place}", arguments.count);
            Err(RemoteError::Interrupted(text))
        })
    });
    display.finish();
    if ended.is_ok() && server.json {
        print(&json::pretty(&document(arguments.model.name()?, &saved)));
    } else if ended.is_ok() {
        for picture in &saved {
            print(&picture.path.display().to_string());
        }
        display.note(&format!("{:.1} s", stopwatch.seconds()));
    }
    Ok(ended?)
}

fn request(arguments: &GenerateArguments) -> Result<GenerateRequest, CliError> {
    Ok(GenerateRequest {
        model: arguments.model.name()?.to_owned(),
        prompt: arguments.prompt.clone(),
        negative_prompt: arguments.negative_prompt.clone(),
        steps: Some(arguments.steps),
        guidance_scale: Some(arguments.guidance_scale),
        width: arguments.width,
        height: arguments.height,
        seeds: vec![arguments.seed],
        count: Some(arguments.count),
        sampler: wire::sampler(arguments.sampler.sampler).into(),
        preview_every_steps: arguments.preview_every,
        init_image: arguments.init_image.as_deref().map(png).transpose()?.unwrap_or_default(),
        strength: arguments.strength,
    })
}

/// The bytes of a PNG file, which the server decodes.
fn png(path: &Path) -> Result<Vec<u8>, CliError> {
    let read = std::fs::read(path);
    let png = read.map_err(|source| CliError::File { path: path.to_owned(), source })?;
    if png.is_empty() {
        let message = format!("--init-image {}: is empty; give a PNG", path.display());
        return Err(CliError::Usage(message));
    }
    Ok(png)
}

#[derive(Debug)]
struct Drawing<'a> {
    folder: &'a PictureFolder,
    saved: &'a mut Vec<SavedPicture>,
    display: &'a mut ProgressDisplay,
}

impl Drawing<'_> {
    async fn ask(
        &mut self,
        server: &ServerArguments,
        request: GenerateRequest,
    ) -> Result<(), RemoteError> {
        let connection = Connection::open(server)?;
        let wanted = request.count.unwrap_or(1) as usize;
        let mut stream = connection
            .repeatable(&request, async |channel, request| {
                UnlearningServiceClient::new(channel)
                    .max_decoding_message_size(MOST_MESSAGE_BYTES)
                    .generate(request)
                    .await
            })
            .await?;
        while let Some(message) =
            stream.message().await.map_err(|status| connection.refused(status))?
        {
            let (index, seed) = (message.image_index, message.seed);
            match message.update {
                Some(Update::StepsDone(done)) => self.display.show(PhaseProgress {
                    phase: "drawing pictures".into(),
                    // The server counts the steps of all pictures; samplers differ in how many they
                    // take.
                    done: u64::from(done) * wanted as u64 / u64::from(message.steps_total).max(1),
                    total: wanted as u64,
                    unit: Unit::Count,
                    loss: None,
                }),
                Some(Update::QueuePosition(ahead)) => {
                    self.display.note(&format!("waiting, {ahead} ahead"));
                }
                Some(Update::PreviewPng(png)) => self.folder.save_preview(index, seed, &png)?,
                Some(Update::ImagePng(png)) => {
                    let path = self.folder.save(index, seed, &png)?;
                    self.saved.push(SavedPicture { index, seed, path });
                }
                None => {}
            }
        }
        if self.saved.len() == wanted {
            return Ok(());
        }
        Err(RemoteError::Answer(format!("{} of {wanted} pictures came", self.saved.len())))
    }
}

fn document(model: &str, saved: &[SavedPicture]) -> Value {
    let of = |picture: &SavedPicture| json!({ "image_index": picture.index, "seed": picture.seed, "path": picture.path });
    let pictures: Value = saved.iter().map(of).collect();
    json!({ "model": model, "images": pictures })
}
