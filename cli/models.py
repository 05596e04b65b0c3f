"""``nlpdeploy models``: what is in the store, and which version serves."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..bundle.errors import NlpdeployError
from . import console

if TYPE_CHECKING:
    from ..bundle.store import Store


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("models", help="list, show, verify, prove, promote, roll back, delete bundles")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (function, argument, text) in ACTIONS.items():
        action = actions.add_parser(name, help=text)
        if argument:
            action.add_argument("model", metavar=argument)
        if name == "prove":
            action.add_argument("--engine", action="append", default=[], metavar="ID", help="default: all unproven")
            action.add_argument("--no-promote", action="store_true", help="publish, but let the present version serve")
        console.add_common(action)
        action.set_defaults(run=function)


def list_models(arguments: argparse.Namespace) -> int:
    """Every version of every name."""
    from ..bundle.store import Store

    store = Store(console.store_root(arguments))
    items = [_item(store, name, version) for name in store.names() for version in store.versions(name)]
    if arguments.json:
        console.print_json({"store": str(store.root), "models": items})
    elif not items:
        console.note(f"{store.root} is empty; `nlpdeploy export CKPT --name NAME` publishes a bundle")
    else:
        rows = [
            [i["bundle"], "yes" if i["serves"] else "", i["task"], i["default_engine"], i["digest"][:12], i["created"]]
            for i in items
        ]
        console.print_table(["bundle", "serves", "task", "engine", "digest", "created"], rows, left=range(6))
        for item in items:
            if item["problem"]:
                console.note(f"{item['bundle']}: {item['problem']}")
    return 0


def _item(store: Store, name: str, version: int) -> dict[str, Any]:
    """One line of the list; one that can't be read must not hide the others."""
    item: dict[str, Any] = dict.fromkeys(("task", "default_engine", "digest", "created"), "")
    item |= {"bundle": f"{name}/{version}", "serves": False}
    try:
        manifest = store.manifest(f"{name}:{version}")
        item |= {
            "task": str(manifest.model.task),
            "default_engine": manifest.default_engine,
            "digest": manifest.digest,
            "created": manifest.created,
        }
        item["serves"] = store.resolve(name).version == version
    except NlpdeployError as error:
        return {**item, "problem": error.line()}
    return {**item, "problem": None}


def show(arguments: argparse.Namespace) -> int:
    """The manifest of one version, its engines as a table."""
    from ..bundle.manifest import to_plain
    from ..bundle.store import Store
    from .engine_table import print_engines

    store = Store(console.store_root(arguments))
    reference = store.resolve(arguments.model)
    manifest = store.manifest(arguments.model)
    if arguments.json:
        console.print_json({"bundle": str(reference), "path": str(reference.path), **to_plain(manifest)})
        return 0
    model = manifest.model
    console.note(f"{reference}  {manifest.digest}\n{reference.path}")
    console.note(
        f"{model.task}, {model.activation} ({model.activation_source}), {len(model.labels)} labels, "
        f"{model.max_length} tokens\n{manifest.source.architecture} from {manifest.source.path}"
    )
    for text in manifest.source.notes:
        console.note(f"note: {text}")
    print_engines(manifest)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Compare every file with the manifest."""
    from ..bundle.store import Store

    store = Store(console.store_root(arguments))
    reference = store.resolve(arguments.model)
    manifest = store.verify(arguments.model)
    return _report(
        arguments, {"bundle": str(reference), "digest": manifest.digest, "files": len(manifest.files) + 1}, "verified"
    )


def prove(arguments: argparse.Namespace) -> int:
    """Run unproven engines on their hardware; a new version has them ready."""
    from ..bundle.store import Store
    from ..export.prove import prove as prove_bundle
    from .engine_table import print_engines

    store = Store(console.store_root(arguments))
    with console.Progress() as progress:
        proof = prove_bundle(
            store, arguments.model, engines=arguments.engine, promote=not arguments.no_promote, progress=progress
        )
    if not arguments.json:
        print_engines(proof.manifest)
    result = {
        "bundle": str(proof.reference),
        "path": str(proof.reference.path),
        "digest": proof.manifest.digest,
        "derived_from": proof.manifest.derived_from,
        "proven": list(proof.proven),
        "unproven": proof.elsewhere,
    }
    return _report(arguments, result, f"proven here: {', '.join(proof.proven)}")


def promote(arguments: argparse.Namespace) -> int:
    """Make a version serve."""
    return _change(arguments, "promote", "now serves")


def rollback(arguments: argparse.Namespace) -> int:
    """Make the version serve that served before."""
    return _change(arguments, "rollback", "now serves")


def delete(arguments: argparse.Namespace) -> int:
    """Remove one version."""
    return _change(arguments, "delete", "deleted")


def _change(arguments: argparse.Namespace, method: str, word: str) -> int:
    from ..bundle.store import Store

    reference = getattr(Store(console.store_root(arguments)), method)(arguments.model)
    return _report(arguments, {"bundle": str(reference), "path": str(reference.path)}, word)


def _report(arguments: argparse.Namespace, result: dict[str, Any], word: str) -> int:
    if arguments.json:
        console.print_json({**result, "result": word})
    else:
        console.note(f"{result['bundle']} {word}")
    return 0


ACTIONS: dict[str, tuple[Callable[[argparse.Namespace], int], str | None, str]] = {
    "list": (list_models, None, "every version of every name"),
    "show": (show, "NAME[:VERSION]", "one version: task, source, engines"),
    "verify": (verify, "NAME[:VERSION]", "compare every file with the manifest"),
    "prove": (prove, "NAME[:VERSION]", "run engines built for other hardware on it, and publish them as ready"),
    "promote": (promote, "NAME:VERSION", "make a version the one that serves"),
    "rollback": (rollback, "NAME", "make the version before serve again"),
    "delete": (delete, "NAME:VERSION", "remove a version that doesn't serve"),
}
