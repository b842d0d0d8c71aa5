//! A bucket that cuts downloads off, or is away, and counts what is asked of it.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory, path::Path,
};

#[derive(Debug, Default)]
struct Script {
    /// Objects whose download ends in the middle.
    cut: Vec<String>,
    is_away: bool,
    /// Emptied once this many further downloads have begun.
    empties: Option<(usize, PathBuf)>,
    lists: usize,
    read: Vec<String>,
}

/// A bucket that follows its script.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    inner: InMemory,
    script: Mutex<Script>,
}

impl Bucket {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) async fn write(&self, path: &str, bytes: &[u8]) {
        self.inner.put(&Path::from(path), bytes.to_vec().into()).await.unwrap();
    }

    /// Lets downloads of an object end in the middle.
    pub(super) fn cut(&self, path: &str) {
        self.script().cut.push(path.to_owned());
    }

    /// Has a folder removed when so many further downloads have begun.
    pub(super) fn empty(&self, folder: PathBuf, after: usize) {
        self.script().empties = Some((after, folder));
    }

    /// Lets it come back.
    pub(super) fn heal(&self) {
        let mut script = self.script();
        script.cut.clear();
        script.is_away = false;
    }

    /// Lets every call fail.
    pub(super) fn go_away(&self) {
        self.script().is_away = true;
    }

    /// Objects whose download began since this was last asked, sorted, and how often it was listed.
    pub(super) fn asked(&self) -> (Vec<String>, usize) {
        let mut script = self.script();
        let (mut read, lists) = (std::mem::take(&mut script.read), script.lists);
        script.lists = 0;
        read.sort();
        (read, lists)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "Bucket", source: "the line is cut".into() }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let is_cut = {
            let mut script = self.script();
            if script.is_away {
                return Err(broken());
            }
            if !options.head {
                script.read.push(path.to_string());
                match script.empties.take() {
                    Some((0, folder)) => std::fs::remove_dir_all(folder).unwrap(),
                    Some((after, folder)) => script.empties = Some((after - 1, folder)),
                    None => {}
                }
            }
            script.cut.iter().any(|cut| *cut == path.as_ref())
        };
        let mut got = self.inner.get_opts(path, options).await?;
        if is_cut {
            let bytes = self.inner.get(path).await?.bytes().await?;
            let half = bytes.slice(..bytes.len() / 2);
            let stream = stream::iter([Ok(half), Err(broken())]);
            got.payload = GetResultPayload::Stream(stream.boxed());
        }
        Ok(got)
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut script = self.script();
        script.lists += 1;
        if script.is_away {
            return stream::iter([Err(broken())]).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
