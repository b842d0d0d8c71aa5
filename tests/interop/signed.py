"""Holds a signed result against libraries that are not ours.

    signed.py statements FOLDER PUBLIC_KEY SCRATCH
    signed.py bill FOLDER

`statements` opens every envelope of provenance.intoto.jsonl with securesystemslib's DSSE, compares the
statements' subjects with the files in FOLDER, and writes to SCRATCH what each signature is of (N.pae) and
the signature (N.sig), for `openssl dgst`. `bill` validates bom.cdx.json against CycloneDX's strict schema
of the version that it names. Both print what they saw as one JSON line.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

SIGNING = {"provenance.intoto.jsonl", "pipeline/model.sig"}


def statements(folder, public_key, scratch):
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    key = SSlibKey.from_crypto(load_pem_public_key(public_key.read_bytes()))
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    files = {name: digest for name, digest in files.items() if name not in SIGNING}
    seen = []
    lines = (folder / "provenance.intoto.jsonl").read_text().splitlines()
    for number, line in enumerate(lines):
        plain = json.loads(line)
        signature = base64.b64decode(plain["signatures"][0]["sig"])
        (scratch / f"{number}.sig").write_bytes(signature)
        for signature in plain["signatures"]:
            # securesystemslib looks the key up by this hint, which ours leave empty.
            signature["keyid"] = key.keyid
        envelope = Envelope.from_dict(plain)
        envelope.verify([key], 1)
        (scratch / f"{number}.pae").write_bytes(envelope.pae())
        statement = json.loads(envelope.payload)
        assert statement["_type"] == "https://in-toto.io/Statement/v1", statement["_type"]
        subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
        assert subjects == files, set(subjects.items()) ^ set(files.items())
        seen.append(statement["predicateType"])
    return {"predicates": seen, "files": len(files)}


def bill(folder):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (folder / "bom.cdx.json").read_text()
    found = json.loads(text)
    version = SchemaVersion.from_version(found["specVersion"])
    error = JsonStrictValidator(version).validate_str(text)
    assert error is None, error
    model = found["metadata"]["component"]
    return {
        "version": found["specVersion"],
        "type": model["type"],
        "components": len(found["components"]),
    }


if __name__ == "__main__":
    verb, folder, *rest = sys.argv[1:]
    call = {"statements": statements, "bill": bill}[verb]
    print(json.dumps(call(Path(folder), *map(Path, rest))))
