"""Text -> tensors -> answers.

The ``Engine`` contract, one file for each runtime, a catalogue that names engines without importing them, the text
encoder, batch planning and padding (pure), the tasks and the ``Predictor``. Imports without torch and transformers.
Must not know transports or checkpoints.

    from nlpdeploy.runtime import load

    intent = load("model_store/intent")
    intent(["I lost my card"])
"""

from .offline import keep_offline

keep_offline()  # before anything here imports a runtime

from .predictor import Answer, Predictor, load  # noqa: E402

__all__ = ["Answer", "Predictor", "load"]
