"""The style explorer of notebook 07."""
