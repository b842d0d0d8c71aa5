"""An HTTP/1.1 proxy before an object store that misbehaves by a seeded schedule.

    proxy.py --upstream 127.0.0.1:9000 --seed 7 --log FILE --ready-file FILE [--rate 0.35]

Each request is drawn one of these, or passes:

  unavailable   503 SlowDown; the store never sees the request
  cut_request   the connection is closed in the middle of the request's body
  lost_answer   the store does what is asked, and the connection is closed before the answer
  cut_answer    the connection is closed in the middle of the answer's body
  slow_request  the body is read in small pieces with pauses
  slow_answer   the answer is written in small pieces with pauses

No request fails more than twice in a row, so that a client which tries again gets through. Every
request is one JSON line of the log, in the order in which they ended.
"""

import argparse
import asyncio
import json
import os
import random
from pathlib import Path

FAILING = ("unavailable", "cut_request", "lost_answer", "cut_answer")
SLOW = ("slow_request", "slow_answer")
# A failure that a client must survive, and not a store that is gone.
IN_A_ROW = 2
PIECE = 256 * 1024
PAUSE = 0.02
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>injected</Message></Error>"
)


class Cut(Exception):
    """The client closed before its request was whole."""


async def read_head(reader):
    """The first line and the headers, lower-cased, of a request or an answer."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Cut from None
        return None
    lines = head.decode("latin-1").split("\r\n")
    headers = [line.split(":", 1) for line in lines[1:] if line]
    return lines[0], [(name.strip().lower(), value.strip()) for name, value in headers]


async def read_body(reader, headers, pause):
    """The body as it came, its chunks included."""
    fields = dict(headers)
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            body += line
            if size == 0:
                while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
                    body += trailer
                return body + b"\r\n"
            body += await reader.readexactly(size + 2)
    left, body = int(fields.get("content-length", 0)), b""
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise Cut
        left -= len(piece)
        body += piece
        if pause:
            await asyncio.sleep(PAUSE)
    return body


class Proxy:
    """The schedule, the log and the way to the store."""

    def __init__(self, upstream, seed, rate, log):
        host, port = upstream.rsplit(":", 1)
        self.host, self.port = host, int(port)
        self.draw = random.Random(seed)
        self.rate = rate
        self.log = log
        self.number = 0
        self.kinds = []
        # Failures in a row, by method and target.
        self.failures = {}

    def next_kind(self, has_body):
        """Each kind once, in a drawn order, and then again: a short run sees them all."""
        fitting = [kind for kind in self.kinds if has_body or kind != "cut_request"]
        if not fitting:
            self.kinds += self.draw.sample(FAILING + SLOW, len(FAILING + SLOW))
            return self.next_kind(has_body)
        self.kinds.remove(fitting[0])
        return fitting[0]

    def fault(self, line, has_body):
        """What this request is drawn."""
        kind = self.next_kind(has_body) if self.draw.random() < self.rate else None
        key = line.rsplit(" ", 1)[0]
        if kind in FAILING and self.failures.get(key, 0) >= IN_A_ROW:
            kind = None
        self.failures[key] = self.failures.get(key, 0) + 1 if kind in FAILING else 0
        return kind

    def record(self, **entry):
        """One line of the log."""
        self.log.write(json.dumps(entry) + "\n")
        self.log.flush()

    async def serve(self, reader, writer):
        """Requests of one connection, until one of both sides closes it."""
        try:
            while await self.one(reader, writer):
                pass
        except (Cut, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def one(self, reader, writer):
        """One request; whether the connection stays open."""
        head = await read_head(reader)
        if head is None:
            return False
        line, headers = head
        fields = dict(headers)
        length = int(fields.get("content-length", 0) or 0)
        fault = self.fault(line, length > 0)
        self.number += 1
        method, target, _ = line.split(" ", 2)
        entry = {"number": self.number, "method": method, "target": target, "fault": fault}
        if fields.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault == "cut_request":
            await reader.readexactly(length // 2)
            self.record(**entry, status=None)
            return False
        body = await read_body(reader, headers, fault == "slow_request")
        if fault == "unavailable":
            writer.write(
                b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(SLOW_DOWN), SLOW_DOWN)
            )
            await writer.drain()
            self.record(**entry, status=503)
            return True
        status, answer, answer_body = await self.ask(line, headers, body)
        self.record(**entry, status=status)
        if fault == "lost_answer":
            return False
        writer.write(answer)
        if fault == "cut_answer":
            writer.write(answer_body[: len(answer_body) // 2])
            await writer.drain()
            return False
        step = max(1, len(answer_body) // 16) if fault == "slow_answer" else PIECE
        for start in range(0, len(answer_body), step):
            writer.write(answer_body[start : start + step])
            await writer.drain()
            if fault == "slow_answer":
                await asyncio.sleep(PAUSE)
        await writer.drain()
        return b"\r\nconnection: close" not in answer.lower()

    async def ask(self, line, headers, body):
        """What the store answers: status, head and body."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        kept = [(name, value) for name, value in headers if name not in ("connection", "expect")]
        kept.append(("connection", "close"))
        text = "".join(f"{name}: {value}\r\n" for name, value in kept)
        writer.write(f"{line}\r\n{text}\r\n".encode("latin-1") + body)
        await writer.drain()
        answer = await read_head(reader)
        if answer is None:
            raise Cut
        content = await reader.read(-1)
        writer.close()
        first, fields = answer
        status = int(first.split(" ")[1])
        has_length = any(name in ("content-length", "transfer-encoding") for name, _ in fields)
        kept = [(name, value) for name, value in fields if name not in ("connection", "keep-alive")]
        if not has_length:
            # Its end was the end of the connection; ours says it in advance.
            kept.append(("content-length", str(len(content))))
        text = "".join(f"{name}: {value}\r\n" for name, value in kept)
        first = "HTTP/1.1 " + first.split(" ", 1)[1]
        return status, f"{first}\r\n{text}\r\n".encode("latin-1"), content


async def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--upstream", required=True, help="host:port of the store")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.35, help="share of requests with a fault")
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--ready-file", required=True, type=Path)
    arguments = parser.parse_args()
    with arguments.log.open("w") as log:
        proxy = Proxy(arguments.upstream, arguments.seed, arguments.rate, log)
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20)
        port = server.sockets[0].getsockname()[1]
        # Renamed whole, so that nobody reads a half.
        unready = arguments.ready_file.with_suffix(".part")
        unready.write_text(f"127.0.0.1:{port}")
        os.replace(unready, arguments.ready_file)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
