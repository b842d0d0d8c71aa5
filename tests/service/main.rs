//! The parts of the service and the whole of it within the tests' own process, over an engine that
//! is none: its faults, pauses and results are a script's.

mod daemon;
mod daemon_faults;
mod load;
mod outage;
mod outputs;
mod sharing;
mod slots;
mod store_conformance;
mod worker;
