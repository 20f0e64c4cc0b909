"""Serverless embeddings: one vLLM engine behind OpenAI's embeddings API, in one container process."""

__version__ = "0.1.0"
