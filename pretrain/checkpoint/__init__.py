"""Checkpoints: Megatron's ``dist_checkpointing`` format in a folder that is whole and verified, or absent.

Layout of one checkpoint::

    step-00000100/
        state/          Megatron's: tensors of model and optimizer, addressable from any number of ranks
        random.json     state of the random generators of each rank
        model.json      the shape of the model
        identity.json   what it was trained with and from: a resumed run has to be the same
        extra.json      the training loop's own state: step, ledger, plan position, positions of the logs
        record.json     SHA-256 of parameters and optimizer state
        manifest.json   size and SHA-256 of every file above, written last

A save copies the state (``state``), and a thread of its own writes it into a hidden neighbour, flushes every
file to disk, hashes it and renames (``saver``). A load reads every file first and compares it with the
manifest; what it holds of pickles can run no program (``pickles``).

``folder``, ``pickles``, ``chain`` and ``retention`` know files only, and import neither torch nor Megatron.
"""

from pretrain.checkpoint.folder import list_checkpoints, step_folder, step_of, verify

__all__ = ["list_checkpoints", "step_folder", "step_of", "verify"]
