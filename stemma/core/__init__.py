"""The ground floor: artifacts, stages, lineage, ledger, progress. Imports nothing of ours, no torch, no Prefect."""
