//! The services as a client meets them, in process: the memory store, a scripted device and the
//! real catalogue. Each test says one promise.

mod calls;
mod jobs;
mod requests;
mod suites;
mod world;
