"""The HTTP tier: what API.md says, over writing and assembly."""
