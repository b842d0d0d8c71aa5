//! SHA-256 digests, by which a result names exactly what it was made from.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::ArtifactError;
use crate::{
    outcome::FileDigest,
    spec::{FileError, ModelFiles},
};

/// The digest of bytes in memory, in hexadecimal.
pub fn digest_bytes(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The digest of everything that a reader gives, in hexadecimal.
pub fn digest_reader(reader: &mut dyn Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hash.finalize())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The digest of everything that is written, in hexadecimal.
pub fn digest_written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<String> {
    struct Hashed(Sha256);
    impl Write for Hashed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hashed = Hashed(Sha256::new());
    write(&mut hashed)?;
    Ok(hex::encode(hashed.0.finalize()))
}

/// The digest of one file of a model, in hexadecimal.
pub fn digest_file(files: &dyn ModelFiles, name: &str) -> Result<String, ArtifactError> {
    let (mut reader, _) = files.open(name)?;
    digest_reader(&mut reader).map_err(|source| {
        ArtifactError::File(FileError::Unreadable {
            location: files.location().to_owned(),
            name: name.to_owned(),
            source,
        })
    })
}

/// The digest of a file of these bytes, by its name.
pub fn digest_named(name: &str, bytes: &[u8]) -> FileDigest {
    FileDigest { name: name.to_owned(), size: bytes.len() as u64, sha256: digest_bytes(bytes) }
}

/// The digests of every file in a folder and below it, in order of their names.
pub fn list_digests(folder: &Path) -> io::Result<Vec<FileDigest>> {
    fn collect(folder: &Path, prefix: &str, files: &mut Vec<FileDigest>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                collect(&entry.path(), &format!("{name}/"), files)?;
            } else {
                let mut file = File::open(entry.path())?;
                let size = file.metadata()?.len();
                files.push(FileDigest { name, size, sha256: digest_reader(&mut file)? });
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    collect(folder, "", &mut files)?;
    files.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(files)
}

/// The digest of a component, such as `unet`, in hexadecimal: that of the list which
/// `sha256sum` prints of its files in order of their names, so that anyone can repeat it with
/// `cd unet && sha256sum * | sha256sum`.
pub fn digest_component(files: &dyn ModelFiles, component: &str) -> Result<String, ArtifactError> {
    let prefix = format!("{component}/");
    let mut list = String::new();
    for name in files.names() {
        if let Some(relative) = name.strip_prefix(&prefix) {
            let digest = digest_file(files, name)?;
            // Writing to a string cannot fail.
            let _ = writeln!(list, "{digest}  {relative}");
        }
    }
    if list.is_empty() {
        return Err(ArtifactError::File(FileError::Missing {
            location: files.location().to_owned(),
            name: prefix,
        }));
    }
    Ok(digest_bytes(list.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::open_model;

    #[test]
    fn agrees_with_the_standard() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_bytes(b"abc"), expected);
        assert_eq!(digest_reader(&mut &b"abc"[..]).unwrap(), expected);
        assert_eq!(digest_written(|out| out.write_all(b"abc")).unwrap(), expected);
    }

    #[test]
    fn a_component_is_named_by_its_files() {
        let model = open_model("builtin:emoji-canvas").unwrap();
        let unet = digest_component(model.as_ref(), "unet").unwrap();
        assert_eq!(unet.len(), 64);
        assert_ne!(unet, digest_component(model.as_ref(), "vae").unwrap());
        let error = digest_component(model.as_ref(), "prior").unwrap_err().to_string();
        assert!(error.contains("builtin:emoji-canvas") && error.contains("prior"), "{error}");
    }
}
