//! Who may do what, as `--check` prints it.

use std::fmt::Write;

use crate::{
    auth::{Allowance, Role, Who},
    config::Settings,
};

/// One line for everybody who is known, and for those who are not.
pub(super) fn callers(settings: &Settings, allowances: &[Allowance]) -> String {
    let mut text = String::from("who may do what:\n");
    for allowance in allowances {
        let Allowance { who, roles, queued_jobs, requests_per_second, expires } = allowance;
        let who = match who {
            Who::Everybody => format!(
                "everybody who reaches {}, all of them the principal \"local\"",
                settings.server.listen
            ),
            Who::EachCertificate => "each certificate name, a principal of its own (the first SAN \
                                     URI, else the first SAN DNS name, else the common name)"
                .to_owned(),
            Who::Token { principal } => format!("principal {:?}, by token", principal.0),
            Who::Certificate { name, principal } => {
                format!("principal {:?}, by certificate {name:?}", principal.0)
            }
        };
        let roles: Vec<_> = roles.iter().copied().map(Role::name).collect();
        let queued = queued_jobs.unwrap_or(settings.limits.queued_of_principal);
        let rate = match requests_per_second {
            Some(rate) => format!("at most {rate} calls a second"),
            None => "any number of calls".to_owned(),
        };
        let until = match expires {
            // Microseconds since 1970, whose remainder is never negative.
            Some(end) => {
                let nanos = i32::try_from(end.0.rem_euclid(1_000_000) * 1_000).unwrap_or_default();
                let seconds = end.0.div_euclid(1_000_000);
                format!(", until {}", prost_types::Timestamp { seconds, nanos })
            }
            None => String::new(),
        };
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "  {who}: {}; at most {queued} queued jobs, {rate}{until}",
            roles.join(", ")
        );
    }
    if allowances.is_empty() {
        text.push_str("  nobody: the token file has no entry\n");
    }
    text.push_str("  anybody, without credentials: grpc.health.v1.Health\n");
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::jobs::{Principal, Timestamp};

    #[test]
    fn a_line_says_who_may_what_and_how_much() {
        let settings = Settings::default();
        let allowance = Allowance {
            who: Who::Token { principal: Principal("ci".to_owned()) },
            roles: BTreeSet::from([Role::Read, Role::Submit]),
            queued_jobs: Some(7),
            requests_per_second: Some(2.5),
            expires: Some(Timestamp(3_600_000_000)),
        };
        let everybody = Allowance {
            who: Who::Everybody,
            roles: Role::ALL.iter().copied().collect(),
            queued_jobs: None,
            requests_per_second: None,
            expires: None,
        };
        let text = callers(&settings, &[allowance, everybody]);
        for line in [
            "  principal \"ci\", by token: read, submit; at most 7 queued jobs, at most 2.5 calls a \
             second, until 1970-01-01T01:00:00Z\n",
            "  everybody who reaches 127.0.0.1:50051, all of them the principal \"local\": read, \
             generate, submit, admin; at most 1000 queued jobs, any number of calls\n",
            "Health\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
