//! What can never be, whatever was measured.

use proptest::prelude::*;

use super::*;
use crate::gate::{Decision, Outcome};

fn compareds() -> impl Strategy<Value = Compared> {
    (1_u64..400).prop_flat_map(|of| {
        (0..=of).prop_flat_map(move |right| {
            (0..=right, 0..=of - right)
                .prop_map(move |(lost, gained)| compared(of, right, lost, gained))
        })
    })
}

fn limits() -> impl Strategy<Value = f64> {
    (1_u32..100).prop_map(|percent| f64::from(percent) / 100.0)
}

/// 2 of this, 1 of that: how well a model stands.
fn better(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Passed => 2,
        Outcome::Undecided => 1,
        Outcome::Failed => 0,
    }
}

fn ua(policy: &Policy, forgotten: u64, of: u64) -> Outcome {
    rule_on(policy, &measures(forgotten, of)).outcome
}

fn damage(policy: &Policy, named: Compared) -> Outcome {
    let words = vec![WordRow { named, ..word("dog", 1, 0) }];
    rule_on(policy, &Measures { words, ..measures(1, 1) }).outcome
}

proptest! {
    #[test]
    fn more_of_the_same_never_turns_a_decision(
        of in 1_u64..300, part in 0.0..=1.0_f64, more in 1_u64..300, limit in limits(), looks in 1_usize..5,
    ) {
        let policy = one_rule(looks, &format!("measure = \"ua\"\nat_least = {limit:?}"));
        let forgotten = (part * of as f64) as u64;
        let now = ua(&policy, forgotten, of);
        let forgets = ua(&policy, forgotten + more, of + more);
        let remembers = ua(&policy, forgotten, of + more);
        prop_assert!(better(forgets) >= better(now), "{now} became {forgets}");
        prop_assert!(better(remembers) <= better(now), "{now} became {remembers}");
    }

    #[test]
    fn the_same_rate_over_more_pictures_is_as_decided(
        named in compareds(), times in 2_u64..6, limit in limits(), of_ua in 0_u64..2,
    ) {
        let scaled = compared(
            named.base.of * times, named.base.count * times, named.drop.lost * times, named.drop.gained * times,
        );
        let (now, then) = if of_ua == 0 {
            let policy = one_rule(1, &format!("measure = \"damage\"\nat_most = {limit:?}"));
            (damage(&policy, named), damage(&policy, scaled))
        } else {
            let policy = one_rule(1, &format!("measure = \"ua\"\nat_least = {limit:?}"));
            (ua(&policy, named.edited.count, named.edited.of), ua(&policy, scaled.edited.count, scaled.edited.of))
        };
        prop_assert!(now == Outcome::Undecided || now == then, "{now} became {then}");
    }

    /// A picture that is lost rather than kept does no good, whichever kind of rule reads it.
    #[test]
    fn one_more_loss_never_helps(named in compareds(), limit in limits(), is_alarm: bool) {
        prop_assume!(named.drop.lost < named.base.count);
        let kind = if is_alarm { "alarm" } else { "proof" };
        let policy =
            one_rule(1, &format!("measure = \"damage\"\nkind = \"{kind}\"\nat_most = {limit:?}"));
        let worse = compared(named.base.of, named.base.count, named.drop.lost + 1, named.drop.gained);
        prop_assert!(better(damage(&policy, worse)) <= better(damage(&policy, named)));
    }

    /// More looks and more rows leave less error to each: nothing is decided by asking more.
    #[test]
    fn asking_more_decides_nothing(of in 1_u64..400, part in 0.0..=1.0_f64, limit in limits(), rows in 1_usize..30) {
        let forgotten = (part * of as f64) as u64;
        let with = |looks| {
            let policy = one_rule(looks, &format!("measure = \"ua\"\nat_least = {limit:?}"));
            ua(&policy, forgotten, of)
        };
        prop_assert!(with(3) == Outcome::Undecided || with(3) == with(1));
        let policy = one_rule(1, &format!("measure = \"damage\"\nat_most = {limit:?}"));
        let of_rows = |rows: usize| {
            let words = vec![word("dog", of, forgotten); rows];
            rule_on(&policy, &Measures { words, ..measures(1, 1) }).outcome
        };
        prop_assert!(of_rows(rows) == Outcome::Undecided || of_rows(rows) == of_rows(1));
    }

    #[test]
    fn one_more_rule_never_helps(forgotten in 0_u64..=100, limit in limits(), other in limits()) {
        let rule = |id: &str, limit: f64| {
            format!("[[rule]]\nid = \"{id}\"\nmeasure = \"ua\"\nat_least = {limit:?}\n")
        };
        let head = "schema = 1\nname = \"x\"\n".to_owned();
        let counts = measures(forgotten, 100);
        let judges = [JudgeCounts { judge: "cnn", measures: Some(&counts) }];
        let of = |text: String| {
            decide(&policy(&text), &Measured { judges: &judges, ..Measured::default() }).verdict
        };
        let one = of(head.clone() + &rule("a", limit));
        let two = of(head + &rule("a", limit) + &rule("b", other));
        prop_assert!(two >= one, "{one} became {two}");
        prop_assert!(one != Decision::Rejected || two == Decision::Rejected);
    }

    /// The forecast is enough, and one picture less than it is not.
    #[test]
    fn the_forecast_is_the_least_that_decides(of in 1_u64..200, limit in limits()) {
        let policy = one_rule(2, &format!("measure = \"ua\"\nat_least = {limit:?}"));
        let result = rule_on(&policy, &measures(of, of));
        if let Some(more) = result.rows[0].more_pictures {
            prop_assert_eq!(ua(&policy, of + more, of + more), Outcome::Passed);
            prop_assert_eq!(ua(&policy, of + more - 1, of + more - 1), Outcome::Undecided);
        }
    }
}
