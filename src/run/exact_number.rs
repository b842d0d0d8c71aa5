//! Numbers in JSON that come back as they were, those included that JSON does not know: a result
//! whose figures are not finite is still a result, and must be found again after a crash.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A number as JSON has it, or its name.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Finite(f64),
    Other(String),
}

impl From<f64> for Written {
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Finite(number) } else { Self::Other(number.to_string()) }
    }
}

impl Written {
    fn read<E: Error>(self) -> Result<f64, E> {
        match self {
            Self::Finite(number) => Ok(number),
            Self::Other(text) => text.parse().map_err(|_| E::custom("is no number")),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Written::from(*number).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Written::deserialize(deserializer)?.read()
}

/// The same of a number that may be missing.
pub(super) mod optional {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Written;

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub(in crate::run) fn serialize<S: Serializer>(
        number: &Option<f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        number.map(Written::from).serialize(serializer)
    }

    pub(in crate::run) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<f64>, D::Error> {
        Option::<Written>::deserialize(deserializer)?.map(Written::read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use crate::run::TrainingFigures;

    #[test]
    fn figures_come_back_whatever_they_are() {
        let numbers = [0.1, -0.0, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::NEG_INFINITY];
        for number in numbers.into_iter().chain([f64::NAN]) {
            let figures = TrainingFigures {
                stopped_early: false,
                first_loss: Some(number),
                last_loss: None,
                erase_measure: number,
                damage_measure: number,
                weight_change: number,
                learning_rate: number,
            };
            let text = serde_json::to_string(&figures).unwrap();
            let read: TrainingFigures = serde_json::from_str(&text).unwrap();
            assert_eq!(read.last_loss, None);
            let kept = [read.erase_measure, read.learning_rate, read.first_loss.unwrap()];
            assert_eq!(kept.map(f64::is_nan), [number.is_nan(); 3], "{text}");
            assert!(number.is_nan() || kept.map(f64::to_bits) == [number.to_bits(); 3], "{text}");
        }
        let wrong = r#"{"stopped_early":false,"erase_measure":"soon"}"#;
        assert!(serde_json::from_str::<TrainingFigures>(wrong).is_err());
    }
}
