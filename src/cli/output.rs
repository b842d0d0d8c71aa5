//! The files and folders that a verb writes: whole or not at all, and none after a signal.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use super::{CliError, interrupt::Interrupt};
use crate::artifacts::{StagedFile, StagedFolder};

/// Refuses an output file that exists, could not be written, or would say by its name that it holds
/// another format than `extension`, before any work is done. `flag` is what named it.
pub(super) fn check_target(flag: &str, out: &Path, extension: &str) -> Result<(), CliError> {
    let other = out.extension().filter(|other| !other.eq_ignore_ascii_case(extension));
    if let Some(other) = other {
        return Err(CliError::Usage(format!(
            "{flag} {}: ends in .{}, and what is written is of the format {extension}; let the \
             name end in .{extension}",
            out.display(),
            other.display()
        )));
    }
    // Nothing is left of it during the work, where a second signal would leave it behind.
    StagedFile::create(out)?;
    Ok(())
}

/// Writes files whole or not at all, and none after a signal.
pub(super) fn write_whole(files: &[(&Path, &[u8])], interrupt: &Interrupt) -> Result<(), CliError> {
    let mut staged = Vec::new();
    for (out, bytes) in files {
        let mut file = StagedFile::create(out)?;
        file.write(|writer| writer.write_all(bytes))?;
        staged.push(file);
    }
    interrupt.check()?;
    for file in staged {
        file.commit()?;
    }
    Ok(())
}

/// A concept as a part of a file name: lower-case letters and digits of any script, and hyphens.
pub(super) fn name_part(text: &str) -> String {
    let mut part = String::new();
    for letter in text.chars().flat_map(char::to_lowercase).take(60) {
        if letter.is_alphanumeric() {
            part.push(letter);
        } else if !part.is_empty() && !part.ends_with('-') {
            part.push('-');
        }
    }
    let part = part.trim_end_matches('-');
    if part.is_empty() { "concept".to_owned() } else { part.to_owned() }
}

/// A result folder in the making, which gets its name when it is complete and else never.
#[derive(Debug)]
pub(super) struct Staging {
    /// `None` once it is committed.
    folder: Option<StagedFolder>,
    target: PathBuf,
    unfinished: PathBuf,
    interrupt: Interrupt,
}

impl Staging {
    /// Begins the folder; the second signal removes it.
    pub(super) fn create(
        out: &Path,
        expected: &[&str],
        interrupt: &Interrupt,
    ) -> Result<Self, CliError> {
        let folder = StagedFolder::create(out, expected)?;
        let unfinished = folder.unfinished().to_owned();
        interrupt.guard(&unfinished);
        let target = out.to_owned();
        Ok(Self { folder: Some(folder), target, unfinished, interrupt: interrupt.clone() })
    }

    /// The folder until it is complete.
    pub(super) fn path(&self) -> &Path {
        &self.unfinished
    }

    /// Where it will be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// The folder, to write into; fails once a signal has come.
    pub(super) fn folder(&mut self) -> Result<&mut StagedFolder, CliError> {
        self.interrupt.check()?;
        // Only commit, which consumes the staging, takes the folder.
        self.folder.as_mut().ok_or(CliError::Interrupted)
    }

    /// Writes one file.
    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CliError> {
        Ok(self.folder()?.write(name, |out: &mut dyn Write| out.write_all(bytes))?)
    }

    /// Gives the folder its name, unless a signal came.
    pub(super) fn commit(mut self) -> Result<(), CliError> {
        self.interrupt.check()?;
        if let Some(folder) = self.folder.take() {
            folder.commit()?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.interrupt.release(&self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe() {
        let parts = ["cat", "Van Gogh", "../../etc", "  ", "Ängel №5!"].map(name_part);
        assert_eq!(parts, ["cat", "van-gogh", "etc", "concept", "ängel-5"]);
    }

    #[test]
    fn a_name_does_not_lie_about_the_format() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cat.png", "cat.PNG", "cat"] {
            check_target("--out", &folder.path().join(name), "png").unwrap();
        }
        for name in ["cat.jpg", "cat.png.webp"] {
            let refused = check_target("--sheet", &folder.path().join(name), "png").unwrap_err();
            assert_eq!(refused.exit_code(), 2);
            let text = refused.to_string();
            for part in ["--sheet", name, ".png"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_written_once_and_not_after_a_signal() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("x.json");
        let interrupt = Interrupt::default();
        check_target("--out", &out, "json").unwrap();
        write_whole(&[(&out, b"1")], &interrupt).unwrap();
        assert!(matches!(check_target("--out", &out, "json"), Err(CliError::Artifact(_))));
        interrupt.cancel.cancel();
        let other = folder.path().join("y.json");
        let result = write_whole(&[(&other, b"2")], &interrupt);
        assert!(matches!(result, Err(CliError::Interrupted)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(&out).unwrap(), b"1");
    }

    #[test]
    fn nothing_is_left_of_an_interrupted_folder() {
        let parent = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::default();
        let out = parent.path().join("out");
        let mut staging = Staging::create(&out, &[], &interrupt).unwrap();
        staging.write("a", b"1").unwrap();
        interrupt.cancel.cancel();
        assert!(matches!(staging.write("b", b"2"), Err(CliError::Interrupted)));
        assert!(matches!(staging.commit(), Err(CliError::Interrupted)));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
