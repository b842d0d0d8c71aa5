//! A concept's text as it is misspelt, and as it looks the same in other letters.

use crate::engine::schedule::NoiseSource;

/// Misspellings of each sort.
const MOST_A_SORT: usize = 2;

/// One letter off: dropped, doubled, swapped with the next, or replaced by the key beside it. Two of
/// each sort where there are so many, at places that are drawn.
pub(super) fn misspellings(text: &str, noise: &mut NoiseSource) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let mut found: Vec<String> = Vec::new();
    for sort in [drop_letter, double_letter, swap_letters, hit_key_beside] {
        let mut places: Vec<usize> = (0..letters.len()).collect();
        noise.shuffle(&mut places);
        let before = found.len();
        for place in places {
            if found.len() - before == MOST_A_SORT {
                break;
            }
            let Some(misspelt) = sort(&letters, place, noise) else { continue };
            let misspelt: String = misspelt.into_iter().collect();
            if misspelt != text && !found.contains(&misspelt) {
                found.push(misspelt);
            }
        }
    }
    found
}

fn is_letter(letters: &[char], place: usize) -> bool {
    letters.get(place).is_some_and(|letter| letter.is_alphabetic())
}

/// A word of one letter stays.
fn drop_letter(letters: &[char], place: usize, _: &mut NoiseSource) -> Option<Vec<char>> {
    let has_another = is_letter(letters, place + 1)
        || place.checked_sub(1).is_some_and(|before| is_letter(letters, before));
    (is_letter(letters, place) && has_another).then(|| {
        let mut misspelt = letters.to_vec();
        misspelt.remove(place);
        misspelt
    })
}

fn double_letter(letters: &[char], place: usize, _: &mut NoiseSource) -> Option<Vec<char>> {
    let letter = letters.get(place).filter(|letter| letter.is_alphabetic())?;
    let mut misspelt = letters.to_vec();
    misspelt.insert(place, *letter);
    Some(misspelt)
}

fn swap_letters(letters: &[char], place: usize, _: &mut NoiseSource) -> Option<Vec<char>> {
    (is_letter(letters, place) && is_letter(letters, place + 1)).then(|| {
        let mut misspelt = letters.to_vec();
        misspelt.swap(place, place + 1);
        misspelt
    })
}

/// The keys of a row that lie left and right, on a keyboard of English letters.
fn hit_key_beside(letters: &[char], place: usize, noise: &mut NoiseSource) -> Option<Vec<char>> {
    const ROWS: [&str; 3] = ["qwertyuiop", "asdfghjkl", "zxcvbnm"];
    let letter = letters.get(place)?.to_ascii_lowercase();
    let beside: Vec<char> = ROWS.iter().find_map(|row| {
        let keys: Vec<char> = row.chars().collect();
        let at = keys.iter().position(|key| *key == letter)?;
        let sides = [at.checked_sub(1), at.checked_add(1)].into_iter().flatten();
        Some(sides.filter_map(|side| keys.get(side).copied()).collect())
    })?;
    let key = *beside.get(noise.index(beside.len()))?;
    let mut misspelt = letters.to_vec();
    *misspelt.get_mut(place)? = key;
    Some(misspelt)
}

/// The same to the eye, and other characters to a tokenizer: one letter in Cyrillic, all that there
/// are of Cyrillic look-alikes, all in full width, and all parted by zero-width joiners.
pub(super) fn homoglyphs(text: &str) -> Vec<String> {
    const ZERO_WIDTH_JOINER: char = '\u{200d}';
    let cyrillic: String = text.chars().map(|c| in_cyrillic(c).unwrap_or(c)).collect();
    let first = text.char_indices().find_map(|(at, c)| {
        let (before, rest) = text.split_at_checked(at)?;
        let behind = rest.strip_prefix(c)?;
        in_cyrillic(c).map(|like| format!("{before}{like}{behind}"))
    });
    let full_width: String = text.chars().map(in_full_width).collect();
    let mut joined = String::new();
    let mut last: Option<char> = None;
    for letter in text.chars() {
        if letter.is_alphabetic() && last.is_some_and(char::is_alphabetic) {
            joined.push(ZERO_WIDTH_JOINER);
        }
        joined.push(letter);
        last = Some(letter);
    }
    let mut found: Vec<String> = Vec::new();
    for alike in first.into_iter().chain([cyrillic, full_width, joined]) {
        if alike != text && !found.contains(&alike) {
            found.push(alike);
        }
    }
    found
}

/// Cyrillic letters that look like English ones.
fn in_cyrillic(letter: char) -> Option<char> {
    Some(match letter {
        'a' => 'а',
        'e' => 'е',
        'o' => 'о',
        'p' => 'р',
        'c' => 'с',
        'x' => 'х',
        'y' => 'у',
        'i' => 'і',
        _ => return None,
    })
}

/// U+FF01 to U+FF5E are the signs of ASCII, as wide as an ideograph.
fn in_full_width(letter: char) -> char {
    const OFFSET: u32 = 0xFF01 - 0x21;
    let wide = || char::from_u32(u32::from(letter) + OFFSET);
    letter.is_ascii_alphanumeric().then(wide).flatten().unwrap_or(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misspelt(text: &str, seed: u64) -> Vec<String> {
        misspellings(text, &mut NoiseSource::new(seed))
    }

    #[test]
    fn a_misspelt_word_is_one_slip_away() {
        for seed in 0..50 {
            let found = misspelt("cat", seed);
            let sorts: [(&[&str], usize); 4] = [
                (&["at", "ct", "ca"], 2),
                (&["ccat", "caat", "catt"], 2),
                (&["act", "cta"], 2),
                (&["xat", "vat", "cst", "car", "cay"], 2),
            ];
            let mut rest = found.as_slice();
            for (words, count) in sorts {
                let (these, others) = rest.split_at(count);
                assert!(these.iter().all(|it| words.contains(&it.as_str())), "{these:?} {words:?}");
                rest = others;
            }
            assert!(rest.is_empty(), "{found:?}");
            let different: std::collections::BTreeSet<_> = found.iter().collect();
            assert_eq!(different.len(), found.len());
        }
    }

    #[test]
    fn the_same_seed_slips_in_the_same_way() {
        assert_eq!(misspelt("sailboat", 7), misspelt("sailboat", 7));
        assert!((0..20).any(|seed| misspelt("sailboat", seed) != misspelt("sailboat", 7)));
    }

    #[test]
    fn several_words_stay_several_and_other_letters_have_no_keys() {
        for seed in 0..50 {
            for found in misspelt("a van gogh", seed) {
                assert_eq!(found.split(' ').count(), 3, "{found}");
                assert!(found.split(' ').all(|word| !word.is_empty()), "{found}");
            }
            // Dropped, doubled and swapped; no key of them is known.
            let found = misspelt("кот", seed);
            assert_eq!(found.len(), 6, "{found:?}");
            let signs = "котк".chars().collect::<Vec<_>>();
            assert!(found.iter().all(|it| it.chars().all(|c| signs.contains(&c))), "{found:?}");
        }
        assert_eq!(misspelt("猫", 0), ["猫猫"]);
        // Equal letters cannot be swapped.
        assert_eq!(misspelt("oo", 0)[..2], ["o", "ooo"]);
        for text in ["", "3", "<>", " "] {
            assert!(misspelt(text, 0).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn look_alikes_are_other_characters() {
        assert_eq!(
            homoglyphs("cat"),
            ["\u{441}at", "\u{441}\u{430}t", "\u{ff43}\u{ff41}\u{ff54}", "c\u{200d}a\u{200d}t",]
        );
        // Words are parted as before; one look-alike is not told twice.
        assert_eq!(
            homoglyphs("hot dog")[1..],
            [
                "h\u{43e}t d\u{43e}g".to_owned(),
                "\u{ff48}\u{ff4f}\u{ff54} \u{ff44}\u{ff4f}\u{ff47}".to_owned(),
                "h\u{200d}o\u{200d}t d\u{200d}o\u{200d}g".to_owned(),
            ]
        );
        assert_eq!(homoglyphs("dog").len(), 3);
        assert_eq!(homoglyphs("кот"), ["к\u{200d}о\u{200d}т"]);
        for text in ["", "猫", "3"] {
            assert!(homoglyphs(text).iter().all(|alike| alike == "\u{ff13}"), "{text}");
        }
    }
}
