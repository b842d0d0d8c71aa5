//! Object storage by URL: uploads and downloads, in parts, compared afterwards. Knows no jobs and no
//! wire.
//!
//! [`Storages`] opens a URL as a [`StorageLocation`]. [`deliver`] brings a local file to a place and reads it
//! back, [`send`] leaves the reading out, [`download`] goes the other way round; [`create`] and
//! [`read`] are for what fits into memory, such as a manifest; [`prove`] checks beforehand that all of
//! that works at a place. Dropping a future stops the transfer; the next one with the same journal
//! resumes what it sent in parts.

mod content;
mod download;
mod error;
mod journal;
mod listing;
#[cfg(test)]
mod live;
mod location;
mod open;
mod parts;
mod proof;
mod removal;
#[cfg(feature = "testing")]
pub mod testing;
mod transfer_options;
mod upload;
mod whole;

pub use content::{Content, LocalFile};
pub use download::{digest, download, read_back};
pub use error::{StorageError, StorageErrorKind};
pub use journal::JOURNAL;
pub use listing::{list_below, list_sizes_below};
pub use location::StorageLocation;
pub use open::{StorageSettings, Storages};
pub use parts::abandon;
pub use proof::prove;
pub use removal::{remove_below, remove_leftovers};
pub use transfer_options::{Patience, TransferOptions};
pub use upload::{deliver, deliver_bytes, send};
pub use whole::{create, exists, read, remove};
