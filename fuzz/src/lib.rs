//! What the fuzz targets share: a model folder in memory, and the services without a listener.

mod folder;
mod services;

pub use folder::Folder;
pub use services::Services;
