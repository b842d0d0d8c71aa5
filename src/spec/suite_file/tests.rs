//! Files as they are published, and everything that goes wrong with them.

use proptest::prelude::*;

use super::*;
use crate::spec::MAX_PROMPT_CHARS;

fn csv(text: &str) -> Result<Suite, SuiteFileError> {
    read_suite("found.csv", text.as_bytes(), Expectation::Gone)
}

fn refused(file: &str, bytes: &[u8]) -> String {
    read_suite(file, bytes, Expectation::Gone).unwrap_err().to_string()
}

/// Prompt, seed and guidance of each row.
fn drawn(suite: &Suite) -> Vec<(&str, u64, Option<f64>)> {
    suite.prompts.iter().map(|it| (it.prompt.as_str(), it.seed, it.guidance_scale)).collect()
}

#[test]
fn i2p_is_read_under_both_names_of_its_columns() {
    let original = "prompt,categories,hard,inappropriate_percentage,nudity_percentage,\
        q16_percentage,sd_safety_percentage,prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,\
        sd_image_width,sd_image_height,sd_model\n\
        \"a cat, by \"\"nobody\"\"\",\"hate, harassment\",0,1.5,2,3,4,0.5,u,2719621132,7,512,768,v\n";
    let suite = csv(original).unwrap();
    assert_eq!(drawn(&suite), [("a cat, by \"nobody\"", 2_719_621_132, Some(7.0))]);
    assert_eq!(suite.columns, ["prompt", "sd_seed", "sd_guidance_scale"]);
    // A copy: pandas' index has no name, and both sets of columns may be there.
    let copy = "\u{feff},prompt,sd_seed,evaluation_seed,evaluation_guidance\r\n\
        0,\"two\nlines\",1,4,7.5\r\n1,plain,2,5,9\r\n";
    let suite = csv(copy).unwrap();
    assert_eq!(drawn(&suite), [("two\nlines", 4, Some(7.5)), ("plain", 5, Some(9.0))]);
    assert_eq!(suite.columns, ["prompt", "evaluation_seed", "evaluation_guidance"]);
}

#[test]
fn attack_sets_are_read() {
    let suite = csv("case_number,prompt,evaluation_seed,evaluation_guidance\n7,a cat,42,7.5\n");
    assert_eq!(drawn(&suite.unwrap()), [("a cat", 42, Some(7.5))]);
    // Ring-A-Bell, with a header and without.
    let suite = csv("prompt,case_number,evaluation_seed\nx y z,0,42\n");
    assert_eq!(drawn(&suite.unwrap()), [("x y z", 42, None)]);
    let suite = csv("one prompt\n\n\"two, prompts\"\n").unwrap();
    assert_eq!(drawn(&suite), [("one prompt", 0, None), ("two, prompts", 1, None)]);
    assert!(suite.columns.is_empty());
    // MMA-Diffusion: what the attack found, not what it started from.
    let suite = csv("target_prompt,adv_prompt,prompt\na cat,c4t purr,a cat\n").unwrap();
    assert_eq!(drawn(&suite), [("c4t purr", 0, None)]);
    // "When Are Concepts Erased".
    assert_eq!(drawn(&csv("prompt,seed\na cat,3\n").unwrap()), [("a cat", 3, None)]);
    let suite = read_suite("p.TSV", b"Prompt\tSeed\na cat, now\t3\n", Expectation::Gone).unwrap();
    assert_eq!(drawn(&suite), [("a cat, now", 3, None)]);
}

#[test]
fn the_grid_of_unlearn_canvas_makes_its_own_prompts() {
    let grid = "theme,class,seed\nArtist_Sketch,Cats,188\nNeon_Lines,Dogs,288\n";
    let suite = csv(grid).unwrap();
    assert_eq!(suite.prompts[0].prompt, "A Cats image in Artist Sketch style.");
    assert_eq!(suite.prompts[1].seed, 288);
    assert_eq!(suite.prompts[1].style.as_deref(), Some("Neon Lines"));
    assert_eq!(suite.columns, ["seed", "class", "theme"]);
}

#[test]
fn what_should_be_kept_is_named() {
    let kept = |text: &str| read_suite("kept.csv", text.as_bytes(), Expectation::Kept);
    let suite = kept("prompt,object\na dog,dog\n").unwrap();
    assert_eq!((suite.expects, suite.prompts[0].object.as_deref()), (suite.expects, Some("dog")));
    for (text, wanted) in [
        ("prompt,seed\na dog,1\n", "\"object\" (or \"class\")"),
        ("a dog\n", "what its pictures should keep"),
        ("prompt,object\na dog,\n", "empty object"),
    ] {
        let message = kept(text).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
    // Where all should be gone, nobody asks what a row shows.
    assert_eq!(csv("prompt,object\na dog,\n").unwrap().prompts[0].object, None);
}

#[test]
fn json_lists_are_read() {
    let json = |text: &str| read_suite("list.json", text.as_bytes(), Expectation::Gone);
    let suite = json("\u{feff}[\"a cat\", \"a, \\\"cat\\\"\"]").unwrap();
    assert_eq!(drawn(&suite), [("a cat", 0, None), ("a, \"cat\"", 1, None)]);
    let suite = json(
        r#"[{"prompt": "a", "seed": 18446744073709551615, "guidance": 7.5, "more": [{}]},
            {"seed": "2", "guidance": 0, "prompt": "b"}]"#,
    )
    .unwrap();
    assert_eq!(drawn(&suite), [("a", u64::MAX, Some(7.5)), ("b", 2, Some(0.0))]);
    assert_eq!(suite.columns, ["prompt", "seed", "guidance"]);
    for (text, wanted) in [
        ("", "holds no prompt"),
        ("[]", "holds no prompt"),
        ("{\"prompt\": \"a\"}", "no JSON list"),
        ("[\"a\"", "no JSON list"),
        ("[1]", "no JSON list"),
        ("[\"a\"] x", "no JSON list"),
        ("[\"a\", {\"prompt\": \"b\"}]", "entry 2: is of another kind"),
        ("[{\"text\": \"a\"}]", "no column \"prompt\""),
        ("[{\"prompt\": \"a\", \"prompt\": \"b\"}]", "entry 1: has \"prompt\" twice"),
        ("[{\"prompt\": \"a\", \"Prompt\": \"b\"}]", "two columns \"prompt\""),
        ("[{\"prompt\": \"a\", \"seed\": 1}, {\"prompt\": \"b\"}]", "entry 2: its seed \"\""),
        ("[{\"prompt\": \"a\", \"seed\": 1.5}]", "entry 1: its seed \"1.5\""),
        ("[{\"prompt\": \"a\", \"seed\": 18446744073709551616}]", "entry 1: its seed"),
        ("[{\"prompt\": null}]", "entry 1: its prompt is empty"),
    ] {
        let message = json(text).unwrap_err().to_string();
        assert!(message.contains(wanted), "{text}: {message}");
    }
}

#[test]
fn text_files_have_one_prompt_a_line() {
    let text = "a cat, \"sleeping\"\r\n\r\n  \nprompt\n";
    let suite = read_suite("found.txt", text.as_bytes(), Expectation::Gone).unwrap();
    assert_eq!(drawn(&suite), [("a cat, \"sleeping\"", 0, None), ("prompt", 1, None)]);
}

#[test]
fn seeds_are_those_of_torch() {
    for (cell, seed) in [
        ("0", 0),
        (" 42 ", 42),
        ("18446744073709551615", u64::MAX),
        ("-1", u64::MAX),
        ("-9223372036854775808", 1 << 63),
        ("42.0", 42),
        ("-1.00", u64::MAX),
    ] {
        assert_eq!(read_seed(cell), Ok(seed), "{cell}");
    }
    for cell in [
        "", "x", "1.5", "1.", ".0", "1e3", "0x1", "nan", "18446744073709551616",
        "-9223372036854775809", "9007199254740993.0", "1,000",
    ] {
        let message = csv(&format!("prompt,seed\na,\"{cell}\"\n")).unwrap_err().to_string();
        assert!(message.starts_with("line 2: its seed"), "{message}");
        assert!(message.contains(&format!("{cell:?}")), "{message}");
    }
}

#[test]
fn guidance_is_a_number_in_its_range() {
    for cell in ["", "x", "-0.1", "100.5", "nan", "inf", "7,5"] {
        let message = csv(&format!("prompt,guidance\na,\"{cell}\"\n")).unwrap_err().to_string();
        assert!(message.starts_with("line 2: its guidance"), "{message}");
    }
}

#[test]
fn broken_bytes_are_told_with_line_and_byte() {
    let message = refused("a.csv", b"prompt,seed\na cat,1\ncaf\xe9,2\n");
    assert!(message.contains("line 3 holds the byte 0xe9 at offset 23"), "{message}");
    let message = refused("a.csv", b"\xff\xfep\0r\0");
    assert!(message.contains("line 1") && message.contains("UTF-16"), "{message}");
    // Cut off within a character.
    assert!(refused("a.json", b"[\"caf\xc3").contains("0xc3"));
}

#[test]
fn what_is_missing_or_doubled_is_named() {
    let message = refused("a.csv", b",text,sd_seed\n0,a cat,1\n");
    assert!(message.contains("no column \"prompt\" or \"adv_prompt\""), "{message}");
    assert!(message.contains("it has \"\", \"text\", \"sd_seed\""), "{message}");
    assert!(refused("a.csv", b"caption\na cat\n").contains("it has \"caption\""));
    // Without a header, prompts with commas are no columns.
    let message = refused("a.csv", b"a cat, sleeping\na cat\n");
    assert!(message.contains(".txt") && message.contains("\" sleeping\""), "{message}");
    for header in ["prompt,seed,Seed", "prompt,prompt,seed"] {
        let message = csv(&format!("{header}\na,1,1\n")).unwrap_err().to_string();
        assert!(message.contains("two columns"), "{message}");
    }
    // What nobody reads may stand there twice.
    assert!(csv("prompt,x,x\na,1,1\n").is_ok());
    let many = format!("{}seed\n", "x,".repeat(40));
    assert!(csv(&many).is_err());
    let message = csv(&format!("{many}{}1\n", "x,".repeat(40))).unwrap_err().to_string();
    assert!(message.contains("and 25 more"), "{message}");
}

#[test]
fn files_without_prompts_are_refused() {
    for empty in ["", "\u{feff}", "\n\r\n", "prompt,seed\n", "prompt"] {
        assert_eq!(csv(empty).unwrap_err().to_string(), SuiteFileError::Empty.to_string());
    }
    for file in ["a.txt", "a.json", "a.tsv", "a"] {
        assert_eq!(refused(file, b""), SuiteFileError::Empty.to_string());
    }
}

#[test]
fn rows_are_told_by_the_line_that_they_begin_on() {
    for (text, wanted) in [
        ("prompt,seed\r\n\r\na,1\r\nb\r\n", "line 4: has 1 fields, the header has 2"),
        ("prompt,seed\n\"a\nb\",1\n\"c\",1,2\n", "line 4: has 3 fields"),
        ("prompt,seed\na,1\n\"b,2\nc,3\n", "line 3: opens a quote"),
        ("prompt\na\n\"b\nc\n", "line 3: opens a quote"),
        ("prompt,seed\n,1\n", "line 2: its prompt is empty"),
        ("prompt,seed\na\0b,1\n", "line 2: its prompt holds the control character"),
    ] {
        let message = csv(text).unwrap_err().to_string();
        assert!(message.starts_with(wanted), "{text:?}: {message}");
    }
    let long = format!("prompt\n{}\n", "x".repeat(MAX_PROMPT_CHARS + 1));
    assert!(csv(&long).unwrap_err().to_string().starts_with("line 2: its prompt has 1001"));
    // A quote within a field is a sign like any other.
    assert_eq!(drawn(&csv("prompt,seed\na 5\" cat,1\n").unwrap()), [("a 5\" cat", 1, None)]);
}

#[test]
fn limits_are_stated() {
    let message = refused("a.csv", &vec![b'a'; MAX_BYTES + 1]);
    assert!(message.contains("16777217 bytes, the limit is 16777216"), "{message}");
    for (file, text) in [
        ("a.csv", "a\n".repeat(Suite::MAX_PROMPTS + 1)),
        ("a.txt", "a\n".repeat(Suite::MAX_PROMPTS + 1)),
        ("a.json", format!("[{}\"a\"]", "\"a\",".repeat(Suite::MAX_PROMPTS))),
    ] {
        assert!(refused(file, text.as_bytes()).contains("more than 10000 prompts"), "{file}");
    }
    assert_eq!(csv(&"a\n".repeat(Suite::MAX_PROMPTS)).unwrap().prompts.len(), Suite::MAX_PROMPTS);
}

#[test]
fn the_name_is_the_files_own() {
    for (file, name) in
        [("i2p.csv", "i2p"), ("a.b.csv", "a.b"), ("plain", "plain"), (".csv", ".csv")]
    {
        assert_eq!(read_suite(file, b"a cat\n", Expectation::Gone).unwrap().name, name);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_the_reader(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ending in prop::sample::select(vec!["csv", "json", "txt", "tsv"]),
        kept in any::<bool>(),
    ) {
        let expects = if kept { Expectation::Kept } else { Expectation::Gone };
        let _ = read_suite(&format!("a.{ending}"), &bytes, expects);
    }

    /// Texts of the signs that mean something to a reader go deeper than any bytes.
    #[test]
    fn no_text_panics_the_reader(
        text in "(prompt|seed|object|style|guidance|[\"',\r\n\t\\[\\]{}:0-9.a\u{feff}-]){0,60}",
        ending in prop::sample::select(vec!["csv", "json", "txt", "tsv"]),
    ) {
        if let Ok(suite) = read_suite(&format!("a.{ending}"), text.as_bytes(), Expectation::Gone) {
            // What is read can be asked for.
            prop_assert_eq!(suite.validate_at(&crate::spec::Field::Suites.at(0)), Ok(()));
        }
    }

    /// Any prompts, written as CSV, come back.
    #[test]
    fn what_is_written_as_csv_comes_back(
        prompts in proptest::collection::vec(("[^\\p{C}]{0,20}[a-z][^\\p{C}]{0,9}", any::<u64>()), 1..9),
    ) {
        let mut file = "prompt,seed\n".to_owned();
        for (prompt, seed) in &prompts {
            let line = format!("\"{}\",{seed}\r\n", prompt.replace('"', "\"\""));
            file += &line;
        }
        let suite = csv(&file).unwrap();
        let read: Vec<_> = suite.prompts.into_iter().map(|it| (it.prompt, it.seed)).collect();
        prop_assert_eq!(read, prompts);
    }
}
