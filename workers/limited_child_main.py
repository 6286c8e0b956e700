"""The child's side of `workers/limited_child.py`: limits first, then the module, then one answer."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import traceback
from typing import Any


def main() -> None:
    """Read the opening line, answer on what was standard output, and end."""
    opening = json.loads(sys.stdin.buffer.readline())
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message, default=str).encode() + b"\n")

    resource.setrlimit(resource.RLIMIT_AS, (opening["memory_bytes"], opening["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CPU, (opening["cpu_seconds"], opening["cpu_seconds"] + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (opening["file_bytes"], opening["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    from workers.outcomes import Failed

    try:
        module = importlib.import_module(opening["module"])
        result = module.run_in_child(
            opening["request"], lambda percent, message=None: answer({"progress": [percent, message]})
        )
        answer({"answer": result})
    except Failed as failed:
        answer(
            {
                "failed": {
                    "type": failed.type,
                    "title": failed.title,
                    "detail": failed.detail,
                    "retryable": failed.retryable,
                    "after_seconds": failed.after_seconds,
                    "data": failed.data,
                }
            }
        )
    except MemoryError:
        answer(
            {
                "failed": {
                    "type": "/problems/out-of-memory",
                    "title": "Out of memory",
                    "detail": "The work needed more memory than one task may use.",
                }
            }
        )
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)
    os._exit(0)


if __name__ == "__main__":
    main()
