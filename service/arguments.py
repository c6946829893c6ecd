"""The arguments of the command line: what each command takes, and how a wrong one is told."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, get_args

from service.jobs import SAMPLERS, Attention, Cache, Decoding, Detection, MaskMode
from service.settings import PREFIX, Settings

BAD_INPUT = 2  # exit code
Command = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """As argparse does, without the usage."""
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser_of(commands: Mapping[str, Command]) -> Parser:
    """The parser of all commands; `command` of what it parses is the one that was asked for."""
    parser = Parser(prog="retouch", description="Edit a generated image by editing its prompt.", allow_abbrev=False)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(subparsers.add_parser("generate", help="draw a picture from a prompt", allow_abbrev=False))
    _add_edit(subparsers.add_parser("edit", help="draw a picture, then change its words", allow_abbrev=False))
    _add_inspect(subparsers.add_parser("inspect", help="list the recordings on the disk", allow_abbrev=False))
    _add_serve(subparsers.add_parser("serve", help="answer over HTTP", allow_abbrev=False))
    _add_key(subparsers.add_parser("key", help="make a key for who may use the service", allow_abbrev=False))
    for name, subparser in subparsers.choices.items():
        subparser.set_defaults(command=commands[name])
    return parser


def _add_generate(parser: Parser) -> None:
    parser.add_argument("prompt", metavar="PROMPT")
    _add_drawing(parser)


def _add_edit(parser: Parser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--source-prompt", metavar="TEXT", help="what the source shows; it is drawn first")
    source.add_argument(
        "--image-id",
        metavar="ID",
        help="the source, kept by the server or in RETOUCH_DISK_PATH; without either a server looks for the nearest",
    )
    parser.add_argument("--prompt", required=True, help="the new words")
    parser.add_argument("--mask", type=Path, dest="edit_mask", metavar="PNG", help="white may change")
    parser.add_argument("--mask-mode", choices=get_args(MaskMode), help="default: given with --mask, else detect")
    parser.add_argument("--preset", choices=["fisedit"], help="the paper's own rules")
    parser.add_argument("--detection", choices=get_args(Detection), help="how the mask is found; default: probe")
    parser.add_argument("--attention", choices=get_args(Attention))
    parser.add_argument("--dilation", type=int, help="latent positions added to the detected mask")
    parser.add_argument("--margin", type=int, help="latent positions computed beyond the mask")
    parser.add_argument("--paste-margin", type=int, help="latent positions pasted beyond the mask")
    parser.add_argument("--decoding", choices=get_args(Decoding), help="of what changes, or all; default: rows")
    parser.add_argument("--deep-every", type=int, metavar="N", help="steps of which one is complete; default: 1")
    parser.add_argument("--dry-run", action="store_true", help="stop after the mask")
    parser.add_argument("--source-out", type=Path, metavar="PNG", help="write the source there")
    parser.add_argument("--mask-out", type=Path, metavar="PNG", help="write the edit mask there")
    server = _add_drawing(parser)
    server.add_argument(
        "--min-similarity", type=float, metavar="COSINE", help="of the words of a source that is looked for"
    )


def _add_drawing(parser: Parser) -> argparse._ArgumentGroup:
    """Returns the group of what only a server does."""
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, dest="num_inference_steps", metavar="N")
    parser.add_argument("--sampler", choices=SAMPLERS)
    parser.add_argument("--guidance-scale", type=float, metavar="SCALE")
    parser.add_argument("--negative-prompt", metavar="TEXT")
    parser.add_argument("--width", type=int, metavar="PIXELS")
    parser.add_argument("--height", type=int, metavar="PIXELS")
    parser.add_argument("--cache", choices=get_args(Cache), help="of recordings; default: read_write")
    parser.add_argument("--out", type=Path, metavar="PNG", help="default: retouch-ID.png in this directory")
    parser.add_argument("--json", action="store_true", help="write the receipt to stdout")
    _add_model(parser)
    return _add_server(parser)


def _add_server(parser: Parser) -> argparse._ArgumentGroup:
    server = parser.add_argument_group("by a server, not here")
    server.add_argument("--server", metavar="URL", help="of a `retouch serve`, http://HOST:PORT")
    server.add_argument("--key", type=Path, metavar="FILE", help="that holds the key; default: what RT_KEY says")
    server.add_argument(
        "--preview-every", type=int, metavar="N", help="steps by which the bar moves; each costs the server a decoding"
    )
    server.add_argument(
        "--deadline-seconds", type=float, metavar="S", help="refused if it would take longer, ended if it does"
    )
    server.add_argument("--idempotency-key", metavar="TEXT", help="with the same one the same job is run once")
    return server


def _add_inspect(parser: Parser) -> None:
    parser.add_argument("--disk", type=Path, metavar="DIR", help="default: RETOUCH_DISK_PATH")
    parser.add_argument("--json", action="store_true", help="one JSON array, with bytes by plane, step and tier")


def _add_serve(parser: Parser) -> None:
    """Every setting is an option, too, and wins over the environment."""
    for name, field in Settings.model_fields.items():
        default = f"{PREFIX}{name.upper()} or {field.default if field.default != '' else 'empty'}"
        told = f"{field.description}; default: {default}".replace("%", "%%")
        flag = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=told)
        else:
            parser.add_argument(flag, metavar="VALUE", help=told)


def _add_key(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="whose it is: letters, digits and . _ -")


def _add_model(parser: Parser) -> None:
    parser.add_argument("--model", metavar="DIR_OR_HUB_ID", help="default: RETOUCH_MODEL or the embedded one")
    parser.add_argument("--device", help="default: RETOUCH_DEVICE or auto")
