"""Who may use the service, and how much of it: docs/security.md says against what."""
