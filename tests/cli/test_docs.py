"""What the pages say can be typed: command lines parse, flags exist and are explained, links lead somewhere."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from nlpdeploy.cli.main import build_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def pages():
    return {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}


def command_lines():
    """(page, line) of every command in a block, continued lines joined, prompts and comments taken off."""
    for page, text in pages().items():
        for line in text.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:    )?(?:\$ )?(nlpdeploy .*)", line)
            if found:
                yield page, re.sub(r"\s(#.*|&)$", "", found[1])


def mentions():
    """(page, words) of every command in running text."""
    for page, text in pages().items():
        for found in re.findall(r"`(nlpdeploy [^`]*)`", FENCE.sub("", text)):
            yield page, found


def subparser(words):
    """The parser that these words lead to, and the words that are left for it."""
    parser = build_parser()
    rest = list(words)
    while rest:
        nested = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        if nested is None or rest[0] not in nested.choices:
            break
        parser = nested.choices[rest.pop(0)]
    return parser, rest


def every_parser():
    queue = [("nlpdeploy", build_parser())]
    while queue:
        name, parser = queue.pop()
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                queue += [(f"{name} {word}", child) for word, child in action.choices.items()]


def options(parser):
    return {option for action in parser._actions for option in action.option_strings}


def shown_in_part(line):
    return line.endswith(" …")


@pytest.mark.parametrize(("page", "line"), [c for c in command_lines() if not shown_in_part(c[1])])
def test_a_command_line_of_a_page_parses(page, line):
    # A synopsis: what is optional is given, of alternatives the first, and once.
    words = [re.sub(r"\|.*", "", word) for word in shlex.split(re.sub(r"(?<![A-Z])\[|\](?![A-Z])|…", " ", line))]
    words = [word.replace("NAME[:VERSION", "NAME") for word in words]
    assert build_parser().parse_args(words[1:]).run


@pytest.mark.parametrize(("page", "mention"), [*mentions(), *(c for c in command_lines() if shown_in_part(c[1]))])
def test_a_command_in_running_text_exists_with_its_flags(page, mention):
    parser, rest = subparser(shlex.split(mention)[1:])
    assert parser.prog != "nlpdeploy"
    assert {word for word in rest if word.startswith("--")} <= options(parser)


@pytest.mark.parametrize(
    ("name", "parser"), list(every_parser()), ids=lambda value: value if str(value) == value else ""
)
def test_every_flag_is_explained_on_some_page(name, parser):
    text = "\n".join(pages().values())
    unexplained = [o for o in options(parser) if not re.search(re.escape(o) + r"(?![\w-])", text)]
    assert sorted(set(unexplained) - {"-h", "--help", "--version"}) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link.partition("#")[0]).exists()]
    assert missing == []
