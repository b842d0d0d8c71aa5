//! The parts of the service and the whole of it within the tests' own process, over a
//! scripted engine: faults, pauses and results are what a test asks for.

mod daemon;
mod daemon_faults;
mod load;
mod outage;
mod outputs;
mod sharing;
mod slots;
mod store_conformance;
mod worker;
