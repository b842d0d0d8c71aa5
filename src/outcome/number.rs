//! Numbers in JSON, which has neither NaN nor infinity.
//!
//! `complete.json` writes their names, so that the figures of a run that diverged come back as they
//! were ([`serialize`]). Files that others read hold null in their place ([`finite_or_null`]), which
//! `serde_json` also writes by itself. Both forms are read everywhere: null is NaN, or nothing where
//! a number may be missing.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::Value;

/// A number as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Finite(f64),
    Named(String),
    Null,
}

impl From<f64> for Written {
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Finite(number) } else { Self::Named(number.to_string()) }
    }
}

impl Written {
    fn read<E: de::Error>(self) -> Result<f64, E> {
        match self {
            Self::Finite(number) => Ok(number),
            Self::Named(name) => name.parse().map_err(|_| E::custom("is no number")),
            Self::Null => Ok(f64::NAN),
        }
    }
}

/// Writes a number, or the name of what is not finite.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Written::from(*number).serialize(serializer)
}

/// Reads a number, a name, or null as NaN.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Written::deserialize(deserializer)?.read()
}

/// Writes figures with null in place of each name.
pub fn finite_or_null<S: Serializer>(
    figures: &impl Serialize,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut figures = serde_json::to_value(figures).map_err(ser::Error::custom)?;
    let fields = figures.as_object_mut().into_iter().flat_map(|object| object.values_mut());
    fields.filter(|field| field.is_string()).for_each(|name| *name = Value::Null);
    figures.serialize(serializer)
}

/// The same of a number that may be missing.
pub mod optional {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Written;

    /// Writes a number, the name of what is not finite, or null.
    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(
        number: &Option<f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        number.map(Written::from).serialize(serializer)
    }

    /// Reads a number or a name; null is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<f64>, D::Error> {
        Option::<Written>::deserialize(deserializer)?.map(Written::read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use crate::outcome::TrainingFigures;

    fn figures(number: f64) -> TrainingFigures {
        TrainingFigures {
            stopped_early: false,
            first_loss: Some(number),
            last_loss: None,
            erase_measure: number,
            damage_measure: number,
            weight_change: number,
            learning_rate: number,
        }
    }

    #[test]
    fn figures_come_back_whatever_they_are() {
        let numbers = [0.1, -0.0, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::NEG_INFINITY];
        for number in numbers.into_iter().chain([f64::NAN]) {
            let text = serde_json::to_string(&figures(number)).unwrap();
            let read: TrainingFigures = serde_json::from_str(&text).unwrap();
            assert_eq!(read.last_loss, None);
            let kept = [read.erase_measure, read.learning_rate, read.first_loss.unwrap()];
            assert_eq!(kept.map(f64::is_nan), [number.is_nan(); 3], "{text}");
            assert!(number.is_nan() || kept.map(f64::to_bits) == [number.to_bits(); 3], "{text}");
        }
        let wrong = r#"{"stopped_early":false,"erase_measure":"soon"}"#;
        assert!(serde_json::from_str::<TrainingFigures>(wrong).is_err());
    }

    #[test]
    fn files_that_others_read_hold_null() {
        let mut bytes = Vec::new();
        super::finite_or_null(
            &figures(f64::INFINITY),
            &mut serde_json::Serializer::new(&mut bytes),
        )
        .unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let nulled = r#"{"stopped_early":false,"first_loss":null,"last_loss":null,"erase_measure":null,"damage_measure":null,"weight_change":null,"learning_rate":null}"#;
        assert_eq!(text, nulled);
        let read: TrainingFigures = serde_json::from_str(&text).unwrap();
        assert_eq!((read.first_loss, read.last_loss), (None, None));
        assert!(read.erase_measure.is_nan() && read.learning_rate.is_nan());
    }
}
