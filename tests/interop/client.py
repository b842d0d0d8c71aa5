"""A client that is not ours: walks through the daemon's whole API and says what holds.

    client.py --target 127.0.0.1:50051 --pictures FOLDER [--only NAME …]
        [--authority PEM [--token-file FILE]]

One JSON line a scenario; the exit code is 0 only if all hold. The scenarios build on each other in
this order; `erase` is run for those that need its result.
"""

import argparse
import json
import sys
import time
import traceback
import uuid
from pathlib import Path

from daemon_api import OPERATIONS, UNLEARNING, Daemon, Refused, code_name, read_png
from grpc_health.v1 import health_pb2, health_pb2_grpc

MODEL = "emoji-canvas"
# Short work: a few updates of a method that measures nothing first.
SHORT = {
    "baseModel": MODEL,
    "concepts": ["cat"],
    "conceptKind": "CONCEPT_KIND_OBJECT_CLASS",
    "method": "UNLEARNING_METHOD_KSCU",
    "updates": 6,
    "seed": "7",
    "learningRate": 1e-4,
    "evaluate": False,
    "outputFormats": ["OUTPUT_FORMAT_UNET", "OUTPUT_FORMAT_DELTA"],
}
LONG = {**SHORT, "updates": 100_000, "method": "UNLEARNING_METHOD_ESD"}
FINISHED = ("SUCCEEDED", "FAILED", "CANCELLED")


class Client:
    """The scenarios, and what they leave for each other."""

    def __init__(self, daemon, pictures):
        self.daemon = daemon
        self.pictures = pictures
        # Finds this run's operations again, whatever else the daemon holds.
        self.label = f"run-{uuid.uuid4().hex[:12]}"
        self.first_request = self.request(SHORT, requestId=str(uuid.uuid4()))
        self._erased = None

    def request(self, base, **changes):
        """A request of this run."""
        return {**base, "labels": {"run": self.label, **changes.pop("labels", {})}, **changes}

    def erased(self):
        """The finished operation that the scenarios share."""
        if self._erased is None:
            self.erase()
        return self._erased

    def refused(self, code, call, *arguments, **keywords):
        """The refusal of a call that must end with this code."""
        try:
            call(*arguments, **keywords)
        except Refused as refusal:
            assert refusal.code == code, f"{refusal} and not {code}"
            assert refusal.message, "a refusal says why"
            info = refusal.details.get("ErrorInfo", {})
            assert info.get("reason") and info.get("domain"), f"no ErrorInfo in {refusal.details}"
            return refusal
        raise AssertionError(f"the call was answered and not refused with {code}")

    # Scenarios, in the order in which they run.

    def reflection(self):
        """The API is what server reflection says."""
        services = set(self.daemon.reflection.get_services())
        assert {UNLEARNING, OPERATIONS, "grpc.health.v1.Health"} <= services, services
        described = self.daemon.pool.FindServiceByName(UNLEARNING)
        methods = set(described.methods_by_name)
        assert methods == {
            "UnlearnConcept",
            "PublishResult",
            "EvaluateErasure",
            "ScoreTimesteps",
            "Generate",
            "WatchOperation",
            "ListModels",
            "GetModel",
        }, methods
        request = self.daemon.pool.FindMessageTypeByName("keystep.v1.UnlearnConceptRequest")
        return {"services": sorted(services), "request_fields": len(request.fields)}

    def health(self):
        """The standard health service says that all is served."""
        stub = health_pb2_grpc.HealthStub(self.daemon.channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        for service in ("", UNLEARNING, OPERATIONS):
            request = health_pb2.HealthCheckRequest(service=service)
            assert stub.Check(request, timeout=10).status == serving, service
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(iter(watch)).status == serving
        watch.cancel()
        return {}

    def models(self):
        """The catalogue has the built-in model and knows no other name."""
        listed = self.daemon.call(UNLEARNING, "ListModels").models
        names = [model.name for model in listed]
        assert MODEL in names, names
        model = self.daemon.call(UNLEARNING, "GetModel", {"name": MODEL}).model
        model = self.daemon.as_dict(model)
        assert model["kind"] == "MODEL_KIND_BASE", model
        assert "cat" in model["vocabulary"]["objects"], model
        missing = self.refused(
            "NOT_FOUND", self.daemon.call, UNLEARNING, "GetModel", {"name": "no-such-model"}
        )
        return {"models": names, "digest": model.get("digest"), "reason": missing.reason}

    def plan(self):
        """validate_only answers with the plan and stores nothing."""
        label = {"labels": {"run": self.label, "only": "plan"}}
        asked = {**SHORT, **label, "validateOnly": True}
        operation = self.daemon.unlearn(asked)
        assert operation.done, operation
        plan = self.daemon.as_dict(operation)["response"]["plan"]
        assert plan["updates"] == SHORT["updates"], plan
        for counted in ("unet_evaluations", "memory_bytes", "trainable_parameters"):
            assert int(plan[counted]) > 0, plan
        listed = self.list_pages('labels.only = "plan"', 10)
        assert not any(listed), "validate_only must store nothing"
        return {"plan": plan}

    def erase(self):
        """A watch that breaks is resumed without gap or repeat; the result is read."""
        submitted = self.daemon.unlearn(self.first_request)
        assert submitted.name.startswith("operations/") and not submitted.done, submitted
        before, seen = [], self.daemon.watch(submitted.name)
        for update in seen:
            before.append(update.event)
            if len(before) == 3:
                seen.cancel()
                break
        last = before[-1].sequence
        after, operation = self.daemon.watch_to_the_end(submitted.name, last)
        sequences = [event.sequence for event in before + after]
        assert sequences == list(range(1, len(sequences) + 1)), sequences
        again, _ = self.daemon.watch_to_the_end(submitted.name)
        assert again == before + after, "the log reads the same from its start"
        changes = [e.state_changed for e in again if e.WhichOneof("event") == "state_changed"]
        states = [self.daemon.state_name(change.state) for change in changes]
        assert states == ["QUEUED", "PREPARING", "RUNNING", "PUBLISHING", "SUCCEEDED"], states
        phases = {e.progress.phase for e in again if e.WhichOneof("event") == "progress"}
        assert phases, "no progress of the engine came"

        assert operation.done and operation.HasField("response"), operation
        assert operation == self.daemon.operation(submitted.name), "both ways read the same"
        shown = self.daemon.as_dict(operation)
        metadata, response = shown["metadata"], shown["response"]
        assert metadata["state"] == "JOB_STATE_SUCCEEDED", metadata
        assert metadata["labels"]["run"] == self.label, metadata
        assert metadata["concepts"] == ["cat"] and metadata["seed"] == "7", metadata
        assert int(metadata["last_sequence"]) == sequences[-1], metadata
        for when in ("create_time", "update_time", "expire_time"):
            assert metadata[when].endswith("Z"), metadata
        assert response["updates"] == SHORT["updates"] and response["key_steps"], response
        assert response["manifest_uri"].endswith("manifest.json"), response
        names = [published["uri"].rsplit("/", 1)[-1] for published in response["files"]]
        assert "delta.safetensors" in names and "README.md" in names, names
        assert "diffusion_pytorch_model.safetensors" in names, names
        self._erased = shown
        return {
            "operation": shown["name"],
            "model": response["model"],
            "manifest": response["manifest_uri"],
            "events": len(sequences),
            "files": names,
        }

    def generate(self):
        """The base and the published checkpoint draw, with previews; the same seed draws the same."""
        checkpoint = self.erased()["response"]["model"]
        listed = self.daemon.call(UNLEARNING, "ListModels").models
        assert checkpoint in [model.name for model in listed], "the checkpoint is listed"
        described = self.daemon.call(UNLEARNING, "GetModel", {"name": checkpoint}).model
        described = self.daemon.as_dict(described)
        assert described["kind"] == "MODEL_KIND_ERASED", described
        assert described["base_model"] == MODEL and described["concepts"] == ["cat"], described
        base = self.draw(MODEL, "base")
        erased = self.draw(checkpoint, "erased")
        again = self.draw(MODEL, "again")
        assert base["pictures"] == again["pictures"], "a seed draws the same picture"
        assert base["pictures"] != erased["pictures"], "the erasure changes the picture"
        assert base["previews"] and erased["previews"], "previews were asked for"
        return {"size": base["size"], "previews": len(base["previews"])}

    def draw(self, model, name):
        """Pictures and previews of a model, saved as NAME-INDEX.png."""
        request = {
            "model": model,
            "prompt": "a picture of a cat",
            "steps": 6,
            "seeds": ["3", "11"],
            "previewEverySteps": 2,
        }
        pictures, previews, steps, size = {}, [], [], None
        for answer in self.daemon.stream(UNLEARNING, "Generate", request):
            kind = answer.WhichOneof("update")
            if kind == "steps_done":
                assert answer.steps_total == 12, answer.steps_total
                steps.append(answer.steps_done)
            elif kind == "image_png":
                assert answer.image_index not in pictures, "each picture comes once"
                assert answer.seed == [3, 11][answer.image_index], answer.seed
                pictures[answer.image_index] = answer.image_png
                size = read_png(answer.image_png)
                path = self.pictures / f"{name}-{answer.image_index}.png"
                path.write_bytes(answer.image_png)
            elif kind == "preview_png":
                read_png(answer.preview_png)
                path = self.pictures / f"{name}-{answer.image_index}-preview-{len(previews)}.png"
                path.write_bytes(answer.preview_png)
                previews.append(answer.preview_png)
        assert sorted(pictures) == [0, 1], pictures.keys()
        assert steps == sorted(steps) and steps[-1] == 12, steps
        return {"pictures": pictures, "previews": previews, "size": size}

    def score(self):
        """ScoreTimesteps scores each step in order; its digest can be cited."""
        request = {
            "model": MODEL,
            "concept": "cat",
            "conceptKind": "CONCEPT_KIND_OBJECT_CLASS",
            "steps": 6,
            "trajectories": 2,
        }
        rows, summary, progress = [], None, 0
        for answer in self.daemon.stream(UNLEARNING, "ScoreTimesteps", request):
            kind = answer.WhichOneof("update")
            assert summary is None, "the summary comes last"
            if kind is None:
                rows.append(answer)
            elif kind == "summary":
                summary = answer.summary
            elif kind == "progress":
                progress += 1
        assert [row.step for row in rows] == list(range(6)), rows
        assert all(row.timestep > after.timestep for row, after in zip(rows, rows[1:])), rows
        assert progress and summary and summary.window.low < summary.window.high, summary
        assert json.loads(summary.scores_json), "the scores are JSON too"
        cited = self.request(
            SHORT,
            method="UNLEARNING_METHOD_KEYSTEP",
            scoreDigest=summary.score_digest,
            learningRate=0.03,
            validateOnly=True,
        )
        assert self.daemon.unlearn(cited).done, "the score's digest can be cited"
        return {
            "scores": [round(row.score, 4) for row in rows],
            "window": [summary.window.low, summary.window.high],
            "score_digest": summary.score_digest,
        }

    def evaluate(self):
        """EvaluateErasure judges the published checkpoint against its base, as an operation."""
        checkpoint = self.erased()["response"]["model"]
        request = {
            "baseModel": MODEL,
            "editedModel": checkpoint,
            "concept": "cat",
            "conceptKind": "CONCEPT_KIND_OBJECT_CLASS",
            "vocabulary": {"anything": "picture", "objects": ["cat", "dog"], "styles": ["flat"]},
            "targetSeeds": 1,
            "retainSeeds": 1,
            "steps": 4,
            "labels": {"run": self.label},
        }
        submitted = self.daemon.call(UNLEARNING, "EvaluateErasure", request)
        _, operation = self.daemon.watch_to_the_end(submitted.name)
        shown = self.daemon.as_dict(operation)
        assert shown["metadata"]["state"] == "JOB_STATE_SUCCEEDED", shown
        assert shown["metadata"]["edited_model"] == checkpoint, shown
        verdicts = shown["response"]["verdicts"]
        assert verdicts and all(verdict["concept"] == "cat" for verdict in verdicts), verdicts
        names = [published["uri"].rsplit("/", 1)[-1] for published in shown["response"]["files"]]
        assert {"report.json", "before-after.png"} <= set(names), names
        listed = sum(self.list_pages("kind = evaluate", 10), [])
        assert listed == [submitted.name], listed
        return {"judges": [verdict["judge"] for verdict in verdicts], "files": names}

    def cancel(self):
        """Running and waiting jobs are cancelled; a picture is drawn beside the running one."""
        running = self.daemon.unlearn(self.request(LONG, labels={"only": "cancel"}))
        waiting = self.daemon.unlearn(self.request(LONG, seed="8", labels={"only": "cancel"}))
        trained = 0
        for update in (watch := self.daemon.watch(running.name)):
            assert update.WhichOneof("update") == "event", "100000 updates take longer"
            trained = update.event.progress.iterations_done
            if trained > 0:
                watch.cancel()
                break
        position = self.daemon.as_dict(self.daemon.operation(waiting.name))["metadata"]
        assert position["state"] == "JOB_STATE_QUEUED", position
        assert position.get("queue_position", 0) <= 1, position
        started = time.monotonic()
        self.draw(MODEL, "beside")
        beside = time.monotonic() - started
        ended = []
        for name in (waiting.name, running.name):
            started = time.monotonic()
            self.daemon.call(OPERATIONS, "CancelOperation", {"name": name})
            _, operation = self.daemon.watch_to_the_end(name)
            ended.append(time.monotonic() - started)
            assert operation.HasField("error"), operation
            assert code_name(operation.error.code) == "CANCELLED", operation.error
            shown = self.daemon.as_dict(operation)
            assert shown["metadata"]["state"] == "JOB_STATE_CANCELLED", shown
        return {
            "waiting_seconds": round(ended[0], 3),
            "running_seconds": round(ended[1], 3),
            "picture_beside_it_seconds": round(beside, 3),
        }

    def idempotence(self):
        """One id is one operation; the same work is not done twice unless forced."""
        first = self.erased()
        again = self.daemon.unlearn(self.first_request)
        assert again.name == first["name"] and again.done, (again.name, first["name"])
        other = {**self.first_request, "updates": 7}
        clash = self.refused("ALREADY_EXISTS", self.daemon.unlearn, other)
        assert "ResourceInfo" in clash.details, clash.details
        waiting = self.request(LONG, requestId=str(uuid.uuid4()), seed="10")
        names = {self.daemon.unlearn(waiting).name for _ in range(3)}
        assert len(names) == 1, f"one id made {names}"
        self.daemon.call(OPERATIONS, "CancelOperation", {"name": names.pop()})
        same_work = self.daemon.unlearn(self.request(SHORT))
        assert same_work.done, "the same work is finished already"
        assert self.daemon.as_dict(same_work)["response"] == first["response"], same_work
        forced = self.daemon.unlearn(self.request(SHORT, force=True))
        assert not forced.done, "forced work is done again"
        self.daemon.call(OPERATIONS, "CancelOperation", {"name": forced.name})
        self.daemon.watch_to_the_end(forced.name)
        return {"request_id": self.first_request["requestId"], "reason": clash.reason}

    def bad_request(self):
        """All violations come at once, each with its field path."""
        wrong = {
            "requestId": "no-uuid",
            "concepts": ["cat", "", "cat"],
            "conceptKind": 0,
            "method": 99,
            "updates": 0,
            "learningRate": -1,
            "outputFormats": [0],
            "priority": 1000,
            "labels": {"": "x"},
            "destination": "s3://elsewhere/",
        }
        refusal = self.refused("INVALID_ARGUMENT", self.daemon.unlearn, wrong)
        text = " ".join(refusal.fields)
        wanted = (
            "request_id",
            "base_model",
            "concepts[1]",
            "concepts[2]",
            "concept_kind",
            "method",
            "output_formats[0]",
            "priority",
            "labels",
            "destination",
        )
        missing = [field for field in wanted if field not in text]
        assert not missing, f"{missing} is not among {refusal.fields}"
        settings = self.request(SHORT, updates=0, learningRate=-1)
        refusal_of_settings = self.refused("INVALID_ARGUMENT", self.daemon.unlearn, settings)
        assert {"updates", "learning_rate"} <= set(refusal_of_settings.fields), refusal_of_settings
        for violation in refusal.details["BadRequest"]["fieldViolations"]:
            assert violation["description"], violation
        for call, request in (
            ("Generate", {"model": MODEL, "steps": 0, "width": 7, "guidanceScale": -1}),
            ("ScoreTimesteps", {"model": MODEL, "concept": "", "steps": 1}),
        ):
            of_stream = self.refused(
                "INVALID_ARGUMENT",
                lambda: list(self.daemon.stream(UNLEARNING, call, request)),
            )
            assert len(of_stream.fields) >= 2, of_stream
        return {"fields": refusal.fields}

    def list_pages(self, narrow, size):
        """Pages of names of this run's operations."""
        pages, token = [], ""
        listed_filter = f'labels.run = "{self.label}"' + (f" AND {narrow}" if narrow else "")
        while True:
            request = {
                "name": "operations",
                "filter": listed_filter,
                "pageSize": size,
                "pageToken": token,
            }
            answer = self.daemon.call(OPERATIONS, "ListOperations", request)
            pages.append([operation.name for operation in answer.operations])
            token = answer.next_page_token
            if not token:
                return pages

    def listing(self):
        """A filter narrows the list, pages divide it without loss or repeat."""
        whole = [name for page in self.list_pages("", 100) for name in page]
        paged = self.list_pages("", 2)
        assert [name for page in paged for name in page] == whole, (paged, whole)
        assert len(whole) == len(set(whole)) and len(whole) >= 3, whole
        assert all(len(page) <= 2 for page in paged) and len(paged) >= 2, paged
        cancelled = sum(self.list_pages('labels.only = "cancel" AND state = CANCELLED', 1), [])
        assert len(cancelled) == 2 and set(cancelled) <= set(whole), cancelled
        nothing = self.list_pages('base_model = "another"', 10)
        assert nothing == [[]], nothing
        wrong = {"name": "operations", "filter": "colour = red"}
        refusal = self.refused(
            "INVALID_ARGUMENT", self.daemon.call, OPERATIONS, "ListOperations", wrong
        )
        assert refusal.fields == ["filter"], refusal
        return {"operations": len(whole), "pages": len(paged)}

    def wait(self):
        """WaitOperation ends with its time or with the operation, whichever is first."""
        long = self.daemon.unlearn(self.request(LONG, seed="9"))
        started = time.monotonic()
        request = {"name": long.name, "timeout": "0.5s"}
        waited = self.daemon.call(OPERATIONS, "WaitOperation", request)
        seconds = time.monotonic() - started
        assert not waited.done and 0.3 < seconds < 10, (waited, seconds)
        live = self.refused(
            "FAILED_PRECONDITION", self.daemon.call, OPERATIONS, "DeleteOperation", {"name": long.name}
        )
        self.daemon.call(OPERATIONS, "CancelOperation", {"name": long.name})
        waited = self.daemon.call(
            OPERATIONS, "WaitOperation", {"name": long.name, "timeout": "60s"}
        )
        assert waited.done and waited.HasField("error"), waited
        finished = self.erased()["name"]
        waited = self.daemon.call(OPERATIONS, "WaitOperation", {"name": finished})
        assert waited.done and waited.HasField("response"), waited
        return {"seconds": round(seconds, 3), "delete_while_live": live.reason}

    def delete(self):
        """A deleted operation is forgotten."""
        cancelled = sum(self.list_pages("state = CANCELLED", 10), [])
        name = cancelled[0]
        self.daemon.call(OPERATIONS, "DeleteOperation", {"name": name})
        gone = self.refused("NOT_FOUND", self.daemon.operation, name)
        self.refused("NOT_FOUND", lambda: list(self.daemon.watch(name)))
        assert name not in sum(self.list_pages("", 100), []), "it is not listed any more"
        self.refused(
            "NOT_FOUND", self.daemon.call, OPERATIONS, "CancelOperation", {"name": name}
        )
        return {"reason": gone.reason}


SCENARIOS = (
    "reflection",
    "health",
    "models",
    "plan",
    "erase",
    "generate",
    "score",
    "evaluate",
    "cancel",
    "idempotence",
    "bad_request",
    "listing",
    "wait",
    "delete",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--target", required=True, help="host:port of the daemon")
    parser.add_argument("--pictures", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--authority", type=Path, help="PEM file that vouches for the daemon: use TLS")
    parser.add_argument("--token-file", type=Path, help="bearer token, for TLS alone")
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, default=SCENARIOS)
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    authority = arguments.authority and arguments.authority.read_bytes()
    token = arguments.token_file and arguments.token_file.read_text().strip()
    client = Client(Daemon(arguments.target, authority, token), arguments.pictures)
    failed = 0
    for name in SCENARIOS:
        if name not in arguments.only:
            continue
        started = time.monotonic()
        line = {"scenario": name}
        try:
            line |= {"ok": True, **getattr(client, name)()}
        except Exception as error:  # Each scenario is reported, whatever became of the others.
            failed += 1
            trace = traceback.extract_tb(error.__traceback__)
            line |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
            line["at"] = [f"{frame.name}:{frame.lineno}" for frame in trace]
        line["seconds"] = round(time.monotonic() - started, 3)
        print(json.dumps(line), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
