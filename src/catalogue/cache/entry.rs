//! What an entry of the cache is, and what it is named by.

use crate::artifacts::digest::digest_bytes;

/// Below an entry: the files themselves, so that none of them passes for a file of the cache's.
pub(in crate::catalogue) const FILES: &str = "files";
/// The one file of an entry of pictures.
pub(super) const PICTURES: &str = "pictures";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::catalogue) enum EntryKind {
    /// A base model, by its digest.
    Model,
    /// Edited tensors, by their file's digest.
    Tensors,
    /// Pictures of a base model, by the digest of all that they depend on.
    Pictures,
    /// A download, by the digest of the name of what is downloaded.
    Partial,
}

impl EntryKind {
    pub(super) const ALL: [Self; 4] = [Self::Model, Self::Tensors, Self::Pictures, Self::Partial];

    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Tensors => "tensors",
            Self::Pictures => "pictures",
            Self::Partial => "partial",
        }
    }
}

/// Names an entry, and its folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::catalogue) struct EntryKey {
    kind: EntryKind,
    digest: String,
}

impl EntryKey {
    /// `None` where the digest is no SHA-256 in hexadecimal: it becomes the name of a folder.
    pub(in crate::catalogue) fn new(kind: EntryKind, digest: &str) -> Option<Self> {
        let is_digest = digest.len() == 64
            && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_digest.then(|| Self { kind, digest: digest.to_owned() })
    }

    /// Of a download from there.
    pub(in crate::catalogue) fn partial(source: &str) -> Self {
        Self { kind: EntryKind::Partial, digest: digest_bytes(source.as_bytes()) }
    }

    pub(super) fn kind(&self) -> EntryKind {
        self.kind
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}
