//! Reads the attacks of a request.

use crate::{
    api::violations::Violations,
    proto::keystep::v1::{Attack as WireAttack, AttackName as WireName},
    spec::{AttackName, AttackSpec, Field},
};

/// The attacks that are asked for. What cannot be read is refused with its place.
pub(super) fn read_attacks(
    mut attacks: Vec<WireAttack>,
    found: &mut Violations,
) -> Vec<AttackSpec> {
    found.at_most(Field::Attacks, &mut attacks, AttackSpec::MOST);
    let mut read = Vec::with_capacity(attacks.len());
    for (index, WireAttack { name, guided, budget, seed, pictures }) in
        attacks.into_iter().enumerate()
    {
        let at = Field::Attacks.at(index);
        let attack = match found.choice(at.clone(), name) {
            None => continue,
            Some(WireName::Unspecified) => {
                found.add(at, "is unset; say which attack");
                continue;
            }
            Some(WireName::ConceptInversion) => AttackName::ConceptInversion,
            Some(WireName::UnlearnDiffAtk) => AttackName::UnlearnDiffAtk,
            Some(WireName::RingABell) => AttackName::RingABell,
            Some(WireName::P4d) => AttackName::P4d,
            Some(WireName::Completion) => AttackName::Completion,
            Some(WireName::Noise) => AttackName::Noise,
            Some(WireName::ImageToImage) => AttackName::ImageToImage,
            Some(WireName::Inpainting) => AttackName::Inpainting,
            Some(WireName::RelearningBenign) => AttackName::RelearningBenign,
            Some(WireName::RelearningFewShot) => AttackName::RelearningFewShot,
        };
        let default = AttackSpec::new(attack);
        read.push(AttackSpec {
            guided,
            budget: budget.unwrap_or(default.budget),
            seed: seed.unwrap_or(default.seed),
            pictures: pictures.map_or(default.pictures, |pictures| pictures as usize),
            ..default
        });
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(name: WireName) -> WireAttack {
        WireAttack { name: name.into(), ..WireAttack::default() }
    }

    #[test]
    fn what_is_unset_has_its_default() {
        let mut found = Violations::default();
        let asked = WireAttack { seed: Some(0), pictures: Some(3), ..wire(WireName::Noise) };
        let read = read_attacks(vec![wire(WireName::Completion), asked], &mut found);
        let noise = AttackSpec { pictures: 3, ..AttackSpec::new(AttackName::Noise) };
        assert_eq!(read, [AttackSpec::new(AttackName::Completion), noise]);
        assert!(found.finish().is_ok());
    }

    #[test]
    fn an_attack_without_a_name_is_refused() {
        for attack in
            [wire(WireName::Unspecified), WireAttack { name: 99, ..WireAttack::default() }]
        {
            let mut found = Violations::default();
            assert!(read_attacks(vec![wire(WireName::Noise), attack], &mut found).len() == 1);
            assert!(found.finish().is_err());
        }
    }
}
