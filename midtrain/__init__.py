"""Stages 3 (long context) and 4 (agentic), and the synthesis of agentic trajectories."""
