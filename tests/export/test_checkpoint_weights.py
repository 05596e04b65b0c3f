"""Weights come from the files that were named, complete, or not at all."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from nlpdeploy.bundle.digest import file_digest
from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from support.checkpoints import (
    change_json,
    logits_of,
    random_classifier,
)


class TestWeightFiles:
    def as_pickle(self, folder, **changes):
        tensors = load_file(folder / "model.safetensors") | changes
        torch.save(tensors, folder / "pytorch_model.bin")

    def test_a_bin_alone_is_read(self, folder):
        self.as_pickle(folder)
        (folder / "model.safetensors").unlink()
        checkpoint = read_checkpoint(folder)
        assert [p.name for p in checkpoint.weights] == ["pytorch_model.bin"]
        assert logits_of(checkpoint) == [-1.5, 2.5]

    @pytest.mark.parametrize("form", ["safetensors", "bin"])
    def test_shards_are_read(self, folder, form):
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        parts = {"part-1." + form: names[::2], "part-2." + form: names[1::2]}
        for file, members in parts.items():
            write = save_file if form == "safetensors" else torch.save
            write({name: tensors[name] for name in members}, folder / file)
        stem = "model.safetensors" if form == "safetensors" else "pytorch_model.bin"
        weight_map = {name: file for file, members in parts.items() for name in members}
        (folder / f"{stem}.index.json").write_text(json.dumps({"weight_map": weight_map}))
        checkpoint = read_checkpoint(folder)
        assert set(checkpoint.source.weights) == set(parts)
        assert logits_of(checkpoint) == [-1.5, 2.5]

        (folder / f"part-2.{form}").unlink()
        with pytest.raises(InvalidInput, match=f"part-2.{form}"):
            read_checkpoint(folder)

    def test_an_index_can_not_reach_out_of_its_folder(self, folder):
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"classifier.weight": "../model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(InvalidInput, match="outside its folder"):
            read_checkpoint(folder)

    def test_equal_sets_go_on(self, folder):
        self.as_pickle(folder)
        checkpoint = read_checkpoint(folder)
        assert [p.name for p in checkpoint.weights] == ["model.safetensors"]
        assert any("same weights" in note for note in checkpoint.notes)

    def test_differing_sets_are_refused_and_the_choice_is_what_is_loaded(self, folder):
        self.as_pickle(folder, **{"classifier.bias": torch.tensor([0.0, 5.0])})
        with pytest.raises(InvalidInput) as refused:
            read_checkpoint(folder)
        assert "model.safetensors and pytorch_model.bin" in str(refused.value)
        assert "--weights pytorch_model.bin" in str(refused.value)
        checkpoint = read_checkpoint(folder, weights="pytorch_model.bin")
        assert checkpoint.source.weights == {"pytorch_model.bin": file_digest(folder / "pytorch_model.bin")}
        assert logits_of(checkpoint) == [0.0, 5.0]
        assert logits_of(read_checkpoint(folder, weights="model.safetensors")) == [-1.5, 2.5]

    def test_a_training_frameworks_prefix_is_taken_off(self, folder):
        state = {f"model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
        (folder / "model.safetensors").unlink()
        whole = {"state_dict": state, "optimizer_states": [{"lr": 0.1}], "hyper_parameters": {"epochs": 3}}
        torch.save(whole, folder / "last.ckpt")
        for _ in range(2):
            assert logits_of(read_checkpoint(folder)) == [-1.5, 2.5]
        assert logits_of(read_checkpoint(folder / "last.ckpt")) == [-1.5, 2.5]

    def test_a_missing_tensor_is_named_and_never_random(self, folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors["classifier.weight"]
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(InvalidInput, match=r"lacks classifier\.weight"):
            read_checkpoint(folder)

    def test_a_layer_that_the_configuration_leaves_out_is_refused(self, tmp_path):
        folder = random_classifier(tmp_path)
        change_json(folder / "config.json", num_hidden_layers=1)
        with pytest.raises(InvalidInput, match=r"bert\.encoder\.layer\.1"):
            read_checkpoint(folder)

    def test_tensors_that_take_no_part_are_left_out_with_a_note(self, folder):
        tensors = load_file(folder / "model.safetensors")
        tensors |= {"bert.embeddings.position_ids": torch.arange(64)[None], "cls.predictions.bias": torch.zeros(3)}
        save_file(tensors, folder / "model.safetensors")
        checkpoint = read_checkpoint(folder)
        assert any("2 tensors" in note for note in checkpoint.notes)
        assert logits_of(checkpoint) == [-1.5, 2.5]

    def test_old_names_of_layer_norms_are_understood(self, folder):
        tensors = load_file(folder / "model.safetensors")
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        renamed = {}
        for name, tensor in tensors.items():
            end = next((new for new in old if name.endswith(new)), "")
            renamed[name.removesuffix(end) + old.get(end, "")] = tensor
        save_file(renamed, folder / "model.safetensors")
        assert logits_of(read_checkpoint(folder)) == [-1.5, 2.5]

    def test_a_pickle_that_runs_code_is_refused_unrun(self, folder, tmp_path):
        (folder / "model.safetensors").unlink()
        mark = tmp_path / "mark"
        torch.save({"state_dict": _Runs(str(mark))}, folder / "pytorch_model.bin")
        with pytest.raises(InvalidInput, match="weights alone") as refused:
            read_checkpoint(folder)
        assert not mark.exists()
        assert "open" in str(refused.value), "what it would have called"
        assert "weights_only" not in str(refused.value), "PyTorch's advice to run it all the same"

    def test_a_pickle_of_something_else_is_one_line(self, folder, recwarn):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}, protocol=4))
        with pytest.raises(InvalidInput, match="more than tensors, or is no pickle of PyTorch's"):
            read_checkpoint(folder)
        assert not recwarn.list

    def test_damaged_files_are_named(self, folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(InvalidInput, match=r"model\.safetensors is damaged or truncated"):
            read_checkpoint(folder)
        weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        with pytest.raises(InvalidInput, match="git lfs pull"):
            read_checkpoint(folder)
        weights.unlink()
        torch.save({"a": torch.ones(9)}, folder / "pytorch_model.bin")
        whole = (folder / "pytorch_model.bin").read_bytes()
        (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InvalidInput, match=r"pytorch_model\.bin"):
            read_checkpoint(folder)

    def test_a_nan_among_the_weights_is_named(self, folder):
        tensors = load_file(folder / "model.safetensors")
        tensors["classifier.bias"][0] = float("nan")
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(InvalidInput, match=r"classifier\.bias holds NaN"):
            load_torch(read_checkpoint(folder))


class _Runs:
    """Pickles to a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")
