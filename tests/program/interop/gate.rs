//! What `keystep gate` writes, by the schemas and readers of those that consume it, with names that
//! nobody means well with.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{output, processes::local, script, tools::python};
use crate::gate::{gate, place, report};

const HOSTILE: &str = "\"><script>alert(1)</script>'&]]>\r\n::error::x%0A\u{1}\u{1b}[31m\u{202e}|`@a`\u{ffff}\u{1f980}";

/// A rule that is kept, one that fails, one that waits, a warning, one that is waived, and hostile
/// names in the policy itself.
const POLICY: &str = r#"
schema = 1
name = "\"><script>,:%"
[[rule]]
id = "kept"
measure = "ira"
at_least = 0.9
[[rule]]
id = "<a&b>\"',:%\n"
measure = "ua"
at_least = 0.95
[[rule]]
id = "waits"
measure = "drop-cra"
at_most = 0.02
[[rule]]
id = "warns"
measure = "ua"
at_least = 0.5
severity = "warning"
[[rule]]
id = "waived"
measure = "ua"
at_least = 0.5
waive = { until = "9999-12-31", reason = "<!-- \u0007 -->" }
"#;

#[test]
fn pipelines_read_what_the_gate_writes() {
    let Some(python) = python() else { return };
    let place = place(POLICY, &report(HOSTILE, HOSTILE, 2, 64));
    let files = ["--junit", "a.xml", "--sarif", "a.sarif", "--code-quality", "q.json"];
    gate(place.path(), &files).assert().code(3);
    let mut reader = script(python, "gate_outputs.py");
    reader.current_dir(place.path()).args(files);
    let read: Value = serde_json::from_str(&output(&mut reader, None)).unwrap();
    let hostile = "<a&b>\"',:%\n";
    assert_eq!(
        read,
        json!({
            "junit": [
                ["kept", "passed"],
                [hostile, "failure"],
                ["waits", "error"],
                ["warns", "skipped"],
                ["waived", "skipped"],
            ],
            "sarif": [
                [hostile, "fail", "error"],
                ["waits", "open", "none"],
                ["warns", "fail", "warning"],
                ["waived", "fail", "error"],
            ],
            "code_quality": [
                [hostile, "blocker"],
                ["waits", "major"],
                ["warns", "minor"],
                ["waived", "info"],
            ],
        })
    );
    // The check itself finds what is wrong.
    let path = place.path().join("a.xml");
    let broken =
        fs::read_to_string(&path).unwrap().replacen("<testcase ", "<testcase file=\"x\" ", 1);
    fs::write(&path, broken).unwrap();
    assert!(!reader.output().unwrap().status.success());
}

#[test]
fn the_pipelines_are_what_their_services_take() {
    let Some(python) = python() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ci");
    for (file, schema, more) in [
        ("github-action/action.yml", "vendor.github-actions", &[][..]),
        ("gitlab.yml", "vendor.gitlab-ci", &["--data-transform", "gitlab-ci"]),
    ] {
        let mut check = local(python);
        check.args(["-m", "check_jsonschema", "--builtin-schema", schema]).args(more);
        output(check.arg(folder.join(file)), None);
    }
}
