"""Tells others when a job has ended: signed requests, tried again until they are taken. docs/monitoring.md."""
