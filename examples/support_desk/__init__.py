"""A support desk: an agent that hands over to others, and a refund that a human has to approve; OpenAI Agents SDK."""
