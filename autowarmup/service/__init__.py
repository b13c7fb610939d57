"""The service: studies over HTTP, for trials that run on other machines and in other languages."""
