//! The catalogue over a bucket in memory, a cache on disk and a job store in memory.

mod bases;
mod bucket;
mod checkpoints;
mod pages;
mod pictures;
mod world;
