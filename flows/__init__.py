"""Prefect: the only room that imports it. Walks the pipeline; deployments and artifacts for the UI."""
