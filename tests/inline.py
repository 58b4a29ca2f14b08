"""A workspace whose children's work is done in this process, job and result as JSON in between as they travel."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass

from export.record import to_json
from export.task import J, R, Task
from export.worker import Done, Failed, Workspace


@dataclass(frozen=True, kw_only=True)
class InlineWorkspace(Workspace):
    """For tests that judge hundreds of artifacts: starting a process each would take seconds."""

    def run(
        self,
        task: Task[J, R],
        job: J,
        name: str,
        *,
        source_free: bool = False,
        fresh: bool = False,
        poll_s: float = 0.0,
        stop: threading.Event | None = None,
    ) -> Done[R] | Failed:
        payload = json.loads(json.dumps(to_json(job)))
        return Done(result=task.result(json.loads(json.dumps(to_json(task.from_payload(payload))))), duration_s=0.0)
