//! Small but working stand-ins for what a worker uses: a scripted engine, the built-in model as a
//! catalogue, a local folder as object storage. For tests of the worker and of what is built on it.

mod counted;
mod engine;
mod folder_publisher;
mod models;

pub use engine::{
    BeforeUpdate, FakeBytes, FakeEngine, FakeErased, FakeScript, FakeSource, FakeUnit, Fault,
    FaultKind,
};
pub use folder_publisher::FolderPublisher;
pub use models::FixedModels;
