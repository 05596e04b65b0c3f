"""A checkpoint folder is read whole or refused with one line."""

import json
import shutil

import pytest
import torch
import transformers

from nlpdeploy.bundle.digest import file_digest
from nlpdeploy.bundle.errors import InvalidInput, NotFound, Unsupported
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from support.checkpoints import (
    MODEL_TYPES,
    change_json,
    const_head,
    logits_of,
    random_classifier,
    sample_sentences,
)
from support.shared import SHARED, needs_shared


class TestWhatIsRead:
    @pytest.mark.parametrize("model_type", MODEL_TYPES)
    def test_every_architecture_answers_as_transformers_loads_it(self, model_type, tmp_path):
        folder = random_classifier(tmp_path, model_type=model_type)
        checkpoint = read_checkpoint(folder)
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ours = load_torch(checkpoint)
        for text in sample_sentences()[::12]:
            feed = tokenizer(text, truncation=True, max_length=checkpoint.model.max_length, return_tensors="pt")
            feed = {name: feed[name] for name in feed if name in checkpoint.inputs}
            with torch.no_grad():
                want = theirs(**feed).logits
                torch.testing.assert_close(ours(**feed).logits, want, atol=1e-4 * float(want.abs().max()), rtol=0)
        assert checkpoint.source.architecture == type(theirs).__name__
        assert checkpoint.source.parameters == theirs.num_parameters()
        assert checkpoint.model.labels == ("refund", "delivery", "account", "other")

    def test_digests_are_those_of_the_files(self, folder):
        source = read_checkpoint(folder).source
        assert source.weights == {"model.safetensors": file_digest(folder / "model.safetensors")}
        assert source.config == file_digest(folder / "config.json")
        assert source.versions["torch"] == torch.__version__

    @needs_shared
    def test_a_real_checkpoint_is_read_without_a_remark(self):
        checkpoint = read_checkpoint(SHARED / "checkpoints/banking77-minilm")
        assert len(checkpoint.model.labels) == 77
        assert checkpoint.source.parameters == 22_742_861
        assert checkpoint.model.max_length == 512
        assert checkpoint.notes == ()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_weights_are_widened_and_noted(self, folder, dtype):
        transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
        checkpoint = read_checkpoint(folder)
        assert {p.dtype for p in load_torch(checkpoint).parameters()} == {torch.float32}
        assert any("widened" in note for note in checkpoint.notes)
        assert logits_of(checkpoint) == [-1.5, 2.5]


class TestTrainerFolders:
    @pytest.fixture
    def output_dir(self, tmp_path):
        for step, bias in ((500, [-1.5, 2.5]), (1000, [2.5, -1.5])):
            const_head(tmp_path / f"run/checkpoint-{step}", bias)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            (tmp_path / "run/checkpoint-500" / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        return tmp_path / "run"

    def test_training_state_is_never_opened(self, output_dir):
        training_state = [p for p in (output_dir / "checkpoint-500").iterdir() if p.suffix in (".pt", ".pth", ".bin")]
        assert len(training_state) == 4
        for path in training_state:
            path.chmod(0)
        first, second = (read_checkpoint(output_dir / "checkpoint-500") for _ in range(2))
        assert logits_of(first) == logits_of(second) == [-1.5, 2.5]

    def test_the_last_checkpoint_is_taken_with_a_note(self, output_dir):
        checkpoint = read_checkpoint(output_dir)
        assert checkpoint.path == output_dir / "checkpoint-1000"
        assert any("checkpoint-1000, the last one" in note for note in checkpoint.notes)

    def test_the_best_checkpoint_is_taken_where_the_trainer_names_it(self, output_dir):
        state = {"best_model_checkpoint": "/elsewhere/run/checkpoint-500"}
        (output_dir / "checkpoint-1000/trainer_state.json").write_text(json.dumps(state))
        checkpoint = read_checkpoint(output_dir)
        assert checkpoint.path == output_dir / "checkpoint-500"
        assert any("checkpoint-500, the best" in note for note in checkpoint.notes)

    def test_the_model_saved_in_the_output_folder_itself_comes_first(self, output_dir):
        const_head(output_dir, [0.25, 0.5])
        assert logits_of(read_checkpoint(output_dir)) == [0.25, 0.5]

    def test_a_tokenizer_beside_the_checkpoints_is_used(self, output_dir):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (output_dir / "checkpoint-500" / name).rename(output_dir / name)
        checkpoint = read_checkpoint(output_dir / "checkpoint-500")
        assert any("holds no tokenizer" in note for note in checkpoint.notes)


class TestWrongFolders:
    def test_no_such_folder(self, tmp_path):
        with pytest.raises(NotFound, match="no checkpoint folder"):
            read_checkpoint(tmp_path / "none")

    def test_no_config(self, tmp_path):
        with pytest.raises(NotFound, match=r"no config\.json"):
            read_checkpoint(tmp_path)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(NotFound, match="holds no weights"):
            read_checkpoint(folder)
        (folder / "tf_model.h5").touch()
        with pytest.raises(Unsupported, match=r"tf_model\.h5"):
            read_checkpoint(folder)

    def test_an_adapter_without_its_base(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(Unsupported, match="merge"):
            read_checkpoint(tmp_path)

    @pytest.mark.parametrize("content", ["{", "[]", "", "\x00\x01"])
    def test_a_config_that_is_none(self, folder, content):
        (folder / "config.json").write_text(content)
        with pytest.raises(InvalidInput, match=r"config\.json"):
            read_checkpoint(folder)

    @pytest.mark.parametrize(
        "changes", [{"num_attention_heads": 7}, {"hidden_size": "many"}, {"hidden_act": "made_up"}]
    )
    def test_a_config_that_describes_no_model(self, folder, changes):
        change_json(folder / "config.json", **changes)
        with pytest.raises(InvalidInput, match=r"config\.json"):
            read_checkpoint(folder)

    def test_sizes_that_are_not_those_of_the_weights(self, folder):
        change_json(folder / "config.json", vocab_size=99)
        with pytest.raises(InvalidInput, match="word_embeddings"):
            read_checkpoint(folder)

    def test_no_tokenizer(self, folder):
        (folder / "tokenizer.json").unlink()
        with pytest.raises(NotFound, match="no tokenizer"):
            read_checkpoint(folder)

    def test_a_damaged_tokenizer(self, folder):
        (folder / "tokenizer.json").write_text('{"model": ')
        with pytest.raises(InvalidInput, match="tokenizer"):
            read_checkpoint(folder)

    def test_a_weights_file_that_is_not_there(self, folder):
        with pytest.raises(NotFound, match=r"other\.bin"):
            read_checkpoint(folder, weights="other.bin")

    def test_the_folder_is_left_as_it_was(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "before")
        read_checkpoint(folder)
        names = sorted(p.name for p in folder.iterdir())
        assert names == sorted(p.name for p in (tmp_path / "before").iterdir())
        assert all((folder / n).read_bytes() == (tmp_path / "before" / n).read_bytes() for n in names)
