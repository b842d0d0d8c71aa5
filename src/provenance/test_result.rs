//! What a policy said of a result: in-toto's test-result predicate, version 0.1.

use serde::{Deserialize, Serialize};

use super::ResourceDescriptor;

/// The type of the predicate.
pub const TEST_RESULT: &str = "https://in-toto.io/attestation/test-result/v0.1";

/// What a policy comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TestVerdict {
    /// Every rule is shown to hold.
    Passed,
    /// Every rule but some that only warn.
    Warned,
    /// A rule does not hold, or is not shown to: a reader who looks at this alone lets nothing
    /// undecided pass.
    Failed,
}

impl TestVerdict {
    /// As the predicate has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Warned => "WARNED",
            Self::Failed => "FAILED",
        }
    }
}

/// What one rule of a policy comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleOutcome {
    /// Shown to hold.
    Passed,
    /// Does not hold, or is not shown to, and only warns.
    Warned,
    /// Does not hold.
    Failed,
    /// Not shown either way, or not measured.
    Undecided,
}

/// The predicate, with these members and no other, which strict readers refuse: figures stand in a
/// predicate of their own ([`super::Evaluated`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestResult {
    /// What the policy comes to.
    pub result: TestVerdict,
    /// The policy's file first, then suites of prompts, each with its digest.
    pub configuration: Vec<ResourceDescriptor>,
    /// Rules that hold.
    #[serde(default)]
    pub passed_tests: Vec<String>,
    /// Rules that do not and only warn.
    #[serde(default)]
    pub warned_tests: Vec<String>,
    /// Rules that do not, and those that nobody could decide.
    #[serde(default)]
    pub failed_tests: Vec<String>,
}

impl TestResult {
    /// Of a policy with these rules. A policy without any passes nothing.
    pub fn new<'a>(
        policy: ResourceDescriptor,
        suites: Vec<ResourceDescriptor>,
        rules: impl IntoIterator<Item = (&'a str, RuleOutcome)>,
    ) -> Self {
        let (mut passed, mut warned, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (id, outcome) in rules {
            let list = match outcome {
                RuleOutcome::Passed => &mut passed,
                RuleOutcome::Warned => &mut warned,
                RuleOutcome::Failed | RuleOutcome::Undecided => &mut failed,
            };
            list.push(id.to_owned());
        }
        let result = if !failed.is_empty() || (passed.is_empty() && warned.is_empty()) {
            TestVerdict::Failed
        } else if warned.is_empty() {
            TestVerdict::Passed
        } else {
            TestVerdict::Warned
        };
        Self {
            result,
            configuration: std::iter::once(policy).chain(suites).collect(),
            passed_tests: passed,
            warned_tests: warned,
            failed_tests: failed,
        }
    }

    /// SHA-256 of the policy's file; empty where the statement names none.
    pub fn policy_sha256(&self) -> &str {
        let policy = self.configuration.first();
        policy.and_then(|policy| policy.digest.get_sha256()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &[(&str, RuleOutcome)]) -> TestResult {
        let policy = ResourceDescriptor::new("policy.toml", &"ab".repeat(32));
        TestResult::new(policy, Vec::new(), rules.iter().copied())
    }

    #[test]
    fn what_nobody_decided_does_not_pass() {
        use RuleOutcome::{Failed, Passed, Undecided, Warned};
        assert_eq!(of(&[("a", Passed)]).result, TestVerdict::Passed);
        assert_eq!(of(&[("a", Passed), ("b", Warned)]).result, TestVerdict::Warned);
        assert_eq!(of(&[("a", Passed), ("b", Failed)]).result, TestVerdict::Failed);
        let undecided = of(&[("a", Passed), ("b", Undecided), ("c", Warned)]);
        assert_eq!(undecided.result, TestVerdict::Failed);
        assert_eq!(undecided.failed_tests, ["b"]);
        assert_eq!(of(&[]).result, TestVerdict::Failed);
    }

    #[test]
    fn it_has_the_members_that_strict_readers_take() {
        let json = serde_json::to_value(of(&[("a", RuleOutcome::Passed)])).unwrap();
        let members: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            members,
            ["result", "configuration", "passedTests", "warnedTests", "failedTests"]
        );
        assert_eq!(json["result"], "PASSED");
        assert_eq!(of(&[]).policy_sha256(), "ab".repeat(32));
    }
}
