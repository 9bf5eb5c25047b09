"""The OpenAI-compatible server: one engine that steps the runtime, and the routes that speak to it."""
