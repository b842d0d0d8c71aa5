//! Models on this machine's disk, within a bound.
//!
//! ```text
//! models/DIGEST/    files/…  complete.json  used     a base model, by the digest of all its files
//! tensors/SHA256/   files/…  complete.json  used     the edited tensors of a checkpoint
//! pictures/KEY/     files/…  complete.json  used     pictures that a base model drew to be judged by
//! partial/KEY/      files/…  fetched.json            a download under way, or what is left of one
//! sources/KEY.json                                   what a URL held when it was last read
//! ```
//!
//! `complete.json` is written last and names every file with size and SHA-256. Sizes are compared
//! on every use, digests on the first one of a process; damaged entries are removed. What was used
//! longest ago makes room, and never what is in use. Pictures make room among themselves, within a share
//! of the bound, and are compared whenever they are read. A cache that is emptied by hand fills again:
//! its folders are made where they are missing, and users of a model hold its files open.

mod entry;
mod files;
mod pictures;
mod room;

pub(super) use entry::{EntryKey, EntryKind, FILES, damage_of, write_atomically};
pub(super) use files::{CachedModel, EditedModel};
pub(super) use room::{Cache, CacheError, InUse, PinnedEntry};
