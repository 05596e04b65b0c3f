"""The store: versions, which one serves, and what a reader sees while things go wrong."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import CorruptBundle, InvalidInput, NotFound, StoreFailed
from nlpdeploy.bundle.names import split_spec
from nlpdeploy.bundle.store import Store
from support.bundles import FILES, example_manifest, publish

TESTS = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def staged(store: Store) -> list[str]:
    folder = store.root / ".staging"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def python(script: str, *arguments: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


# -- versions and which one serves ------------------------------------------------------------------------------------


def test_published_bundle_is_resolved_read_and_verified(store: Store) -> None:
    reference = publish(store)
    assert (str(reference), reference.path) == ("intent/1", store.root / "intent/1")
    assert store.resolve("intent") == store.resolve("intent:1") == store.resolve("intent/1") == reference
    assert (store.names(), store.versions("intent")) == (["intent"], [1])
    assert set(store.verify("intent").files) == set(FILES)
    assert store.manifest("intent").digest == store.verify("intent").digest
    assert staged(store) == []


def test_newest_version_serves_unless_published_without_promotion(store: Store) -> None:
    publish(store)
    publish(store, promote=False)
    assert store.resolve("intent").version == 1
    publish(store)
    assert store.resolve("intent").version == 3
    assert store.versions("intent") == [1, 2, 3]


def test_promote_and_rollback_keep_a_history(store: Store) -> None:
    for _ in range(3):
        publish(store)
    store.promote("intent:1")
    assert store.resolve("intent").version == 1
    assert store.rollback("intent").version == 3
    assert store.rollback("intent").version == 1
    current = store.current("intent")
    assert current is not None
    assert [(version, why) for version, _, why in current.history] == [
        (1, "published"), (2, "published"), (3, "published"),
        (1, "promoted"), (3, "rolled back from 1"), (1, "rolled back from 3"),
    ]  # fmt: skip


def test_rollback_skips_deleted_versions_and_ends_with_a_sentence(store: Store) -> None:
    for _ in range(3):
        publish(store)
    store.delete("intent:2")
    assert store.rollback("intent").version == 1
    store.delete("intent:3")
    with pytest.raises(NotFound, match="an earlier version of 'intent' to roll back to"):
        store.rollback("intent")


def test_corrupt_version_is_not_promoted(store: Store) -> None:
    first = publish(store)
    publish(store)
    (first.path / "config.json").write_text("{}")
    with pytest.raises(CorruptBundle, match=r"changed: config\.json"):
        store.promote("intent:1")
    assert store.resolve("intent").version == 2


def test_deleted_numbers_are_not_given_again(store: Store) -> None:
    for _ in range(3):
        publish(store)
    store.promote("intent:1")
    store.delete("intent:3")
    store.delete("intent:2")
    assert publish(store).version == 4
    store.delete("intent:1")
    store.delete("intent:4")
    assert store.names() == []
    assert publish(store).version == 5
    assert staged(store) == []


def test_number_is_not_given_again_even_if_its_publisher_died_before_it_was_noted(store: Store) -> None:
    publish(store)
    (store.root / "intent/current.json").unlink()
    store.delete("intent:1")
    assert publish(store).version == 2


def test_serving_version_is_not_deleted_while_others_exist(store: Store) -> None:
    publish(store)
    publish(store)
    with pytest.raises(InvalidInput, match="the version that serves; promote another one first"):
        store.delete("intent:2")
    with pytest.raises(InvalidInput, match="wanted a version; `nlpdeploy models delete intent:N`"):
        store.delete("intent")
    assert store.versions("intent") == [1, 2]


def test_unknown_names_and_versions_are_answered_with_the_known_ones(store: Store) -> None:
    with pytest.raises(NotFound, match="found an empty store; `nlpdeploy export CKPT --name NAME` makes one"):
        store.resolve("intent")
    publish(store)
    with pytest.raises(NotFound, match=r"model 'other' in store .*; found intent"):
        store.resolve("other")
    with pytest.raises(NotFound, match=r"version 9 of model 'intent' .*; found versions 1"):
        store.resolve("intent:9")


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "", "a b", "/etc", ".staging", "x\n", "a" * 65, "名", "-x", "a\\b"]
)
def test_name_that_is_none_is_refused_everywhere(store: Store, name: str) -> None:
    with pytest.raises(InvalidInput):
        store.resolve(name)
    with pytest.raises(InvalidInput, match="model name"):
        store.versions(name)
    with pytest.raises(InvalidInput, match="model name"), store.staging(name):
        pass
    with store.staging("fine") as staging, pytest.raises(InvalidInput, match="model name"):
        store.publish(staging, dataclasses.replace(example_manifest(), name=name))
    assert list(store.root.parent.iterdir()) == [store.root]
    assert [path.name for path in store.root.iterdir()] == [".staging"]


@pytest.mark.parametrize("spec", ["x:", "x:0", "x:-1", "x:1.0", "x:one", "x:1:2", "x/../y", "x:²", "x:" + "9" * 5000])
def test_version_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput, match="a whole number from 1"):
        split_spec(spec)


def test_manifest_that_could_not_be_read_back_is_not_published(store: Store) -> None:
    manifest = dataclasses.replace(example_manifest(), created=20250131)  # type: ignore[arg-type]
    with store.staging("intent") as staging, pytest.raises(CorruptBundle, match=r"Manifest\.created; found int"):
        store.publish(staging, manifest)
    assert store.names() == []


def test_staged_link_is_refused_and_nothing_published(store: Store) -> None:
    with store.staging("intent") as staging:
        (staging.path / "passwd").symlink_to("/etc/passwd")
        with pytest.raises(CorruptBundle, match="extra: passwd"):
            store.publish(staging, example_manifest())
    assert (store.names(), staged(store)) == ([], [])


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": "x", "newest": 1, "history": []}', "\x00", "{" * 9])
def test_damaged_current_json_is_named_with_the_command_that_mends_it(store: Store, content: str) -> None:
    publish(store)
    publish(store)
    path = store.root / "intent/current.json"
    path.write_text(content)
    for attempt in (lambda: store.resolve("intent"), lambda: publish(store), lambda: store.rollback("intent")):
        with pytest.raises(StoreFailed, match=r"current\.json is damaged .*`nlpdeploy models promote intent:N`"):
            attempt()
    assert store.versions("intent") == [1, 2]
    assert store.verify("intent:1").name == "intent"
    store.promote("intent:1")
    assert store.resolve("intent").version == 1
    assert publish(store).version == 3


def test_file_in_place_of_the_store_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreFailed, match=f"store {tmp_path / 'store'}: ") as caught:
        publish(Store(tmp_path / "store"))
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreFailed, match="Not a directory"):
        Store(tmp_path / "store").names()


DENIED = """
import os, sys
from pathlib import Path
from support.bundles import publish
from nlpdeploy.bundle.errors import StoreFailed
from nlpdeploy.bundle.store import Store
os.setuid(65534)
store = Store(Path("store"))
for attempt in (lambda: publish(store), lambda: store.promote("intent:1"), lambda: store.delete("intent:1"),
                lambda: store.verify("secret"), lambda: store.manifest("hidden"), lambda: store.names()):
    try:
        print(attempt())
    except StoreFailed as error:
        print("StoreFailed", error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_store_without_permission_fails_with_one_line_each(store: Store) -> None:
    publish(store)
    (publish(store, "secret").path / "config.json").chmod(0)
    (publish(store, "hidden").path / "bundle.json").chmod(0)
    # The child enters the folder before it gives up root: the folders above belong to root alone.
    store.root.parent.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-c", DENIED], cwd=store.root.parent, env=environment, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line.split(" ", 1)[0] for line in lines[:5]] == ["StoreFailed"] * 5
    assert all("Permission denied" in line for line in lines[:5])
    assert "--store or $NLPDEPLOY_STORE" in lines[0]
    assert lines[5:] == ["['hidden', 'intent', 'secret']"]


def test_full_disk_publishes_nothing_and_the_next_publish_works(store: Store) -> None:
    publish(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # less than bundle.json
    try:
        with pytest.raises(StoreFailed, match="File too large"):
            publish(store, files={"config.json": b"{}"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (store.versions("intent"), staged(store)) == ([1], [])
    assert publish(store).version == 2


def test_file_system_full_at_any_point_publishes_all_or_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        store = Store(place / "store")
        publish(store)
        failures = 0
        # One page more ballast each time, so that space ends at each file in turn: staged ones, manifest, current.json.
        for pages in range(24, -1, -1):
            ballast = place / "ballast"
            try:
                ballast.write_bytes(bytes(4096 * pages))
            except OSError:
                ballast.unlink()
                continue
            before = store.versions("intent")
            try:
                version = publish(store).version
            except StoreFailed:
                failures += 1
                assert store.versions("intent") == before
            else:
                assert store.versions("intent") == [*before, version]
                store.delete(f"intent:{before[-1]}")
            assert store.verify("intent").name == "intent"
            assert staged(store) == []
            ballast.unlink()
        assert 5 < failures < 24
        publish(store)
    finally:
        subprocess.run(["umount", str(place)], check=True)


# -- several processes ------------------------------------------------------------------------------------------------

PUBLISHER = """
import sys
from pathlib import Path
from support.bundles import publish
from nlpdeploy.bundle.store import Store
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    print(publish(Store(Path(sys.argv[1])), files={"weights": sys.argv[2].encode() * 500_000}).version)
"""


def test_two_processes_publishing_one_name_at_once_get_different_versions(store: Store) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(store.root), letter],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for letter in "ab"
    ]  # fmt: skip
    for publisher in publishers:
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "ready\n"
    answers = []
    for publisher in publishers:
        assert publisher.stdin is not None
        publisher.stdin.write("\n")
        publisher.stdin.flush()
    for publisher, letter in zip(publishers, "ab", strict=True):
        out, _ = publisher.communicate()
        assert publisher.returncode == 0
        for version in map(int, out.split()):
            answers.append(version)
            assert (store.root / f"intent/{version}/weights").read_bytes()[:1].decode() == letter
            store.verify(f"intent:{version}")
    assert sorted(answers) == store.versions("intent") == list(range(1, 11))
    assert store.resolve("intent").version == 10
    assert staged(store) == []


# Forks from a small single-threaded process, so that 50 publishers cost 50 forks and not 50 interpreters.
KILLING = """
import json, os, random, signal, sys, time
from pathlib import Path
from support.bundles import publish
from nlpdeploy.bundle.errors import NotFound
from nlpdeploy.bundle.store import Store

store, chance = Store(Path(sys.argv[1])), random.Random(5)
files = {f"engines/{number}/weights": bytes([number]) * 500_000 for number in range(6)}

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid

def publish_for_ever():
    while True:
        publish(store, files=files)

def read_for_ever():
    while os.getppid() == parent:
        try:
            store.verify("intent")
        except NotFound as error:
            if "was deleted while it was read" not in str(error):
                raise

publish(store, files=files)
parent = os.getpid()
reader = child(read_for_ever)
started = time.perf_counter()
publish(store, files=files)
once = time.perf_counter() - started  # with the reader beside it, as for those that are killed
left_behind, whole = 0, 1
for _ in range(50):
    publisher = child(publish_for_ever)
    time.sleep(chance.uniform(0, 2 * once))
    os.kill(publisher, signal.SIGKILL)
    os.waitpid(publisher, 0)
    left_behind += any((store.root / ".staging").iterdir())
    for version in store.versions("intent"):
        store.verify(f"intent:{version}")
        if version != store.resolve("intent").version:
            store.delete(f"intent:{version}")
            whole += 1
ended, status = os.waitpid(reader, os.WNOHANG)
version = publish(store, files=files).version
os.kill(reader, signal.SIGKILL) if not ended else None
print(json.dumps({"reader": status, "left_behind": left_behind, "whole": whole, "version": version}))
"""


def test_kill_9_at_50_random_moments_leaves_whole_bundles_only(store: Store) -> None:
    process = python(KILLING, store.root)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    outcome = json.loads(out)
    assert outcome["reader"] == 0, err
    assert outcome["left_behind"] > 5  # the kills did strike in the middle
    assert outcome["version"] > outcome["whole"] > 2  # more than the two that nobody killed
    assert staged(store) == []
    store.verify("intent")
