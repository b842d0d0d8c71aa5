"""Submits one UnlearnConcept, watches it to its end and prints the finished operation as JSON.

    submit.py --target 127.0.0.1:50051 --request '{"baseModel": "emoji-canvas", …}'

The exit code is 0 whatever became of the job; the events' states stand under "states". With
`--remove-on-retry FILE` that file is removed once the job failed and waits for another attempt.
"""

import argparse
import json
from pathlib import Path

from daemon_api import Daemon


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--target", required=True, help="host:port of the daemon")
    parser.add_argument("--request", required=True, type=json.loads, help="the request as JSON")
    parser.add_argument("--remove-on-retry", type=Path, help="a file that is in the way")
    arguments = parser.parse_args()
    daemon = Daemon(arguments.target)
    submitted = daemon.unlearn(arguments.request)
    states, operation = [], submitted
    for update in daemon.watch(submitted.name):
        if update.WhichOneof("update") == "operation":
            operation = update.operation
        elif update.event.WhichOneof("event") == "state_changed":
            change = update.event.state_changed
            state = daemon.state_name(change.state)
            states.append({"state": state, "attempt": change.attempt})
            if state == "QUEUED" and change.attempt and arguments.remove_on_retry:
                arguments.remove_on_retry.unlink(missing_ok=True)
    print(json.dumps({**daemon.as_dict(operation), "states": states}))


if __name__ == "__main__":
    main()
