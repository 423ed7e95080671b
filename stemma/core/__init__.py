"""The ground floor: artifacts, stages, lineage, ledger, progress. Nothing of ours, no torch, no Prefect."""
