//! Object storage by URL: bytes there and back, in parts, compared. Knows no jobs and no wire.
//!
//! [`Storages`] opens a URL as a [`Place`]. [`deliver`] brings a local file to a place and reads it
//! back, [`send`] leaves the reading out, [`download`] goes the other way round; [`create`] and [`read`] are for what fits into memory,
//! such as a manifest; [`prove`] says beforehand whether all of that works at a place. Dropping a future stops the transfer; what it sent in parts is resumed by
//! the next one with the same journal.

mod content;
mod download;
mod emptying;
mod error;
mod journal;
mod leftovers;
mod listing;
#[cfg(test)]
mod live;
mod open;
mod parts;
mod place;
mod proof;
mod retry;
#[doc(hidden)]
pub mod testing;
mod transfer_options;
mod upload;
mod whole;

pub use content::{Content, LocalFile};
pub use download::{download, read_back};
pub use emptying::remove_below;
pub use error::{StorageError, StorageErrorKind};
pub use leftovers::remove_leftovers;
pub use listing::list_below;
pub use open::{StorageSettings, Storages};
pub use parts::abandon;
pub use place::Place;
pub use proof::prove;
pub use retry::Patience;
pub use transfer_options::TransferOptions;
pub use upload::{deliver, deliver_bytes, send};
pub use whole::{create, exists, read, remove};
