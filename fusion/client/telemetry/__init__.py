"""Telemetry: OpenTelemetry traces and metrics of runs, made from their events."""
