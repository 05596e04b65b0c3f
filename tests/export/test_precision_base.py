"""A model of BERT-base's size, damaged: the guilty nodes are found in few evaluations and within bounded memory."""

import json
import subprocess
import sys

import pytest
import transformers

from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.graph import export_standard
from nlpdeploy.export.passes.files import save_ir
from nlpdeploy.export.passes.standard import load_standard
from support import faults
from support.checkpoints import base_classifier, sample_sentences
from support.shared import SHARED, needs_shared

pytestmark = [
    needs_shared,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc"),
]

CHILD = """
import gc, json, sys
from pathlib import Path
import numpy as np
from nlpdeploy.bundle.specs import Activation, ModelSpec, Task
from nlpdeploy.export.answers import reference_answers
from nlpdeploy.export.emulate import Emulator
from nlpdeploy.export.grid import Case
from nlpdeploy.export.passes.standard import all_nodes, load_standard
from nlpdeploy.export.precision import choose_precision
from nlpdeploy.runtime.text import TextEncoder

file, tokenizer, texts = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
model = ModelSpec(Task.CLASSIFICATION, Activation.SOFTMAX, "test", ("a", "b", "c", "d"), False, 512, 0)
rows = TextEncoder(tokenizer, 512).encode(texts)
grid = [Case("batch 1", tuple(rows[:1])), Case("batch 4", tuple(rows[1:5]))]
graph = load_standard(file)
reference, _ = Emulator(graph, "fp16", engine_id="fp32", threads=2).engine([node.name for node in all_nodes(graph)])
answers = reference_answers(reference, grid, rows, model)
reference.close()
del graph, reference
gc.collect()
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
choice = choose_precision(file, answers, model, threads=2)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
print(json.dumps({"peak": peak, "passed": choice.parity.passed, **choice.to_plain()}))
"""


def test_few_evaluations_and_little_memory_find_the_guilty_nodes(tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHARED / "checkpoints/banking77-minilm")
    checkpoint = read_checkpoint(base_classifier(tmp_path / "base", tokenizer))
    export_standard(load_torch(checkpoint), checkpoint, tmp_path / "standard.onnx")
    graph = load_standard(tmp_path / "standard.onnx")
    guilty = faults.overflowing_values(graph, layer=7, scale=2.0**18)
    save_ir(graph, tmp_path / "damaged.onnx")
    del graph
    (tmp_path / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
    texts = sample_sentences()[:24]
    words = [sys.executable, "-c", CHILD, tmp_path / "damaged.onnx", tmp_path / "tokenizer.json", json.dumps(texts)]
    child = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=1500, check=False)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    size = sum(path.stat().st_size for path in tmp_path.glob("damaged.onnx*"))
    assert size > 430e6
    assert found["passed"]
    assert guilty <= {node["node"] for node in found["keep_fp32"]}
    assert len(found["keep_fp32"]) <= 0.05 * found["nodes"]
    assert found["evaluations"] < 40
    assert found["peak"] <= 2 * size + 1e9
