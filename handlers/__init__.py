"""TorchServe: one handler over ``Predictor``, the packer of ``.mar`` files, a launcher with safe settings.

Must not know how texts are tokenised or engines work. Neither TorchServe nor torch is imported with this room; what
runs inside a worker (``handler`` and what it imports) needs ``bundle`` and ``runtime`` alone.
"""
