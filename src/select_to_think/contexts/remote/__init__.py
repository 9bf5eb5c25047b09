"""Contexts behind a network: how a server is talked to, what it can tell, and the backend that asks it."""
