//! The gate: holds what was measured of an erased model against a policy, and says in the forms that
//! pipelines read whether the model is let through. Pure: no files, no clock.

mod code_quality;
mod date;
mod decide;
mod escape;
mod github;
mod junit;
mod measured;
mod policy;
mod policy_error;
mod policy_file;
mod reading;
mod sarif;
mod table;
#[cfg(test)]
mod tests;
mod toml_table;
mod verdict;

pub use code_quality::code_quality;
pub use date::Date;
pub use decide::Circumstances;
pub use github::{annotations, summary};
pub use junit::junit;
pub use measured::{JudgeCounts, Measured};
pub use policy::{
    Bound, JudgeChoice, Measure, Policy, Rule, RuleKind, Severity, Side, Target, Waiver,
};
pub use policy_error::{PolicyError, PolicyViolation};
pub use sarif::sarif;
pub use table::table;
pub use verdict::{
    Decision, GateVerdict, Outcome, PolicyReference, RowResult, RuleResult, WaiverState,
};
