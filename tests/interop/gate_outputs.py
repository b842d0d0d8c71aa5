"""Reads what `keystep gate` wrote with the readers and schemas of those that consume it.

Prints one JSON object with what was read; exit code 0 only if every file is valid.
"""

import argparse
import json
import pathlib
import re

import jsonschema
import junitparser
from lxml import etree
from sarif import loader

SCHEMAS = pathlib.Path(__file__).parent / "schemas"
HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


def read_junit(path):
    schema = etree.XMLSchema(etree.parse(SCHEMAS / "junit-10.xsd"))
    schema.assertValid(etree.parse(path))
    cases = {}
    for suite in junitparser.JUnitXml.fromfile(str(path)):
        assert suite.tests == len(list(suite)), "the suite counts its cases wrongly"
        for case in suite:
            kinds = [type(result).__name__.lower() for result in case.result]
            assert (case.classname, case.name) not in cases, "GitLab drops a case of the same names"
            cases[case.classname, case.name] = kinds[0] if kinds else "passed"
        # What stands at the suite must be what its cases come to.
        said = (suite.failures, suite.errors, suite.skipped)
        suite.update_statistics()
        assert said == (suite.failures, suite.errors, suite.skipped), said
    return [[name, kind] for (_, name), kind in cases.items()]


def read_sarif(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    schema = json.loads((SCHEMAS / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
    checker = jsonschema.FormatChecker()
    jsonschema.Draft7Validator(schema, format_checker=checker).validate(document)
    results = document["runs"][0]["results"]
    rules = document["runs"][0]["tool"]["driver"]["rules"]
    for result in results:
        # What the schema does not say: section 3.27.10, and that the index is that of the rule.
        assert result["kind"] == "fail" or result["level"] == "none", result
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"], result
        assert all(HEXADECIMAL.fullmatch(print) for print in result["partialFingerprints"].values())
    # A second reader.
    records = loader.load_sarif_file(str(path)).get_records()
    assert len(records) == len(results)
    return [[result["ruleId"], result["kind"], result["level"]] for result in results]


def read_code_quality(path):
    raw = path.read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf"), "GitLab refuses a byte-order mark"
    findings = json.loads(raw)
    for finding in findings:
        assert finding["description"] and finding["check_name"], finding
        assert HEXADECIMAL.fullmatch(finding["fingerprint"]), finding
        assert finding["severity"] in ("info", "minor", "major", "critical", "blocker"), finding
        assert finding["location"]["path"], finding
        assert finding["location"]["lines"]["begin"] >= 1, finding
    prints = [finding["fingerprint"] for finding in findings]
    assert len(set(prints)) == len(prints), "two findings are taken for one"
    return [[finding["check_name"], finding["severity"]] for finding in findings]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--junit", type=pathlib.Path, required=True)
    parser.add_argument("--sarif", type=pathlib.Path, required=True)
    parser.add_argument("--code-quality", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    read = {
        "junit": read_junit(arguments.junit),
        "sarif": read_sarif(arguments.sarif),
        "code_quality": read_code_quality(arguments.code_quality),
    }
    print(json.dumps(read))


if __name__ == "__main__":
    main()
