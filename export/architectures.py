"""The architectures that can be exported, and what differs between them. No weights, no files.

Adding one is a row of :data:`ARCHITECTURES`: everything else (tensor names, shapes, forward) is asked of Transformers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..bundle.errors import InvalidInput, Unsupported

CLASSIFIER_SUFFIX = "ForSequenceClassification"


@dataclass(frozen=True)
class Architecture:
    """One kind of sequence classifier.

    Attributes:
        model_type: as in ``config.json``.
        class_name: the Transformers class.
        head: name of the last weight, [classes, hidden]; its rows are the truth about the number of classes.
        position_offset: positions that no token can use: RoBERTa's start behind the pad id. None: pad id + 1.
        token_types: whether the forward takes ``token_type_ids``.
        fusible: whether ONNX Runtime has a fused operator for its attention; where not, the graph keeps it in pieces.
    """

    model_type: str
    class_name: str
    head: str
    position_offset: int | None
    token_types: bool
    fusible: bool = True

    def usable_positions(self, config: Any) -> int:
        """Tokens of a row that have a position, special tokens included.

        RoBERTa numbers the tokens from ``padding_idx + 1`` on (fairseq's habit), so 514 positions hold 512 tokens.
        """
        offset = self.position_offset if self.position_offset is not None else int(config.pad_token_id) + 1
        return int(config.max_position_embeddings) - offset

    def input_names(self, config: Any) -> tuple[str, ...]:
        """What the forward has to be given; one segment embedding for all tokens needs no segment ids."""
        segments = self.token_types and int(config.type_vocab_size) > 1
        return ("input_ids", "attention_mask", "token_type_ids") if segments else ("input_ids", "attention_mask")


ARCHITECTURES = {
    a.model_type: a
    for a in (
        Architecture("bert", "BertForSequenceClassification", "classifier.weight", 0, True),
        Architecture("roberta", "RobertaForSequenceClassification", "classifier.out_proj.weight", None, True),
        Architecture("xlm-roberta", "XLMRobertaForSequenceClassification", "classifier.out_proj.weight", None, True),
        Architecture("distilbert", "DistilBertForSequenceClassification", "classifier.weight", 0, False),
        Architecture("electra", "ElectraForSequenceClassification", "classifier.out_proj.weight", 0, True),
        # MPNet's padding_idx is 1 whatever the configuration says.
        Architecture("mpnet", "MPNetForSequenceClassification", "classifier.out_proj.weight", 2, False),
        Architecture("albert", "AlbertForSequenceClassification", "classifier.weight", 0, True),
        Architecture("deberta-v2", "DebertaV2ForSequenceClassification", "classifier.weight", 0, True, fusible=False),
        Architecture("modernbert", "ModernBertForSequenceClassification", "classifier.weight", 0, False, fusible=False),
    )
}


def architecture_of(config: Mapping[str, Any], *, task_given: bool) -> Architecture:
    """The architecture that a ``config.json`` names.

    Args:
        config: the parsed file.
        task_given: the caller named a task, so a folder that names no class may still be a classifier.

    Raises:
        InvalidInput: neither the class nor the task is known.
        Unsupported: another architecture, or a head for something else than classifying texts.
    """
    named = config.get("architectures") or []
    names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
    by_class = {a.class_name: a for a in ARCHITECTURES.values()}
    found = ARCHITECTURES.get(str(config.get("model_type"))) or next(
        (by_class[n] for n in names if n in by_class), None
    )
    if found is None:
        raise Unsupported(
            "architecture of config.json",
            found=", ".join([*names, f"model_type {config.get('model_type')}"]),
            wanted=f"a sequence classifier of model_type {', '.join(ARCHITECTURES)}",
        )
    other_heads = [
        n for n in names if "For" in n and not n.endswith((CLASSIFIER_SUFFIX, "ForMaskedLM", "ForPreTraining"))
    ]
    if other_heads:
        raise Unsupported(
            "head of config.json", found=", ".join(other_heads), wanted=f"{found.class_name}, a classifier of texts"
        )
    if not task_given and not any(n.endswith(CLASSIFIER_SUFFIX) for n in names):
        raise InvalidInput(
            "the task can't be told from config.json",
            found=f"architectures {', '.join(names) or 'absent'}",
            wanted=f"{found.class_name}",
            mend="name it with --task classification, multi-label or regression if the weights hold a trained head",
        )
    return found


def transformers() -> Any:
    """Transformers, imported late, quiet and with the model hub switched off: a checkpoint is read from disk alone."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers as library

    library.logging.set_verbosity_error()  # type: ignore[no-untyped-call, unused-ignore]
    return library


def model_config(architecture: Architecture, config: Mapping[str, Any], classes: int) -> Any:
    """The Transformers configuration object, with as many labels as the head has rows.

    Raises:
        InvalidInput: Transformers refuses the values.
    """
    transformers()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    # problem_type chooses a training loss, which takes no part in answers.
    ours = ("id2label", "label2id", "num_labels", "problem_type")
    plain = {key: value for key, value in config.items() if key not in ours}
    plain |= {
        "num_labels": classes,
        "output_attentions": False,
        "output_hidden_states": False,
        "return_dict": True,
    }
    try:
        return CONFIG_MAPPING[architecture.model_type].from_dict(plain)
    except Exception as error:  # noqa: BLE001  (each configuration class validates in its own way)
        raise InvalidInput(f"config.json holds values that Transformers refuses ({error})") from None


def build_model(architecture: Architecture, config: Any, *, attention: str, device: str = "cpu") -> Any:
    """The untrained PyTorch module in fp32; on the device ``meta`` it has names and shapes but no memory.

    Raises:
        InvalidInput: sizes that don't fit each other (a hidden size that the heads don't divide).
        Unsupported: the architecture doesn't have that kind of attention.
    """
    import torch

    models = transformers().AutoModelForSequenceClassification
    try:
        with torch.device(device):
            return models.from_config(config, dtype=torch.float32, attn_implementation=attention)
    except ImportError as error:
        raise Unsupported(f"{architecture.class_name} needs a package ({error})") from None
    except Exception as error:  # noqa: BLE001  (whatever a constructor raises on sizes it can't use)
        if attention != "eager" and "attention" in str(error):
            raise Unsupported(f"{architecture.class_name} with {attention} attention", mend="use eager") from None
        raise InvalidInput(f"config.json describes no model that can be built ({error})") from None
