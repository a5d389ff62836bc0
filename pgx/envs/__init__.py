"""Environments: adapters, one file a library, and what can be asked of them before anything heavy is imported."""
