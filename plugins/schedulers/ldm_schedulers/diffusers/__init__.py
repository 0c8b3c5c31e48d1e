"""The scheduler configs of diffusers, read and written without importing it: one module for each sampler of ours.

`keys` says which keys a class has and with which defaults, `schedules`, `predictions` and `spacings` translate the
groups of keys that classes share, in both directions.
"""
