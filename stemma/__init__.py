"""stemma: training small agentic language models from scratch, with a pedigree for every token."""

__version__ = "0.1.0"
