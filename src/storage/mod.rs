//! Object storage by URL: bytes there and back, in parts, compared. Knows no jobs and no wire.

mod error;
mod open;
mod place;

pub use error::{StorageError, StorageErrorKind};
pub use open::{StorageSettings, Storages};
pub use place::Place;
