"""Looks into buckets with the vendors' own clients, and never with ours.

    bucket.py KIND ENDPOINT make   BUCKET
    bucket.py KIND ENDPOINT upload BUCKET PREFIX FOLDER
    bucket.py KIND ENDPOINT verify BUCKET OPERATION.json

KIND is s3 or az. `verify` holds a finished operation against the bucket: every file that it names is
there with its size and SHA-256, the manifest lists the same, stands last and has the digest that was
said. It prints what it saw as one JSON line, uploads that are still open among it.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Stand-ins do not check them; Azurite's account and key are those of its manual.
S3_KEYS = {"aws_access_key_id": "interop", "aws_secret_access_key": "interop"}
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/"
    "K1SZFPTOtr/KBHBeksoGMGw=="
)


class S3:
    """A bucket of an S3 server."""

    scheme = "s3"

    def __init__(self, endpoint, bucket):
        import boto3
        from botocore.config import Config

        self.bucket = bucket
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
            **S3_KEYS,
        )

    def make(self):
        self.client.create_bucket(Bucket=self.bucket)

    def put(self, key, data):
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def get(self, key):
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def times(self):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        objects = [entry for page in pages for entry in page.get("Contents", [])]
        return {entry["Key"]: entry["LastModified"].timestamp() for entry in objects}

    def open_uploads(self):
        listed = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [upload["Key"] for upload in listed.get("Uploads", [])]

    def parts(self, key):
        head = self.client.head_object(Bucket=self.bucket, Key=key)
        # S3 ends the tag of what came in parts with their number.
        tag = head["ETag"].strip('"')
        return int(tag.split("-")[1]) if "-" in tag else 1


class Azure:
    """A container of an Azure account."""

    scheme = "az"

    def __init__(self, endpoint, bucket):
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient(
            endpoint,
            credential={"account_name": AZURITE_ACCOUNT, "account_key": AZURITE_KEY},
        )
        self.container = service.get_container_client(bucket)

    def make(self):
        self.container.create_container()

    def put(self, key, data):
        self.container.upload_blob(key, data)

    def get(self, key):
        return self.container.download_blob(key).readall()

    def times(self):
        return {blob.name: blob.last_modified.timestamp() for blob in self.container.list_blobs()}

    def open_uploads(self):
        listed = self.container.list_blobs(include=["uncommittedblobs"])
        committed = set(self.times())
        return [blob.name for blob in listed if blob.name not in committed]

    def parts(self, key):
        committed, _ = self.container.get_blob_client(key).get_block_list("all")
        return max(1, len(committed))


def upload(bucket, prefix, folder):
    """A folder's files, by their paths within it."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        bucket.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def key_of(uri, bucket):
    """The key that a URI names."""
    parts = urlsplit(uri)
    assert parts.scheme == bucket.scheme, uri
    return unquote(parts.path.lstrip("/"))


def verify(bucket, operation):
    """What an operation published, against what is there."""
    response = operation["response"]
    published = {
        key_of(file["uri"], bucket): (int(file["size_bytes"]), file["sha256"])
        for file in response["files"]
    }
    times = bucket.times()
    for key, (size, digest) in published.items():
        data = bucket.get(key)
        assert len(data) == size, f"{key} has {len(data)} bytes, said were {size}"
        assert hashlib.sha256(data).hexdigest() == digest, f"{key} has another SHA-256"
    manifest_key = key_of(response["manifest_uri"], bucket)
    data = bucket.get(manifest_key)
    assert hashlib.sha256(data).hexdigest() == response["manifest_sha256"], "the manifest's digest"
    manifest = json.loads(data)
    listed = sorted((file["size"], file["sha256"]) for file in manifest["files"])
    assert listed == sorted(published.values()), "the manifest lists other files"
    late = [key for key in published if times[key] > times[manifest_key]]
    assert not late, f"{late} came after the manifest"
    folder = manifest_key.rsplit("/", 1)[0]
    beside = set(times) - set(published) - {manifest_key}
    stray = sorted(key for key in beside if key.startswith(folder))
    return {
        "files": len(published),
        "bytes": sum(size for size, _ in published.values()),
        "in_parts": sorted(key for key in published if bucket.parts(key) > 1),
        "manifest": manifest_key,
        "stray": stray,
        "open_uploads": bucket.open_uploads(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind", choices=("s3", "az"))
    parser.add_argument("endpoint")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("make", "upload", "verify"):
        verbs.add_parser(verb).add_argument("bucket")
    verbs.choices["upload"].add_argument("prefix")
    verbs.choices["upload"].add_argument("folder", type=Path)
    verbs.choices["verify"].add_argument("operation", type=Path)
    arguments = parser.parse_args()
    bucket = {"s3": S3, "az": Azure}[arguments.kind](arguments.endpoint, arguments.bucket)
    if arguments.verb == "make":
        bucket.make()
    elif arguments.verb == "upload":
        upload(bucket, arguments.prefix, arguments.folder)
    else:
        print(json.dumps(verify(bucket, json.loads(arguments.operation.read_text()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
