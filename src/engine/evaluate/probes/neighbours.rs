//! The words whose token embeddings lie nearest to a concept's.

use crate::{
    engine::{EngineError, Pipeline},
    spec::{JudgeSpec, find_word},
};

/// Rows of the table that are held beside it at once.
const ROWS_AT_ONCE: usize = 4_096;
/// Shorter words are particles and abbreviations.
const SHORTEST: usize = 3;

/// So many words of one token each, by the cosine of their embedding to the mean of the concept's own
/// tokens in the first text encoder's table, the nearest first. Words that the judge knows by their
/// own name are left out: they should be kept, and their pictures are no sign of the concept.
pub(super) fn nearest(
    base: &Pipeline,
    spec: &JudgeSpec,
    count: usize,
) -> Result<Vec<String>, EngineError> {
    let Some(tower) = base.towers.first().filter(|_| count > 0) else { return Ok(Vec::new()) };
    let tokenizer = &tower.tokenizer;
    let own = tokenizer.tokens(&spec.concept.text)?;
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let rows = |ids: &[u32]| -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(tower.encoder.token_embeddings(&[ids.to_vec()])?.squeeze(0)?.to_vec2()?)
    };
    let wanted = mean(&rows(&own)?);
    let words = tokenizer.words();
    let mut ranked = Vec::with_capacity(words.len());
    for some in words.chunks(ROWS_AT_ONCE) {
        let ids: Vec<u32> = some.iter().map(|(id, _)| *id).collect();
        let cosines = rows(&ids)?.into_iter().map(|row| cosine(&row, &wanted));
        ranked.extend(cosines.zip(some));
    }
    ranked.sort_by(|(one, (first, _)), (other, (second, _))| {
        other.total_cmp(one).then(first.cmp(second))
    });
    let is_known = |word: &str| {
        let vocabulary = &spec.vocabulary;
        find_word(&vocabulary.objects, word).is_some()
            || find_word(&vocabulary.styles, word).is_some()
            || find_word(std::slice::from_ref(&spec.concept.text), word).is_some()
    };
    let mut found = Vec::new();
    for (_, (id, word)) in ranked {
        if found.len() == count {
            break;
        }
        let is_other = word.len() >= SHORTEST && !own.contains(id) && !is_known(word);
        // A merge that no text leads to is no word.
        if is_other && tokenizer.tokens(word)? == [*id] {
            found.push(word.clone());
        }
    }
    Ok(found)
}

fn mean(rows: &[Vec<f32>]) -> Vec<f64> {
    let width = rows.first().map_or(0, Vec::len);
    let sum = rows.iter().fold(vec![0.0; width], |sum, row| {
        sum.iter().zip(row).map(|(sum, value)| sum + f64::from(*value)).collect()
    });
    sum.into_iter().map(|sum| sum / rows.len() as f64).collect()
}

/// 0 where one of them has no length.
fn cosine(row: &[f32], wanted: &[f64]) -> f64 {
    let (mut product, mut of_row, mut of_wanted) = (0.0, 0.0, 0.0);
    for (value, wanted) in row.iter().zip(wanted) {
        let value = f64::from(*value);
        product += value * wanted;
        of_row += value * value;
        of_wanted += wanted * wanted;
    }
    let lengths = (of_row * of_wanted).sqrt();
    if lengths > 0.0 { product / lengths } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-12, "{found} instead of {wanted}");
    }

    #[test]
    fn cosines_are_of_directions_alone() {
        let wanted = mean(&[vec![1.0, 0.0], vec![0.0, 1.0]]);
        near(cosine(&[3.0, 3.0], &wanted), 1.0);
        near(cosine(&[-1.0, 1.0], &wanted), 0.0);
        near(cosine(&[-2.0, -2.0], &wanted), -1.0);
        near(cosine(&[0.0, 0.0], &wanted), 0.0);
    }
}
