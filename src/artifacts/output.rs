//! Writes files and folders of results that appear whole or not at all.
//!
//! Everything is written under a hidden temporary name beside the target, which shares its disk,
//! and renamed once it is complete and on the disk. Dropping what is not committed removes it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    path::{Component, Path, PathBuf},
};

use tempfile::{NamedTempFile, TempDir};

use super::ArtifactError;
use crate::spec::{FileError, ModelFiles};

/// The disk that a result goes to; a seam, so that tests can let it fill.
trait Disk: std::fmt::Debug + Send + Sync {
    fn writer<'a>(&self, file: &'a File) -> Box<dyn Write + 'a>;
}

#[derive(Debug)]
struct LocalDisk;

impl Disk for LocalDisk {
    fn writer<'a>(&self, file: &'a File) -> Box<dyn Write + 'a> {
        Box::new(file)
    }
}

/// A folder in the making.
#[derive(Debug)]
pub struct StagedFolder {
    target: PathBuf,
    parent: PathBuf,
    temporary: TempDir,
    /// What names are relative to within the folder: empty, or a path that ends in `/`.
    inside: String,
    expected: Vec<String>,
    disk: Box<dyn Disk>,
}

impl StagedFolder {
    /// Begins a folder; refuses a target that exists, unless it is an empty folder, and a place
    /// that cannot be written. `expected` are names of files without which the folder is not
    /// whole: [`StagedFolder::commit`] refuses then.
    pub fn create(target: &Path, expected: &[&str]) -> Result<Self, ArtifactError> {
        let (parent, name) = split(target)?;
        match fs::symlink_metadata(target) {
            Err(_) => {}
            Ok(metadata) => {
                let empty = metadata.is_dir()
                    && fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
                if !empty {
                    return Err(ArtifactError::TargetExists { path: target.to_owned() });
                }
            }
        }
        let prefix = format!(".{name}.");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        // A temporary folder is private by default; this one becomes the result.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let temporary = builder
            .tempdir_in(&parent)
            .map_err(|source| ArtifactError::from_write(target, source))?;
        Ok(Self {
            target: target.to_owned(),
            parent,
            temporary,
            inside: String::new(),
            expected: expected.iter().map(|&name| name.to_owned()).collect(),
            disk: Box::new(LocalDisk),
        })
    }

    /// Where the folder will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the folder is until it is committed, for reading back what was written.
    pub fn unfinished(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts what `fill` writes into a folder within this one.
    pub fn within<T>(
        &mut self,
        folder: &str,
        fill: impl FnOnce(&mut Self) -> Result<T, ArtifactError>,
    ) -> Result<T, ArtifactError> {
        let inside = format!("{}{folder}/", self.inside);
        let outside = std::mem::replace(&mut self.inside, inside);
        let result = fill(self);
        self.inside = outside;
        result
    }

    /// Writes one file, named by its path with `/` relative to the folder.
    pub fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), ArtifactError> {
        let name = &format!("{}{name}", self.inside);
        let shown = self.target.join(name);
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || name.ends_with('/') || !plain {
            return Err(ArtifactError::BadTarget {
                path: shown,
                message: "a result's files lie within its folder".to_owned(),
            });
        }
        let path = self.temporary.path().join(name);
        let result = (|| {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            fill(self.disk.as_ref(), &file, write)
        })();
        result.map_err(|source| ArtifactError::from_write(shown, source))
    }

    /// Copies one file of a model under another or the same name.
    pub fn copy(
        &mut self,
        files: &dyn ModelFiles,
        from: &str,
        to: &str,
    ) -> Result<(), ArtifactError> {
        let (mut reader, length) = files.open(from)?;
        // Both ends may fail, and a full disk must not be taken for a damaged model.
        let mut unreadable = None;
        let written = self.write(to, |out| {
            let mut buffer = vec![0; 1 << 16];
            let mut copied: u64 = 0;
            loop {
                match reader.read(&mut buffer) {
                    Ok(0) if copied == length => return Ok(()),
                    Ok(0) => {
                        unreadable = Some(io::ErrorKind::UnexpectedEof.into());
                        return Ok(());
                    }
                    Ok(count) => {
                        out.write_all(&buffer[..count])?;
                        copied += count as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        unreadable = Some(error);
                        return Ok(());
                    }
                }
            }
        });
        match unreadable {
            Some(source) => Err(ArtifactError::File(FileError::Unreadable {
                location: files.location().to_owned(),
                name: from.to_owned(),
                source,
            })),
            None => written,
        }
    }

    /// Puts the folder in its place, all at once.
    pub fn commit(self) -> Result<(), ArtifactError> {
        for name in &self.expected {
            if !self.temporary.path().join(name).is_file() {
                return Err(ArtifactError::Incomplete { path: self.target, name: name.clone() });
            }
        }
        let result = (|| {
            sync_folders(self.temporary.path())?;
            // A rename replaces an empty folder on some systems only. Fails where it is not empty
            // any more, and then so does the rename.
            let _ = fs::remove_dir(&self.target);
            fs::rename(self.temporary.path(), &self.target)?;
            sync_folder(&self.parent)
        })();
        result.map_err(|source| taken_or_unwritable(&self.target, source))
        // The temporary folder's name is gone; dropping its guard finds nothing to remove.
    }
}

/// A single file in the making.
#[derive(Debug)]
pub struct StagedFile {
    target: PathBuf,
    parent: PathBuf,
    temporary: NamedTempFile,
    disk: Box<dyn Disk>,
}

impl StagedFile {
    /// Begins a file; refuses a target that exists and a place that cannot be written.
    pub fn create(target: &Path) -> Result<Self, ArtifactError> {
        let (parent, name) = split(target)?;
        if fs::symlink_metadata(target).is_ok() {
            return Err(ArtifactError::TargetExists { path: target.to_owned() });
        }
        let prefix = format!(".{name}.");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder
            .tempfile_in(&parent)
            .map_err(|source| ArtifactError::from_write(target, source))?;
        Ok(Self { target: target.to_owned(), parent, temporary, disk: Box::new(LocalDisk) })
    }

    /// Appends to the file.
    pub fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), ArtifactError> {
        fill(self.disk.as_ref(), self.temporary.as_file(), write)
            .map_err(|source| ArtifactError::from_write(&self.target, source))
    }

    /// Puts the file in its place, all at once.
    pub fn commit(self) -> Result<(), ArtifactError> {
        self.temporary
            .persist_noclobber(&self.target)
            .map_err(|error| error.error)
            .and_then(|_| sync_folder(&self.parent))
            .map_err(|source| taken_or_unwritable(&self.target, source))
    }
}

/// The folder that the target shall lie in, and its name there.
fn split(target: &Path) -> Result<(PathBuf, String), ArtifactError> {
    let bad = |message: &str| ArtifactError::BadTarget {
        path: target.to_owned(),
        message: message.to_owned(),
    };
    let Some(name) = target.file_name() else {
        return Err(bad("it has no name of its own; end the path in the name of what to create"));
    };
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(bad("the folder it would lie in is a file; choose another one")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(bad("the folder it would lie in does not exist; create that first"));
        }
        Err(source) => return Err(ArtifactError::from_write(target, source)),
    }
    // Long names would exceed the system's limit together with what makes them temporary.
    let name = name.to_string_lossy().chars().take(40).collect();
    Ok((parent.to_owned(), name))
}

/// Writes a file and brings it to the disk: only there does a full one show for certain.
fn fill(
    disk: &dyn Disk,
    file: &File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffered = BufWriter::with_capacity(1 << 20, disk.writer(file));
    let result = write(&mut buffered).and_then(|()| buffered.flush());
    // Dropped in the usual way, it would try to write its rest once more.
    drop(buffered.into_parts());
    result?;
    file.sync_all()
}

fn taken_or_unwritable(target: &Path, source: io::Error) -> ArtifactError {
    match source.kind() {
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::DirectoryNotEmpty
        | io::ErrorKind::NotADirectory => ArtifactError::TargetExists { path: target.to_owned() },
        _ => ArtifactError::from_write(target, source),
    }
}

/// Brings the names in a folder, and in all within, to the disk.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}

/// Removes a folder with all that is in it, if it is there.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Brings the names in a folder to the disk.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder)?.sync_all() {
        // Network disks may know no such thing for folders.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
        {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::artifacts::open_model;

    /// A disk with room for so many bytes.
    #[derive(Debug, Clone)]
    struct SmallDisk(Arc<AtomicUsize>);

    struct SmallDiskWriter<'a>(&'a File, Arc<AtomicUsize>);

    impl Disk for SmallDisk {
        fn writer<'a>(&self, file: &'a File) -> Box<dyn Write + 'a> {
            Box::new(SmallDiskWriter(file, self.0.clone()))
        }
    }

    impl Write for SmallDiskWriter<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1.load(Ordering::Relaxed);
            if room == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = self.0.write(&bytes[..bytes.len().min(room)])?;
            self.1.fetch_sub(count, Ordering::Relaxed);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The kernel's own full disk.
    #[cfg(target_os = "linux")]
    #[derive(Debug)]
    struct DevFull;

    #[cfg(target_os = "linux")]
    impl Disk for DevFull {
        fn writer<'a>(&self, _: &'a File) -> Box<dyn Write + 'a> {
            Box::new(OpenOptions::new().write(true).open("/dev/full").unwrap())
        }
    }

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_folder_appears_whole_on_commit() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("erased");
        let mut staged = StagedFolder::create(&target, &["unet/a.txt"]).unwrap();
        staged.write("unet/a.txt", |out| out.write_all(b"one")).unwrap();
        assert!(!target.exists());
        staged.commit().unwrap();
        assert_eq!(fs::read(target.join("unet/a.txt")).unwrap(), b"one");
        assert_eq!(entries(place.path()), 1);
    }

    #[cfg(unix)]
    #[test]
    fn results_have_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("ordinary")).unwrap();
        fs::write(place.path().join("ordinary.txt"), "").unwrap();
        StagedFolder::create(&place.path().join("ours"), &[]).unwrap().commit().unwrap();
        StagedFile::create(&place.path().join("ours.txt")).unwrap().commit().unwrap();
        let mode = |name| fs::metadata(place.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("ours"), mode("ordinary"));
        assert_eq!(mode("ours.txt"), mode("ordinary.txt"));
    }

    #[test]
    fn an_empty_folder_is_a_good_target_and_a_filled_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("erased");
        fs::create_dir(&target).unwrap();
        let staged = StagedFolder::create(&target, &[]).unwrap();
        staged.commit().unwrap();

        let staged = StagedFolder::create(&target, &[]).unwrap();
        fs::write(target.join("precious"), "x").unwrap();
        // Filled while we worked.
        assert!(matches!(staged.commit(), Err(ArtifactError::TargetExists { .. })));
        let error = StagedFolder::create(&target, &[]).unwrap_err().to_string();
        assert!(error.contains("erased exists already; name another"), "{error}");
        assert_eq!(fs::read(target.join("precious")).unwrap(), b"x");
        assert_eq!(entries(place.path()), 1);
    }

    #[test]
    fn dropping_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let mut staged = StagedFolder::create(&place.path().join("erased"), &[]).unwrap();
        staged.write("a/b", |out| out.write_all(b"one")).unwrap();
        let mut file = StagedFile::create(&place.path().join("scores.json")).unwrap();
        file.write(|out| out.write_all(b"{}")).unwrap();
        assert_eq!(entries(place.path()), 2);
        drop((staged, file));
        assert_eq!(entries(place.path()), 0);
    }

    #[test]
    fn a_folder_within_the_folder_keeps_its_files_together() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("erased");
        let mut staged = StagedFolder::create(&target, &["checkpoint/unet/a"]).unwrap();
        staged
            .within("checkpoint", |staged| staged.write("unet/a", |out| out.write_all(b"one")))
            .unwrap();
        assert_eq!(fs::read(staged.unfinished().join("checkpoint/unet/a")).unwrap(), b"one");
        let outside = staged.within("..", |staged| staged.write("a", |_| Ok(())));
        assert!(matches!(outside, Err(ArtifactError::BadTarget { .. })));
        staged.write("b", |out| out.write_all(b"two")).unwrap();
        staged.commit().unwrap();
        assert_eq!(fs::read(target.join("b")).unwrap(), b"two");
    }

    #[test]
    fn an_incomplete_folder_is_not_committed() {
        let place = tempfile::tempdir().unwrap();
        let staged = StagedFolder::create(&place.path().join("erased"), &["unet/x"]).unwrap();
        let error = staged.commit().unwrap_err().to_string();
        assert!(error.contains("erased") && error.contains("unet/x"), "{error}");
        assert_eq!(entries(place.path()), 0);
    }

    #[test]
    fn names_stay_within_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let mut staged = StagedFolder::create(&place.path().join("erased"), &[]).unwrap();
        for name in ["../outside", "/outside", "", "a/../../outside"] {
            let result = staged.write(name, |_| Ok(()));
            assert!(matches!(result, Err(ArtifactError::BadTarget { .. })), "{name}");
        }
    }

    #[test]
    fn a_full_disk_is_named_and_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let model = open_model("builtin:emoji-canvas").unwrap();
        for room in [0, 1, 100_000] {
            let mut staged = StagedFolder::create(&place.path().join("erased"), &[]).unwrap();
            staged.disk = Box::new(SmallDisk(Arc::new(AtomicUsize::new(room))));
            let name = "vae/diffusion_pytorch_model.safetensors";
            let error = staged.copy(model.as_ref(), name, name).unwrap_err();
            assert!(matches!(error, ArtifactError::DiskFull { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("free some space"), "{text}");
            drop(staged);

            let mut file = StagedFile::create(&place.path().join("report.html")).unwrap();
            file.disk = Box::new(SmallDisk(Arc::new(AtomicUsize::new(room))));
            let error = file.write(|out| out.write_all(&vec![0; 200_000])).unwrap_err();
            assert!(matches!(error, ArtifactError::DiskFull { .. }), "{error}");
            drop(file);
            assert_eq!(entries(place.path()), 0);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernels_error_means_a_full_disk() {
        let place = tempfile::tempdir().unwrap();
        let mut staged = StagedFolder::create(&place.path().join("erased"), &[]).unwrap();
        staged.disk = Box::new(DevFull);
        let error = staged.write("a", |out| out.write_all(b"one")).unwrap_err();
        assert!(matches!(error, ArtifactError::DiskFull { .. }), "{error}");
        drop(staged);
        assert_eq!(entries(place.path()), 0);
    }
}
