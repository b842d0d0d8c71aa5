"""The daemon's API as a stranger meets it: learnt from server reflection, called with messages that
were built from what reflection said. No generated code of ours is used."""

import struct
import zlib

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

UNLEARNING = "keystep.v1.UnlearningService"
OPERATIONS = "google.longrunning.Operations"

# The details that a status may carry, by the last part of their type.
DETAILS = {
    name: getattr(error_details_pb2, name)
    for name in (
        "BadRequest",
        "ErrorInfo",
        "PreconditionFailure",
        "QuotaFailure",
        "ResourceInfo",
        "RetryInfo",
    )
}


class Refused(Exception):
    """A call that ended with another status than OK."""

    def __init__(self, error):
        self.code = error.code().name
        self.message = error.details()
        self.details = {}
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status = status_pb2.Status.FromString(value)
                self.details = unpack_details(status.details)
        super().__init__(f"{self.code}: {self.message} {self.details}")

    @property
    def reason(self):
        """The stable identifier of what went wrong."""
        return self.details.get("ErrorInfo", {}).get("reason", "")

    @property
    def fields(self):
        """The field paths of all violations."""
        violations = self.details.get("BadRequest", {}).get("fieldViolations", [])
        return [violation["field"] for violation in violations]


def unpack_details(details):
    """The details of a status, by the name of their type."""
    found = {}
    for detail in details:
        name = detail.type_url.rsplit(".", 1)[-1]
        if name in DETAILS:
            found[name] = json_format.MessageToDict(DETAILS[name].FromString(detail.value))
    return found


def code_name(number):
    """The name of a status code."""
    return code_pb2.Code.Name(number)


class Daemon:
    """A connection to a daemon, and what it says of itself."""

    def __init__(self, target, authority=None, token=None):
        if authority is None:
            self.channel = grpc.insecure_channel(target)
        else:
            credentials = grpc.ssl_channel_credentials(root_certificates=authority)
            if token is not None:
                of_calls = grpc.access_token_call_credentials(token)
                credentials = grpc.composite_channel_credentials(credentials, of_calls)
            self.channel = grpc.secure_channel(target, credentials)
        grpc.channel_ready_future(self.channel).result(timeout=30)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.reflection)

    def method(self, service, name):
        """A method's descriptor."""
        return self.pool.FindServiceByName(service).methods_by_name[name]

    def _prepare(self, service, name, request):
        method = self.method(service, name)
        request_class = message_factory.GetMessageClass(method.input_type)
        response_class = message_factory.GetMessageClass(method.output_type)
        kinds = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
        }
        kind = kinds[method.client_streaming, method.server_streaming]
        call = kind(
            f"/{service}/{name}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        return call, json_format.ParseDict(request, request_class(), descriptor_pool=self.pool)

    def call(self, service, name, request=None, timeout=60):
        """A call with one answer."""
        call, message = self._prepare(service, name, request or {})
        try:
            return call(message, timeout=timeout)
        except grpc.RpcError as error:
            raise Refused(error) from None

    def stream(self, service, name, request=None, timeout=300):
        """A call with many answers; the caller may cancel it."""
        call, message = self._prepare(service, name, request or {})
        return Stream(call(message, timeout=timeout))

    def unlearn(self, request):
        """UnlearnConcept."""
        return self.call(UNLEARNING, "UnlearnConcept", request)

    def operation(self, name):
        """GetOperation."""
        return self.call(OPERATIONS, "GetOperation", {"name": name})

    def watch(self, name, after=0):
        """WatchOperation."""
        request = {"name": name, "afterSequence": str(after)}
        return self.stream(UNLEARNING, "WatchOperation", request)

    def watch_to_the_end(self, name, after=0):
        """All events behind a point, and the finished operation."""
        events = []
        for update in self.watch(name, after):
            if update.WhichOneof("update") == "operation":
                return events, update.operation
            events.append(update.event)
        raise AssertionError(f"the watch of {name} ended without the finished operation")

    def unpack(self, packed):
        """The message in an Any."""
        descriptor = self.pool.FindMessageTypeByName(packed.type_url.rsplit("/", 1)[-1])
        return message_factory.GetMessageClass(descriptor).FromString(packed.value)

    def as_dict(self, message):
        """A message as JSON has it, what is in an Any included."""
        if message.DESCRIPTOR.full_name != "google.longrunning.Operation":
            return json_format.MessageToDict(
                message, preserving_proto_field_name=True, descriptor_pool=self.pool
            )
        shown = {"name": message.name, "done": message.done}
        if message.HasField("metadata"):
            shown["metadata"] = self.as_dict(self.unpack(message.metadata))
        if message.HasField("response"):
            shown["response"] = self.as_dict(self.unpack(message.response))
        if message.HasField("error"):
            shown["error"] = {
                "code": code_name(message.error.code),
                "message": message.error.message,
                "details": unpack_details(message.error.details),
            }
        return shown

    def state_name(self, number):
        """JOB_STATE_… without its prefix."""
        states = self.pool.FindEnumTypeByName("keystep.v1.JobState")
        return states.values_by_number[number].name.removeprefix("JOB_STATE_")


class Stream:
    """The answers of a streaming call."""

    def __init__(self, call):
        self._call = call

    def __iter__(self):
        try:
            yield from self._call
        except grpc.RpcError as error:
            raise Refused(error) from None

    def cancel(self):
        """Breaks the call off."""
        self._call.cancel()


def read_png(data):
    """Width and height of a PNG whose every chunk and whose pixels are whole."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n", "no PNG"
    position, pixels, size = 8, b"", None
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind = data[position + 4 : position + 8]
        body = data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack(">I", data[position + 8 + length : position + 12 + length])
        assert zlib.crc32(kind + body) == checksum, f"the chunk {kind} is damaged"
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        if kind == b"IDAT":
            pixels += body
        position += 12 + length
    assert kind == b"IEND" and size, "the PNG is cut off"
    assert len(zlib.decompress(pixels)) > size[0] * size[1], "pixels are missing"
    return size
