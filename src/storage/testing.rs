//! A store that fails on purpose, for tests of what is built on storage.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use tokio::sync::Notify;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store is away, and nothing happens.
    Away,
    /// What was asked for is done, and the answer is lost.
    AnswerLost,
    /// Our key is refused.
    Denied,
    /// The disk under it is full.
    Full,
    /// The upload in parts is not known any more.
    Forgotten,
    /// No answer ever comes.
    Hang,
    /// What is read has another first byte.
    Corrupted,
}

/// What a store does with the condition of a write that is to create an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Conditions {
    /// The object is created only where there is none.
    #[default]
    Heeded,
    /// The object is written, whatever is there.
    Ignored,
    /// The request is answered with 501.
    NotImplemented,
    /// The condition never holds, whatever is there.
    AlwaysRefused,
}

/// A call that a store saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Such as `put` or `put_part`.
    pub operation: &'static str,
    /// Of which object.
    pub path: String,
    /// Of an upload in parts.
    pub part: Option<usize>,
}

#[derive(Debug, Default)]
struct Script {
    calls: Vec<Call>,
    /// By position in `calls`.
    faults: Vec<(usize, Fault)>,
    conditions: Conditions,
    /// How long every call lasts.
    lasts: Duration,
    /// From this position on, every call fails so.
    for_ever: Option<(usize, Fault)>,
}

/// A store that records its calls, and fails those that its script names.
pub struct Flaky {
    inner: Arc<dyn ObjectStore>,
    parts: Option<Arc<dyn MultipartStore>>,
    script: Mutex<Script>,
    hanging: Notify,
}

impl fmt::Debug for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flaky").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Flaky {
    /// Over a store in memory.
    pub fn in_memory() -> Arc<Self> {
        let store = Arc::new(InMemory::new());
        Arc::new(Self::with(store.clone(), Some(store)))
    }

    /// Over a store without parts of its own.
    pub fn over(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self::with(inner, None))
    }

    pub(super) fn with(
        inner: Arc<dyn ObjectStore>,
        parts: Option<Arc<dyn MultipartStore>>,
    ) -> Self {
        Self { inner, parts, script: Mutex::default(), hanging: Notify::new() }
    }

    /// Waits until a call hangs.
    pub async fn hangs(&self) {
        self.hanging.notified().await;
    }

    /// Lets the call fail that comes after `calls` further ones.
    pub fn fail_after(&self, calls: usize, fault: Fault) {
        let mut script = self.script();
        let position = script.calls.len() + calls;
        script.faults.push((position, fault));
    }

    /// Lets every call fail that comes after `calls` further ones.
    pub fn fail_from(&self, calls: usize, fault: Fault) {
        let mut script = self.script();
        script.for_ever = Some((script.calls.len() + calls, fault));
    }

    /// Treats conditions so from now on.
    pub fn treat_conditions(&self, conditions: Conditions) {
        self.script().conditions = conditions;
    }

    /// Lets every call last so long from now on.
    pub fn delay(&self, lasts: Duration) {
        self.script().lasts = lasts;
    }

    /// Lets nothing fail any more, and forgets the calls.
    pub fn heal(&self) {
        *self.script() = Script::default();
    }

    /// Every call since the beginning, or since the last healing.
    pub fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    /// How many calls of an operation there were.
    pub fn count(&self, operation: &str) -> usize {
        self.script().calls.iter().filter(|call| call.operation == operation).count()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, operation: &'static str, path: &Path, part: Option<usize>) -> Option<Fault> {
        let mut script = self.script();
        let position = script.calls.len();
        script.calls.push(Call { operation, path: path.to_string(), part });
        let planned = script.faults.iter().find(|(at, _)| *at == position).map(|(_, fault)| *fault);
        let for_ever = script.for_ever.filter(|(from, _)| *from <= position);
        planned.or(for_ever.map(|(_, fault)| fault))
    }

    /// Answers in the place of the store, or lets it answer.
    async fn answer<T>(
        &self,
        fault: Option<Fault>,
        answer: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let lasts = self.script().lasts;
        if lasts > Duration::ZERO {
            tokio::time::sleep(lasts).await;
        }
        match fault {
            None => answer.await,
            Some(Fault::AnswerLost) => answer.await.and(Err(away())),
            Some(Fault::Hang) => {
                self.hanging.notify_one();
                std::future::pending().await
            }
            Some(refused) => match refusal(refused) {
                Some(error) => Err(error),
                None => answer.await,
            },
        }
    }

    fn parts(&self) -> Result<&Arc<dyn MultipartStore>> {
        self.parts.as_ref().ok_or_else(|| object_store::Error::NotImplemented {
            operation: "parts".to_owned(),
            implementer: self.to_string(),
        })
    }
}

fn not_implemented() -> object_store::Error {
    let source = "Server returned non-2xx status code: 501 Not Implemented: \
                  <Error><Code>NotImplemented</Code></Error>";
    object_store::Error::Generic { store: "Flaky", source: source.into() }
}

/// What a call is answered with that is not done.
fn refusal(fault: Fault) -> Option<object_store::Error> {
    let path = String::new;
    Some(match fault {
        Fault::Away => away(),
        Fault::Denied => object_store::Error::PermissionDenied {
            path: path(),
            source: "the key is refused on purpose".into(),
        },
        Fault::Full => object_store::Error::Generic {
            store: "Flaky",
            source: std::io::Error::from(std::io::ErrorKind::StorageFull).into(),
        },
        Fault::Forgotten => object_store::Error::NotFound {
            path: path(),
            source: "the upload is forgotten on purpose".into(),
        },
        Fault::AnswerLost | Fault::Hang | Fault::Corrupted => return None,
    })
}

fn away() -> object_store::Error {
    object_store::Error::Generic { store: "Flaky", source: "the store fails on purpose".into() }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flaky({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.note("put", path, None);
        if options.mode == PutMode::Create {
            match self.script().conditions {
                Conditions::Heeded => {}
                Conditions::Ignored => options.mode = PutMode::Overwrite,
                Conditions::NotImplemented => return Err(not_implemented()),
                Conditions::AlwaysRefused => {
                    let source = "the condition is refused on purpose".into();
                    return Err(object_store::Error::AlreadyExists {
                        path: path.to_string(),
                        source,
                    });
                }
            }
        }
        self.answer(fault, self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.note("put_multipart", path, None);
        self.answer(fault, self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { "head" } else { "get" };
        let fault = self.note(operation, path, None);
        let got = self.answer(fault, self.inner.get_opts(path, options)).await?;
        if fault != Some(Fault::Corrupted) {
            return Ok(got);
        }
        let (meta, range, attributes) =
            (got.meta.clone(), got.range.clone(), got.attributes.clone());
        let extensions = got.extensions.clone();
        let mut bytes = got.bytes().await?.to_vec();
        if let Some(first) = bytes.first_mut() {
            *first ^= 1;
        }
        let stream = stream::once(async move { Ok(bytes.into()) });
        let payload = GetResultPayload::Stream(Box::pin(stream));
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.note("delete", &Path::ROOT, None).and_then(refusal) {
            Some(error) => stream::once(async { Err(error) }).boxed(),
            None => self.inner.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.note("list", prefix.unwrap_or(&Path::ROOT), None).and_then(refusal) {
            Some(error) => stream::once(async { Err(error) }).boxed(),
            None => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.note("list", prefix.unwrap_or(&Path::ROOT), None);
        self.answer(fault, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.note("copy", to, None);
        self.answer(fault, self.inner.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for Flaky {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let fault = self.note("create_multipart", path, None);
        self.answer(fault, self.parts()?.create_multipart(path)).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let fault = self.note("put_part", path, Some(part));
        self.answer(fault, self.parts()?.put_part(path, id, part, data)).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let fault = self.note("complete_multipart", path, None);
        self.answer(fault, self.parts()?.complete_multipart(path, id, parts)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let fault = self.note("abort_multipart", path, None);
        self.answer(fault, self.parts()?.abort_multipart(path, id)).await
    }
}
