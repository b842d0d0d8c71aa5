//! The library as a program calls it, with real models and no service around it.

mod bad_input;
mod golden;
mod planning;
mod projected_text;
mod resuming;
mod scoring;
mod unlearning;
