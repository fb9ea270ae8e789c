"""LangGraph's checkpoints as bytes, without LangGraph."""
