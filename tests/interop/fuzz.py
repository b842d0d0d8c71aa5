"""Calls that nobody means well with: every method that reflection names, with messages made of
boundary values, and with bytes that are damaged on the way.

    fuzz.py --target 127.0.0.1:50051 [--examples 300] [--seconds 60 --seed 1]

Without `--seconds` the examples are always the same. With it, fresh ones are drawn until the time
is over. The exit code is 0 only if no call was answered as the server's fault and the server serves
on; otherwise the smallest call that does it is printed.
"""

import argparse
import json
import time
from collections import Counter

import grpc
from google.protobuf import descriptor, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as some

from daemon_api import OPERATIONS, UNLEARNING, Daemon

# These say that the server is at fault, or that it is gone.
FAULTS = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE"}
HEALTH = "grpc.health.v1.Health"
Field = descriptor.FieldDescriptor

# Beside what hypothesis draws: what gets past the first check, and what sits at an edge.
WORDS = [
    *("", " ", "*", "cat", "CAT", "\u0130", "\u200b", "a" * 10_000, "ab" * 32, "emoji-canvas"),
    *("operations", "operations/018f3f3e-7a4c-7c00-8000-000000000001", "a/../b"),
    *("018f3f3e-7a4c-7c00-8000-000000000001", "file:///", "file:///%00", "s3://bucket/..%2f"),
    *("state = (QUEUED OR", 'labels.a = "b"'),
]
WHOLE = [0, 1, 2, 7, 8, 63, 64, 255, 1000, 1001, *(2**bits - 1 for bits in (31, 32, 63, 64))]
# What is answered; half of the calls change one field of them.
CAT = {"concept": "cat", "conceptKind": "CONCEPT_KIND_OBJECT_CLASS"}
GOOD = {
    "UnlearnConcept": {
        "baseModel": "emoji-canvas",
        "concepts": ["cat"],
        "conceptKind": "CONCEPT_KIND_OBJECT_CLASS",
        "validateOnly": True,
    },
    "EvaluateErasure": {**CAT, "baseModel": "emoji-canvas", "editedModel": "emoji-canvas"},
    "ScoreTimesteps": {**CAT, "model": "emoji-canvas", "steps": 2, "trajectories": 1},
    "Generate": {"model": "emoji-canvas", "prompt": "a cat", "steps": 1},
    "GetModel": {"name": "emoji-canvas"},
    "ListOperations": {"name": "operations", "filter": "state = QUEUED"},
}
REAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")]


def bounded(low, high):
    edges = [number for number in WHOLE + [-number for number in WHOLE] if low <= number <= high]
    return some.sampled_from(edges) | some.integers(low, high)


SCALARS = {
    Field.TYPE_BOOL: some.booleans(),
    Field.TYPE_BYTES: some.binary(max_size=200),
    Field.TYPE_DOUBLE: some.sampled_from(REAL) | some.floats(),
    Field.TYPE_ENUM: bounded(-2, 12) | bounded(-(2**31), 2**31 - 1),
    Field.TYPE_FLOAT: some.floats(width=32),
    Field.TYPE_INT32: bounded(-(2**31), 2**31 - 1),
    Field.TYPE_INT64: bounded(-(2**63), 2**63 - 1),
    Field.TYPE_STRING: some.sampled_from(WORDS) | some.text(max_size=80),
    Field.TYPE_UINT32: bounded(0, 2**32 - 1),
    Field.TYPE_UINT64: bounded(0, 2**64 - 1),
}


@some.composite
def messages(draw, kind, start=None, most=None):
    """A message of this type: `start`, with some of its fields set, and no more than so many."""
    message = message_factory.GetMessageClass(kind)()
    if start:
        json_format.ParseDict(start, message)
    fields = some.sampled_from(list(kind.fields)) if kind.fields else some.nothing()
    for field in draw(some.lists(fields, unique=True, max_size=most)):
        inner, value = field.message_type, getattr(message, field.name)
        if inner and inner.GetOptions().map_entry:
            pair = (SCALARS[part.type] for part in inner.fields)
            value.update(draw(some.dictionaries(*pair, max_size=70)))
        elif field.is_repeated and inner:
            value.extend(draw(some.lists(messages(inner), max_size=3)))
        elif field.is_repeated:
            few = some.lists(SCALARS[field.type], max_size=4)
            value.extend(draw(few | repeated(SCALARS[field.type])))
        elif inner:
            value.CopyFrom(draw(messages(inner)))
        else:
            setattr(message, field.name, draw(SCALARS[field.type]))
    return message


def repeated(values):
    """One value very often."""
    return some.builds(lambda value, times: [value] * times, values, some.integers(0, 1100))


@some.composite
def calls(draw, methods):
    """A method, and the bytes that are sent to it."""
    method = draw(some.sampled_from(methods))
    if method.name in GOOD and draw(some.booleans()):
        message = draw(messages(method.input_type, GOOD[method.name], most=1))
    else:
        message = draw(messages(method.input_type))
    sent = message.SerializeToString()
    damage = draw(some.sampled_from(["none"] * 6 + ["cut", "flip", "splice"]))
    at = draw(some.integers(0, len(sent)))
    if damage == "cut":
        sent = sent[:at]
    elif damage == "flip" and at < len(sent):
        sent = sent[:at] + bytes([sent[at] ^ draw(some.integers(1, 255))]) + sent[at + 1 :]
    elif damage == "splice":
        sent = sent[:at] + draw(some.binary(max_size=30)) + sent[at:]
    return method, sent


class Target:
    """The server, and how it answered so far."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.answers = Counter()
        services = [UNLEARNING, OPERATIONS, HEALTH]
        found = [daemon.pool.FindServiceByName(service).methods for service in services]
        self.methods = [method for methods in found for method in methods]

    def call(self, method, sent):
        """The code that these bytes are answered with; no more than three messages are read."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.server_streaming:
                answers = self.daemon.channel.unary_stream(path)(sent, timeout=0.5)
                for _, _ in zip(range(3), answers):
                    pass
                answers.cancel()
            else:
                self.daemon.channel.unary_unary(path)(sent, timeout=10)
            code, said = "OK", ""
        except grpc.RpcError as error:
            code, said = error.code().name, error.details()
        self.answers[method.name, code] += 1
        assert code not in FAULTS, f"{path} {sent.hex()}: {code} {said}"

    def is_serving(self):
        """Whether the server is well, and none of what was asked for goes on."""
        listed = self.daemon.call(OPERATIONS, "ListOperations", {"pageSize": 1000})
        for operation in listed.operations:
            if not operation.done:
                self.daemon.call(OPERATIONS, "CancelOperation", {"name": operation.name})
        health = health_pb2_grpc.HealthStub(self.daemon.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        return answer.status == health_pb2.HealthCheckResponse.SERVING


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--target", required=True, help="host:port of the daemon")
    parser.add_argument("--examples", type=int, default=300, help="calls of a round")
    parser.add_argument("--seconds", type=float, default=0, help="draw fresh rounds for so long")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    arguments = parser.parse_args()
    target = Target(Daemon(arguments.target))
    until, number = time.monotonic() + arguments.seconds, arguments.seed
    while True:

        @seed(number)
        @settings(
            max_examples=arguments.examples,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(calls(target.methods))
        def hold(call):
            target.call(*call)

        hold()
        assert target.is_serving(), "the server is not well"
        number += 1
        if time.monotonic() >= until:
            break
    answers = {f"{name} {code}": count for (name, code), count in sorted(target.answers.items())}
    print(json.dumps({"calls": target.answers.total(), "answers": answers}))


if __name__ == "__main__":
    main()
