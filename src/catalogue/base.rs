//! A base model: where its files are, and what was read from them.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::{
    BaseModel, ModelEntry, ModelOrigin,
    cache::{Cache, CachedModel},
    folder::{KnownDigests, ReadFolder, folder_of, read_folder},
    model_failure::{damaged, on_disk},
    remote::{FetchedModel, RemoteFolder, check_digest},
};
use crate::{
    artifacts::{
        BuiltinModel,
        model_digest::{model_digest, read_model_files},
    },
    device::{OpenedModel, artifact_failure, disk_failure},
    jobs::Failure,
    spec::{ModelFiles, Vocabulary},
    storage::Storages,
};

/// The most tries to fetch a model whose cache is emptied meanwhile.
const MOST_TRIES: u32 = 3;
/// The longest vocabulary file, in bytes: more words than any judge knows.
const MAX_VOCABULARY_BYTES: u64 = 1 << 20;

/// What opening a model needs.
#[derive(Debug)]
pub(super) struct Means<'a> {
    pub(super) cache: &'a Arc<Cache>,
    pub(super) storages: &'a Storages,
}

/// What was read from a model's files.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    pub(super) digest: String,
    pub(super) vocabulary: Vocabulary,
}

/// A base model.
#[derive(Debug)]
pub(super) struct Base {
    name: String,
    source: Source,
    /// Facts of the last opening; readable during the next one.
    facts: Mutex<Option<Facts>>,
    /// One opening at a time; the others then find its files in the cache.
    turn: tokio::sync::Mutex<Memory>,
}

#[derive(Debug)]
enum Source {
    /// In the binary.
    Builtin(&'static str),
    /// At a URL.
    Configured {
        url: String,
        /// The digest that it must have, in lower case.
        sha256: Option<String>,
    },
}

#[derive(Debug, Default)]
struct Memory {
    /// In a bucket.
    digest: Option<String>,
    /// In a local folder.
    files: KnownDigests,
}

impl Base {
    /// The model in the binary, under its name.
    pub(super) fn builtin(name: &'static str) -> Self {
        Self::new(name.to_owned(), Source::Builtin(name))
    }

    /// A model that the operator configured.
    pub(super) fn configured(base: BaseModel) -> Self {
        let sha256 = base.sha256.map(|digest| digest.to_ascii_lowercase());
        Self::new(base.name, Source::Configured { url: base.url, sha256 })
    }

    fn new(name: String, source: Source) -> Self {
        Self { name, source, facts: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// What was read so far.
    pub(super) fn facts(&self) -> Option<Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model as the catalogue lists it.
    pub(super) fn entry(&self) -> ModelEntry {
        let facts = self.facts().map(|facts| (facts.digest, facts.vocabulary));
        let (digest, vocabulary) = facts.unzip();
        ModelEntry { name: self.name.clone(), digest, vocabulary, origin: ModelOrigin::Base }
    }

    /// Makes its files readable on this machine.
    pub(super) async fn open(&self, means: &Means<'_>) -> Result<OpenedModel, Failure> {
        let (digest, files) = {
            let mut memory = self.turn.lock().await;
            let (digest, files) = self.reach(means, &mut memory).await?;
            self.learn(&digest, &files).await?;
            (digest, files)
        };
        Ok(OpenedModel {
            name: self.name.clone(),
            digest,
            files,
            edited: None,
            ancestors: Vec::new(),
        })
    }

    async fn reach(
        &self,
        means: &Means<'_>,
        memory: &mut Memory,
    ) -> Result<(String, Arc<dyn ModelFiles>), Failure> {
        let (url, sha256) = match &self.source {
            Source::Builtin(name) => return open_builtin(name).await,
            Source::Configured { url, sha256 } => (url, sha256.as_deref()),
        };
        if let Some(path) = folder_of(&self.name, url)? {
            let known = memory.files.clone();
            let read = on_disk(move || read_folder(&path, &known)).await?;
            let ReadFolder { digest, files, known } = read;
            memory.files = known;
            check_digest(&self.name, sha256, &digest)?;
            return Ok((digest, Arc::new(files)));
        }
        let Means { cache, storages } = means;
        let folder = RemoteFolder { model: &self.name, url, sha256, cache, storages };
        let mut tries = MOST_TRIES;
        loop {
            let FetchedModel { digest, entry } = folder.open(memory.digest.as_deref()).await?;
            memory.digest = Some(digest.clone());
            let name = self.name.clone();
            let opened = on_disk(move || Ok(CachedModel::open(&name, entry))).await?;
            tries -= 1;
            match opened {
                Ok(model) => return Ok((digest, Arc::new(model))),
                // Emptied between the comparison and here: it is fetched anew.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries > 0 => {}
                Err(error) => return Err(disk_failure("a cached model", &error)),
            }
        }
    }

    /// Reads what the catalogue lists of the model.
    async fn learn(&self, digest: &str, files: &Arc<dyn ModelFiles>) -> Result<(), Failure> {
        if self.facts().is_some_and(|facts| facts.digest == digest) {
            return Ok(());
        }
        let (model, files) = (self.name.clone(), files.clone());
        let vocabulary = on_disk(move || read_vocabulary(&model, files.as_ref())).await?;
        let facts = Facts { digest: digest.to_owned(), vocabulary };
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
        Ok(())
    }
}

async fn open_builtin(name: &'static str) -> Result<(String, Arc<dyn ModelFiles>), Failure> {
    // There is one such model, and it cannot change while the process runs.
    static DIGEST: OnceLock<String> = OnceLock::new();
    on_disk(move || {
        let files = BuiltinModel::open(name).map_err(|error| artifact_failure(&error))?;
        let digest = if let Some(digest) = DIGEST.get() {
            digest.clone()
        } else {
            let read = read_model_files(&files).map_err(|error| artifact_failure(&error))?;
            DIGEST.get_or_init(|| model_digest(&read)).clone()
        };
        let files: Arc<dyn ModelFiles> = Arc::new(files);
        Ok((digest, files))
    })
    .await
}

/// The vocabulary beside a model, as the engine reads it.
fn read_vocabulary(model: &str, files: &dyn ModelFiles) -> Result<Vocabulary, Failure> {
    const NAME: &str = "vocabulary.json";
    if !files.names().iter().any(|name| name == NAME) {
        return Ok(Vocabulary::default());
    }
    let of = |what: String| damaged(model, &format!("{NAME} {what}"));
    let (reader, size) = files.open(NAME).map_err(|error| damaged(model, &error.to_string()))?;
    if size > MAX_VOCABULARY_BYTES {
        return Err(of(format!("has {size} bytes, the limit is {MAX_VOCABULARY_BYTES}")));
    }
    let mut text = String::new();
    let mut reader = reader.take(MAX_VOCABULARY_BYTES);
    reader.read_to_string(&mut text).map_err(|error| of(format!("cannot be read: {error}")))?;
    let vocabulary: Vocabulary =
        serde_json::from_str(&text).map_err(|error| of(format!("is no vocabulary: {error}")))?;
    vocabulary.validate().map_err(|error| of(format!("is no vocabulary: {error}")))?;
    Ok(vocabulary)
}
