"""Submits an erasure to a Keystep server, follows it to its end, and prints the manifest's URI and
each judge's verdict. Needs grpcio and grpcio-reflection; the API is learnt from server reflection.

    python examples/client.py --server http://127.0.0.1:50051 --concept cat
    python examples/client.py --server https://keystep.example --token-file token --concept cat

Exit codes as those of `keystep`: 0 fine, 1 failed, 2 wrong use, 69 away, 77 not permitted.
"""

import argparse
import sys
import time
import urllib.parse
import uuid
from pathlib import Path

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.json_format import MessageToJson, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflection

SERVICE = "keystep.v1.UnlearningService"
KINDS = {"object": "OBJECT_CLASS", "style": "STYLE", "instance": "INSTANCE", "nudity": "NUDITY"}
EXITS = {"INVALID_ARGUMENT": 2, "UNAVAILABLE": 69, "UNAUTHENTICATED": 77, "PERMISSION_DENIED": 77}
# What a stream ends with when the server restarts or the way to it is cut.
PASSING = ("UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED")


class Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
             grpc.StreamStreamClientInterceptor):
    """Puts the token on every call, on those of reflection too."""
    def __init__(self, token):
        self.header = ("authorization", f"Bearer {token}")

    def add(self, go_on, details, request):
        return go_on(details._replace(metadata=[*(details.metadata or ()), self.header]), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = add


class Server:
    """A connection, and the messages that the server says it speaks."""
    def __init__(self, url, token=None, ca=None):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme == "https":
            self.channel = grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(ca))
        elif parts.scheme == "http" and (not token or parts.hostname in ("localhost", "127.0.0.1")):
            self.channel = grpc.insecure_channel(parts.netloc)
        else:
            raise ValueError(f"{url}: give https://HOST:PORT; a token goes over TLS or stays here")
        if token:
            self.channel = grpc.intercept_channel(self.channel, Bearer(token))
        self.pool = descriptor_pool.DescriptorPool(
            reflection.ProtoReflectionDescriptorDatabase(self.channel))

    def call(self, name, request, timeout=None):
        """The answer of a method, or an iterator over those of a streaming one."""
        method = self.pool.FindServiceByName(SERVICE).methods_by_name[name]
        asked, answer = map(GetMessageClass, (method.input_type, method.output_type))
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        start = kind(f"/{SERVICE}/{name}", asked.SerializeToString, answer.FromString)
        return start(ParseDict(request, asked()), timeout=timeout)

    def unpack_any(self, packed):
        kind = self.pool.FindMessageTypeByName(packed.type_url.rsplit("/", 1)[-1])
        return GetMessageClass(kind).FromString(packed.value)

    def follow(self, name):
        """The finished operation; a stream that breaks is taken up behind its last event."""
        states = self.pool.FindEnumTypeByName("keystep.v1.JobState").values_by_number
        after = breaks = 0
        while True:
            try:
                for update in self.call("WatchOperation", {"name": name, "afterSequence": after}):
                    if update.WhichOneof("update") == "operation":
                        return update.operation
                    after, breaks = update.event.sequence, 0
                    if update.event.WhichOneof("event") == "state_changed":
                        print(states[update.event.state_changed.state].name, file=sys.stderr)
            except grpc.RpcError as error:
                if error.code().name not in PASSING or breaks == 16:
                    raise
            breaks += 1
            time.sleep(min(0.2 * 2**breaks, 10))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--server", default="http://127.0.0.1:50051", help="its URL [%(default)s]")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token")
    parser.add_argument("--ca-file", type=Path, help="PEM file, where the system's do not do")
    parser.add_argument("--base-model", default="emoji-canvas", help="[%(default)s]")
    parser.add_argument("--concept", action="append", required=True, help="may be given again")
    parser.add_argument("--kind", choices=KINDS, default="object", help="[%(default)s]")
    given = parser.parse_args()
    # The same id with the same request is the same job: a repeated call makes no second one.
    request = {"requestId": str(uuid.uuid4()), "baseModel": given.base_model,
               "concepts": given.concept, "conceptKind": f"CONCEPT_KIND_{KINDS[given.kind]}"}
    try:
        server = Server(given.server, given.token_file and given.token_file.read_text().strip(),
                        given.ca_file and given.ca_file.read_bytes())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        operation = server.follow(server.call("UnlearnConcept", request, timeout=60).name)
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        sys.exit(EXITS.get(error.code().name, 1))
    if operation.HasField("error"):
        sys.exit(f"{operation.name} did not succeed: {operation.error.message}")
    result = server.unpack_any(operation.response)
    print(result.manifest_uri)
    for verdict in result.verdicts:
        print(MessageToJson(verdict, always_print_fields_with_no_presence=True, indent=None))


if __name__ == "__main__":
    main()
