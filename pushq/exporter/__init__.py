"""Shows pushq to the outside: /metrics, health, logs.

The exporter subscribes and reads; nothing waits for the exporter.
"""
