"""The command line: draw and edit pictures, here or by a server, or be one.

    retouch generate "a snow mountain under a night sky"
    retouch edit --source-prompt "a red house on a meadow" --prompt "a blue house on a meadow" --out blue.png
    retouch serve
    retouch edit --server http://127.0.0.1:8000 --source-prompt "a red house" --prompt "a blue house"
    retouch edit --server http://127.0.0.1:8000 --image-id 6f1d0c2b9a --prompt "a blue house"
    retouch edit --server http://127.0.0.1:8000 --prompt "a blue house"
    retouch inspect --disk recordings
    retouch key ann

Pictures go into files, the receipt (with --json) to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 the
input cannot be done (one line names the argument), 3 the server cannot start, 130 interrupted. torch is imported by the
commands that draw here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from service.arguments import BAD_INPUT, Command, parser_of
from service.commands.drawing import edit, generate
from service.commands.fields import as_flag
from service.commands.inspecting import inspect
from service.commands.serving import key, serve
from service.commands.terminal import say
from service.errors import InputError, JobFailedError, RetouchError

DONE, FAILED, INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    commands = {"generate": generate, "edit": edit, "inspect": inspect, "serve": serve, "key": key}
    options = parser_of(commands).parse_args(arguments)
    command: Command = options.command
    try:
        command(options)
    except InputError as error:
        say(f"retouch: {as_flag(error, options)}")
        return BAD_INPUT
    except JobFailedError as error:
        say(f"retouch: {_defect(error)}")
        return FAILED
    except (RetouchError, OSError) as error:
        say(f"retouch: {error}")
        return FAILED
    except KeyboardInterrupt:
        say("retouch: interrupted")
        return INTERRUPTED
    return DONE


def _defect(error: JobFailedError) -> str:
    """A service's clients are sent to its log; of a job that ran here the traceback stands above."""
    cause = error.__cause__
    return str(error) if cause is None else f"a defect, see above: {type(cause).__name__}: {cause}"


if __name__ == "__main__":
    sys.exit(main())
